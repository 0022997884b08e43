"""The HTTP side against peers that are slow, silent or many, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest

from observer.app import Running
from observer.config import Limits
from observer.peers import peer
from tests.observer.conftest import Serve
from tests.observer.fake_agent import DEADLINE

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENTS = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
QUICK = Limits(http_request=0.4, http_unsent=0.4)


@dataclass
class Socket:
    """A client that does as it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def stop_reading(self) -> None:
        """From now on the kernels' buffers fill."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    async def answered(self) -> int:
        """Read one answer whole; its status."""
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            await self.reader.readexactly(length)
        return int(head.split(b" ")[1])

    async def ended(self) -> bytes:
        """What still comes until the Observer ends the connection."""
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def dial(running: Running) -> AsyncIterator[Socket]:
    reader, writer = await asyncio.open_connection(running.http.host, running.http.port)
    try:
        yield Socket(reader, writer)
    finally:
        writer.close()


def run(pages: Serve, scenario: Callable[[Running], Awaitable[None]], limits: Limits) -> None:
    async def main() -> None:
        async with pages(limits=limits) as running:
            await scenario(running)

    asyncio.run(main())


async def metric(running: Running, name: str) -> str:
    async with httpx.AsyncClient(base_url=f"http://{running.http}", timeout=DEADLINE) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(name))


DRIPPED = {
    "nothing": b"",
    "half a request line": b"GET / HT",
    "half a head": GET[:-2],
    "no end of the body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n",
}


@pytest.mark.parametrize("began", DRIPPED.values(), ids=DRIPPED)
@pytest.mark.parametrize("before", [b"", GET], ids=["at first", "after another"])
def test_a_request_that_does_not_come_whole_in_time_ends(
    pages: Serve, began: bytes, before: bytes
) -> None:
    """However steadily its bytes drip in."""

    async def scenario(running: Running) -> None:
        async with dial(running) as client:
            if before:
                await client.send(before)
                assert await client.answered() == 200
            if began:
                await client.send(began)
            elif before:
                return  # silence between requests: `http_idle`

            async def drip() -> None:
                with contextlib.suppress(ConnectionError):
                    while began:
                        await asyncio.sleep(0.05)
                        await client.send(b"a")

            dripping = asyncio.ensure_future(drip())
            await client.ended()
            dripping.cancel()
        assert await metric(running, 'lucid_observer_http_cut_total{why="request"}') == "1.0"

    run(pages, scenario, QUICK)


def test_a_connection_that_asks_again_in_time_stays(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with dial(running) as client:
            for _ in range(4):
                await client.send(GET[:10])
                await asyncio.sleep(0.15)
                await client.send(GET[10:])
                assert await client.answered() == 200
            await client.send(GET * 3)  # without waiting for the answers
            assert [await client.answered() for _ in range(3)] == [200] * 3

    run(pages, scenario, QUICK)


def test_a_connection_that_asks_nothing_more_ends(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with dial(running) as client:
            await client.send(GET)
            assert await client.answered() == 200
            assert await client.ended() == b""

    run(pages, scenario, Limits(http_idle=1))


def test_a_long_answer_is_not_cut_while_it_is_read(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with dial(running) as client:
            await client.send(EVENTS)
            await asyncio.sleep(1)  # longer than any request may take
            running.hub.alarms_changed()
            async with asyncio.timeout(DEADLINE):
                await client.reader.readuntil(b"event: alarms")

    run(pages, scenario, QUICK)


def test_a_head_has_a_size(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with dial(running) as client:
            await client.send(GET[:-2] + b"X: " + bytes(4096).replace(b"\0", b"x") + b"\r\n\r\n")
            assert await client.answered() == 200
        async with dial(running) as client:
            with contextlib.suppress(ConnectionError):
                await client.send(GET[:-2] + b"X: " + b"x" * 65_536)
            assert (await client.ended()).startswith((b"HTTP/1.1 400", b""))

    run(pages, scenario, Limits())


def test_connections_are_counted_by_address_and_in_all(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(dial(running)) for _ in range(3)]
            for client in clients:
                await client.send(GET)
                assert await client.answered() == 200
            async with dial(running) as fourth:
                said = await fourth.ended()
                assert said.startswith(b"HTTP/1.1 503 ")
                assert b"too many connections from this address" in said
            clients[0].writer.close()
            await asyncio.sleep(0.1)
            async with dial(running) as fourth:
                await fourth.send(GET)
                assert await fourth.answered() == 200
                said = await metric_by(fourth)
                assert b'lucid_observer_http_refused_total{why="address"} 1.0' in said

    run(pages, scenario, Limits(http_per_address=3))


async def metric_by(client: Socket) -> bytes:
    await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return await client.ended()


def test_all_addresses_together_have_a_bound(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with dial(running), dial(running):
            await asyncio.sleep(0.1)
            async with dial(running) as third:
                assert b"the Observer has as many connections" in await third.ended()

    run(pages, scenario, Limits(http_connections=2))


def test_a_proxy_speaks_for_many(pages: Serve) -> None:
    async def main() -> None:
        limits = Limits(http_per_address=1, event_clients_per_address=1)
        async with (
            pages(limits=limits, proxies=("127.0.0.1",)) as running,
            dial(running) as one,
            dial(running) as other,
        ):
            for client in (one, other):
                await client.send(EVENTS)
                async with asyncio.timeout(DEADLINE):
                    assert b"200 OK" in await client.reader.readline()

    asyncio.run(main())


def test_pages_that_watch_are_counted_by_address(pages: Serve) -> None:
    async def scenario(running: Running) -> None:
        async with dial(running) as one, dial(running) as other:
            await one.send(EVENTS)
            async with asyncio.timeout(DEADLINE):
                await one.reader.readuntil(b"event: hello")
            await other.send(EVENTS)
            assert await other.answered() == 503
            await other.send(GET)
            assert await other.answered() == 200
            one.writer.close()
            for _ in range(50):
                await asyncio.sleep(0.05)
                if not running.hub.clients:
                    break
            await other.send(EVENTS)
            async with asyncio.timeout(DEADLINE):
                assert b"200 OK" in await other.reader.readline()

    run(pages, scenario, Limits(event_clients_per_address=1))


def test_a_page_that_does_not_read_loses_its_place(pages: Serve) -> None:
    """By the Observer's own clock, or by the kernel's: whichever sees it first."""

    async def scenario(running: Running) -> None:
        async with dial(running) as deaf:
            deaf.stop_reading()
            await deaf.send(EVENTS)
            number = 0
            async with asyncio.timeout(DEADLINE):
                while number == 0 or running.hub.clients:
                    if running.hub.clients:
                        number += 1
                        running.hub.decisions([a_row(number * 200 + n) for n in range(200)])
                    await asyncio.sleep(0.02)

    run(pages, scenario, QUICK)


def a_row(number: int) -> dict[str, object]:
    """A row as the store gives it, with long texts."""
    texts = ("agent_id", "decision_id", "request_id", "phase", "route", "model", "principal")
    return dict.fromkeys(texts, "x" * 190) | {
        "id": number,
        "boot_id": bytes(16),
        "seq": number,
        "wall_ns": 0,
        "outcome": "proceed",
        "reasons": "[]",
        "complete": True,
    }


def test_an_answer_that_is_not_read_is_given_up(pages: Serve) -> None:
    """Also where the last of it was written long ago."""

    async def scenario(running: Running) -> None:
        async with dial(running) as deaf:
            deaf.stop_reading()
            ask = b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await deaf.send(ask * 600)  # more than the kernel keeps for both sides
            async with asyncio.timeout(DEADLINE):
                while await metric(running, "lucid_observer_http_connections") != "1.0":
                    pass

    run(pages, scenario, QUICK)


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_who_counts_as_one_peer(host: str, counted: str) -> None:
    """Whoever has one address of IPv6 mostly has the 2⁶⁴ beside it."""
    assert peer(host) == counted
