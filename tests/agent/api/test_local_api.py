"""The local API: permissions, bounds, and one connection's failure is its own."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from agent.api import local_api
from agent.api.local_api import Request, Response
from agent.errors import FatalError


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Path]:
    async def handler(request: Request) -> Response:
        return Response.json(
            {"method": request.method, "path": request.path, "n": len(request.body)}
        )

    listener = local_api.bind(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(local_api.serve, listener, handler)
        yield path
        nursery.cancel_scope.cancel()


async def talk(path: Path, data: bytes) -> bytes:
    stream = await trio.open_unix_socket(str(path))
    async with stream:
        await stream.send_all(data)
        received = b""
        while chunk := await stream.receive_some(65_536):
            received += chunk
        return received


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


async def test_a_request_is_answered(path: Path) -> None:
    async with served(path):
        reply = await talk(
            path, b"GET /healthz?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
    assert reply.startswith(b"HTTP/1.1 200")
    assert b'"/healthz"' in reply


async def test_two_requests_on_one_connection_are_answered(path: Path) -> None:
    one = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
    two = b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with served(path):
        reply = await talk(path, one + two)
    assert b'"/a"' in reply
    assert b'"/b"' in reply


async def test_the_socket_is_not_for_others(path: Path) -> None:
    async with served(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o007 == 0


async def test_a_body_over_the_limit_ends_the_connection(path: Path) -> None:
    size = local_api.MAX_BODY + 1
    head = f"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    async with served(path):
        with suppress(trio.BrokenResourceError):  # the reset may come before the end
            assert await talk(path, head + b"x" * size) == b""


@pytest.mark.parametrize("junk", [b"\x16\x03\x01junk\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 100])
async def test_junk_harms_nobody_else(path: Path, junk: bytes) -> None:
    async with served(path):
        await talk(path, junk + b"\r\n\r\n")
        reply = await talk(path, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200")


async def test_a_silent_peer_is_dropped(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with served(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            with trio.fail_after(local_api.REQUEST_SECONDS + 5):
                assert await stream.receive_some(1) == b""


async def test_whoever_holds_places_and_asks_nothing_gives_way_to_whoever_asks(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with served(path), AsyncExitStack() as stack:
        silent = []
        for _ in range(local_api.MAX_CONNECTIONS + 10):
            stream = await trio.open_unix_socket(str(path))
            await stack.enter_async_context(stream)
            await stream.send_all(b"GET /")  # and no more
            silent.append(stream)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            assert (await talk(path, ask)).startswith(b"HTTP/1.1 200")
        assert await silent[0].receive_some(1) == b"", "the longest silent first"
        with trio.move_on_after(1) as scope:
            await silent[-1].receive_some(1)
        assert scope.cancelled_caught, "the newest still has its time"


async def test_requests_that_are_being_answered_give_way_to_nobody(path: Path) -> None:
    release = trio.Event()

    async def slow(_request: Request) -> Response:
        await release.wait()
        return Response.json({})

    listener = local_api.bind(path)
    ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    replies: list[bytes] = []

    async def one() -> None:
        replies.append(await talk(path, ask))

    async with trio.open_nursery() as server:
        await server.start(local_api.serve, listener, slow)
        async with trio.open_nursery() as clients:
            for _ in range(local_api.MAX_CONNECTIONS):
                clients.start_soon(one)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with suppress(trio.BrokenResourceError):
                assert await talk(path, ask) == b""
            release.set()
        server.cancel_scope.cancel()
    assert len([reply for reply in replies if reply.startswith(b"HTTP/1.1 200")]) == 64


async def test_a_peer_that_reads_nothing_is_dropped(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            with trio.fail_after(2 * local_api.SEND_SECONDS), suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(ask * 1000)


async def test_a_dead_socket_is_replaced_and_a_live_one_is_not(path: Path) -> None:
    local_api.bind(path).socket.close()
    async with served(path):
        with pytest.raises(FatalError, match="another agent answers there"):
            local_api.bind(path)


def test_something_else_in_the_way_is_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(FatalError, match="not a socket"):
        local_api.bind(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="cannot listen"):
        local_api.bind(tmp_path / ("x" * 120))


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
async def test_another_user_gets_no_answer(path: Path) -> None:
    async with served(path):
        # Somebody opened the permissions by mistake; the peer check still holds.
        path.chmod(0o777)
        path.parent.chmod(0o777)
        for parent in list(path.parents)[1:-1]:
            if not os.access(parent, os.X_OK) or stat.S_IMODE(parent.stat().st_mode) & 0o001 == 0:
                parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o001)
        script = (
            "import os,socket,sys\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "try:\n"
            "    s.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n"
            "    sys.exit(len(s.recv(1)))\n"
            "except ConnectionError: pass\n"  # at whichever of the two it is noticed
        )
        done = await trio.run_process(
            ["/usr/bin/env", "python3", "-c", script, str(path)], check=False
        )
    assert done.returncode == 0
