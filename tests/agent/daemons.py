"""The real daemon inside the test's process, on a simulated TEE whose quotes can be spoiled."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import agent.parts
from agent.api.api import Api
from agent.api.local_api import Request, Response
from agent.attesting.platform import TeePlatform, find_platform
from agent.attesting.renewal import Pace
from agent.config import load_config
from agent.daemon import Daemon
from agent.life.notify import Notifier
from attestation.tsm import Quote
from tests.processes import BUNDLE, AgentProcess


class Inside:
    """A daemon that runs, and everything that it said."""

    def __init__(self, daemon: Daemon, notified: socket.socket) -> None:
        self.daemon = daemon
        self._notified = notified
        self._lines: list[str] = []
        self.spoil: Callable[[], None] = lambda: None  # called before each quote; may raise

    def api(self, path: str) -> tuple[int, Any]:
        """One question to the local API, without its socket: status and JSON, or text."""
        api = Api(self.daemon.parts, self.daemon.parts.in_force.challenge, no_policy, no_policy)
        answer = _now(api(Request(method="GET", path=path, body=b"")))
        text = answer.body.decode()
        return answer.status, json.loads(text) if "json" in answer.content_type else text

    async def challenge(self) -> tuple[int, Any]:
        """One challenge to the local API, without its socket: status and what an error says."""
        api = Api(self.daemon.parts, self.daemon.parts.in_force.challenge, no_policy, no_policy)
        body = b'{"nonce": "00112233445566778899aabbccddeeff"}'
        answer = await api(Request(method="POST", path="/v1/passport", body=body))
        return answer.status, json.loads(answer.body) if answer.status != 200 else None

    def notified(self) -> list[str]:
        """The messages to the service manager so far. The kernel keeps ten for who is slow."""
        while True:
            try:
                self._lines += self._notified.recv(65_536).decode().split("\n")
            except BlockingIOError:
                return self._lines

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for what the real daemon does by itself."""
        with trio.fail_after(seconds):
            while not condition():
                self.notified()
                await trio.sleep(0.01)

    async def chat(self) -> tuple[int, str]:
        """One request through the gateway: status, and the error's code."""
        host, port = self.daemon.parts.gateway_address.rsplit(":", 1)
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            reply = b""
            while data := await stream.receive_some():
                reply += data
        text = reply.partition(b"\r\n\r\n")[2]
        return int(reply[9:12]), json.loads(text)["error"]["code"]


async def no_policy(request: Request) -> Response:
    raise AssertionError(f"nobody asks for {request.path} here")


def _now(answering: Any) -> Any:
    """The result of something async that does not wait."""
    try:
        answering.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


@asynccontextmanager
async def daemon_inside(
    tmp_path: Path,
    simulated_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    extra: str = "",
    tee: str = "",
    spoil: Callable[[], None] = lambda: None,
    bundle: Path = BUNDLE,
) -> AsyncIterator[Inside]:
    """A daemon whose tries follow each other quickly, until the block ends."""
    shutil.copytree(simulated_state, tmp_path / "state", dirs_exist_ok=True)
    (tmp_path / "state").chmod(0o700)
    made = AgentProcess(tmp_path, "http://127.0.0.1:9", extra=extra, tee=tee, bundle=bundle)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / "notify"))
    notified.setblocking(False)
    daemon = Daemon(
        load_config(made.config, {}), version="test", notifier=Notifier(str(tmp_path / "notify"))
    )
    inside = Inside(daemon, notified)
    inside.spoil = spoil

    def platform(*args: Any, **kwargs: Any) -> TeePlatform:
        found = find_platform(*args, **kwargs)
        real = found.fetch

        def fetch(report_data: bytes, **rest: Any) -> Quote:
            inside.spoil()
            return real(report_data, **rest)

        return dataclasses.replace(found, fetch=fetch)

    monkeypatch.setattr(agent.parts, "find_platform", platform)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.run)
            daemon.parts.renewal._pace = Pace(
                first_retry=0.05, longest_retry=0.2, closest=0.0, rest=0.0, quick_rest=0.0
            )
            yield inside
            daemon.stop("the test is over")
    finally:
        gc.unfreeze()  # the daemon froze what its start made; the process goes on without it
        notified.close()
