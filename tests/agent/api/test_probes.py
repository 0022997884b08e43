"""What the agent tells whoever asks over TCP: health and numbers, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from agent import setup
from agent.api import local_api
from agent.api.api import Api, Probes
from agent.api.local_api import Request, Response
from agent.errors import FatalError


class Everything:
    """Stands for the whole API: answers every request, and says for whom."""

    async def __call__(self, request: Request) -> Response:
        return Response.json({"path": request.path, "uid": request.uid})


@asynccontextmanager
async def probed() -> AsyncIterator[int]:
    sock = setup.listen("127.0.0.1:0", table="api")
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    probes = Probes(cast("Api", Everything()))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda **k: local_api.serve(listener, probes, anybody=True, **k))
        yield int(sock.getsockname()[1])
        nursery.cancel_scope.cancel()


async def ask(port: int, method: str, path: str) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_health_and_numbers_are_told_to_nobody_in_particular(path: str) -> None:
    async with probed() as port:
        reply = await ask(port, "GET", path)
    assert reply.startswith(b"HTTP/1.1 200")
    assert b'"uid": 65534' in reply


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["/v1/status", "/v1/passport", "/v1/policy", "/v1/decisions", "/", "/metrics/", "//metrics"],
)
async def test_nothing_else_is_told(method: str, path: str) -> None:
    async with probed() as port:
        reply = await ask(port, method, path)
    assert reply.startswith(b"HTTP/1.1 404")
    assert b"known: /healthz, /metrics, /readyz" in reply


def test_an_address_that_is_taken_is_named_with_its_table() -> None:
    with setup.listen("127.0.0.1:0", table="api") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FatalError, match=r"\[api\] cannot listen on") as caught:
            setup.listen(f"127.0.0.1:{port}", table="api")
    assert "api.listen" in caught.value.remedy
