"""Auditors for tests: real sockets, scripted answers, every misbehaviour."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import trio

from enforcement.auditing import Auditors, Question
from enforcement.auditors.client import AuditorSettings
from enforcement.auditors.panel import AuditorService, BundleAuditors
from enforcement.outcome import Phase
from enforcement.policy.vocabulary import Vocabulary

STAMP = "2026-01-01T00:00:00Z"


def claim(name: str, kind: str, value: object, **more: object) -> dict[str, object]:
    return {"name": name, "type": kind, "value": value, "timestamp": STAMP, **more}


def success(*claims: Mapping[str, object]) -> dict[str, object]:
    return {"status": "success", "claims": list(claims)}


def error(code: str = "INTERNAL_ERROR") -> dict[str, object]:
    return {"status": "error", "error": {"code": code, "message": "secret words of the request"}}


def question(auditors: Auditors, *texts: str, output: tuple[str, ...] | None = None) -> Question:
    """About a request, or about a reply with this `output`."""
    return Question(
        auditors=auditors,
        phase=Phase.REQUEST if output is None else Phase.RESPONSE,
        input=texts,
        output=output,
        model="m",
        principal=("User", "alice"),
        agent_id="agent",
        trace_id="0" * 32,
        request_id="req-1",
    )


@dataclass
class Peer:
    """One auditor. `answer`: the body for a question, or what to do with the connection instead."""

    answer: Callable[[dict[str, Any]], object] = lambda _: success()
    vocabulary: object = None
    health: object = field(
        default_factory=lambda: {
            "status": "healthy", "ready": True, "auditor_id": "x", "version": "1",
        }
    )  # fmt: skip
    delay: float = 0.0
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    was_asked: trio.Event = field(default_factory=trio.Event)
    connections: int = 0
    under_way: int = 0
    most_under_way: int = 0
    close_after: int | None = None  # answers, after which each connection is closed
    raw: Callable[[trio.SocketStream], Awaitable[None]] | None = None

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        protocol = h11.Connection(h11.SERVER)
        try:
            for count in range(1_000_000):
                if not await self._one(stream, protocol):
                    return
                if self.close_after is not None and count + 1 >= self.close_after:
                    return
                protocol.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass

    async def _one(self, stream: trio.SocketStream, protocol: h11.Connection) -> bool:
        body, target = b"", ""
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await stream.receive_some(65_536))
            elif isinstance(event, h11.Request):
                target = event.target.decode()
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        if target == "/claims" and self.raw is not None:
            await self.raw(stream)
            return False
        answer = await self._answer(target, body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        head = h11.Response(
            status_code=self.status,
            headers=[("content-type", "application/json"), ("content-length", str(len(data)))],
        )
        parts = [protocol.send(head), protocol.send(h11.Data(data=data))]
        await stream.send_all(b"".join(p for p in [*parts, protocol.send(h11.EndOfMessage())] if p))
        return True

    async def _answer(self, target: str, body: bytes) -> object:
        if target == "/health":
            return self.health
        if target == "/vocabulary":
            return self.vocabulary
        question = json.loads(body)
        self.asked.append(question)
        self.was_asked.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.sleep(self.delay)
        finally:
            self.under_way -= 1
        return self.answer(question)


@dataclass
class House:
    """Running auditors, and the service that asks them."""

    peers: dict[str, Peer]
    service: AuditorService
    bundle: FakeBundle
    nursery: trio.Nursery

    @property
    def auditors(self) -> BundleAuditors:
        found = self.service.for_bundle(self.bundle)
        assert found is not None
        return found

    def question(self, *texts: str, output: tuple[str, ...] | None = None) -> Question:
        return question(self.auditors, *(texts or ("hello",)), output=output)


@dataclass(frozen=True)
class FakeBundle:
    vocabulary: Vocabulary
    auditors: Mapping[str, frozenset[str]]


@asynccontextmanager
async def house(
    vocabulary: Vocabulary,
    peers: dict[str, Peer],
    *,
    labels: Mapping[str, frozenset[str]] | None = None,
    folder: Path | None = None,
    **settings: Any,
) -> AsyncIterator[House]:
    """Start the peers on loopback, or on Unix sockets in `folder`, and the service."""
    async with trio.open_nursery() as nursery:
        urls = {}
        for name, peer in peers.items():
            urls[name] = await start(nursery, peer, None if folder is None else folder / name)
        service = AuditorService(
            [AuditorSettings(name=name, url=url, **settings) for name, url in urls.items()]
        )
        await nursery.start(service.run)
        bundle = FakeBundle(
            vocabulary, {name: (labels or {}).get(name, frozenset()) for name in peers}
        )
        yield House(peers, service, bundle, nursery)
        nursery.cancel_scope.cancel()


async def start(nursery: trio.Nursery, peer: Peer, path: Path | None) -> str:
    """Serve a peer; gives its URL."""
    if path is None:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    else:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.bind(str(path))
        sock.listen(64)
        listener = trio.SocketListener(sock)
        url = f"unix:{path}"
    nursery.start_soon(trio.serve_listeners, peer.serve, [listener])
    return url


async def nowhere() -> str:
    """A URL where nobody listens."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return f"http://127.0.0.1:{port}"
