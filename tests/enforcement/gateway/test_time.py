"""Time limits, on a virtual clock: each has its own end."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from enforcement.http.limits import Limits
from tests.enforcement.gateway.doors import (
    STREAM_HEAD,
    UpstreamSide,
    answering,
    chunk,
    event,
    house,
    http_reply,
    request,
)

LIMITS = Limits(
    head_seconds=10,
    body_seconds=20,
    idle_seconds=30,
    connect_seconds=3,
    first_byte_seconds=40,
    upstream_idle_seconds=15,
    send_seconds=25,
    pool_seconds=12,
)


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Jumps only when nothing has moved for a while: loopback data is never overtaken."""
    return trio.testing.MockClock(autojump_threshold=0.002)


@pytest.fixture
def autojump_clock(patient_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return patient_clock


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Stopwatch:
    def __init__(self) -> None:
        self._start = trio.current_time()

    def check(self, limit: float) -> None:
        taken = trio.current_time() - self._start
        assert limit <= taken < limit + 1.5, taken


async def test_a_head_that_does_not_come_is_408(autojump_clock: object) -> None:
    async with house(limits=LIMITS) as door:
        client, watch = await door.connect(), Stopwatch()
        await client.send(b"POST /v1/chat")
        reply = await client.reply()
        assert (reply.status, reply.code) == (408, "http_head_timeout")
        watch.check(10)
        assert await client.is_closed()


async def test_a_head_that_drips_is_408_all_the_same(autojump_clock: object) -> None:
    async with house(limits=LIMITS) as door:
        client, watch = await door.connect(), Stopwatch()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in request(headers=("X: " + "x" * 1000,)):
                    await trio.sleep(1)
                    await client.send(bytes([byte]))

            nursery.start_soon(drip)
            reply = await client.reply()
            nursery.cancel_scope.cancel()
        assert reply.code == "http_head_timeout"
        watch.check(11)


async def test_a_connection_that_says_nothing_is_closed(autojump_clock: object) -> None:
    async with house(limits=LIMITS) as door:
        client, watch = await door.connect(), Stopwatch()
        assert await client.is_closed()
        watch.check(10)


async def test_a_body_that_does_not_come_is_408(autojump_clock: object) -> None:
    for wire in (
        request()[:-1],
        CHUNKED + b"5\r\na",
        CHUNKED,
    ):
        async with house(limits=LIMITS) as door:
            client, watch = await door.connect(), Stopwatch()
            await client.send(wire)
            reply = await client.reply()
            assert (reply.status, reply.code) == (408, "http_body_timeout")
            watch.check(20)
            assert door.upstream.connections == 0
            assert door.gateway.metrics.buffered_bytes == 0


async def test_a_body_that_drips_is_408_all_the_same(autojump_clock: object) -> None:
    async with house(limits=LIMITS) as door:
        client, watch = await door.connect(), Stopwatch()
        wire = request(b'{"model": "' + b"x" * 100)
        await client.send(wire[:-100])
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                while True:
                    await trio.sleep(1)
                    await client.send(b"x")

            nursery.start_soon(drip)
            assert (await client.reply()).code == "http_body_timeout"
            nursery.cancel_scope.cancel()
        watch.check(20)


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: object) -> None:
    async with house(limits=LIMITS) as door:
        client = await door.connect()
        await client.send(request())
        assert (await client.reply()).status == 200
        watch = Stopwatch()
        assert await client.is_closed()
        watch.check(30)


async def test_a_request_within_the_idle_time_begins_it_anew(autojump_clock: object) -> None:
    async with house(limits=LIMITS) as door:
        client = await door.connect()
        for _ in range(5):
            await client.send(request())
            assert (await client.reply()).status == 200
            await trio.sleep(29)


async def test_a_model_that_gives_no_reply_is_504(autojump_clock: object) -> None:
    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(b"HTTP/1.1 200 OK\r\n")  # a beginning of a head is no head
        await side.closed()

    async with house(script, limits=LIMITS) as door:
        client, watch = await door.connect(), Stopwatch()
        await client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.code) == (504, "upstream_timeout")
        watch.check(40)
        assert door.journal.records[-1].reasons == ("upstream:upstream_timeout",)
        door.upstream.script = answering(http_reply())
        await client.send(request())
        assert (await client.reply()).status == 200


async def test_a_reply_that_stops_is_504(autojump_clock: object) -> None:
    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await side.closed()

    async with house(script, limits=LIMITS) as door:
        client, watch = await door.connect(), Stopwatch()
        await client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.code) == (504, "upstream_timeout")
        watch.check(15)


async def test_a_stream_that_stops_is_cut(autojump_clock: object) -> None:
    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD)
        for _ in range(5):  # slow is not stopped
            await side.send(chunk(event("word " * 100)))
            await trio.sleep(14)
        await side.closed()

    async with house(script, limits=LIMITS) as door:
        client = await door.connect()
        await client.send(request())
        wire = await client.rest()
        assert wire.count(b"word") > 40
        assert not wire.endswith(b"0\r\n\r\n")
        assert "aborted:upstream_timeout" in door.journal.records[-1].reasons


async def test_an_unused_upstream_connection_is_closed_after_a_while(
    autojump_clock: object,
) -> None:
    async with house(limits=LIMITS) as door:
        client = await door.connect()
        for wait, connections in ((0, 1), (11, 1), (14, 2)):
            await trio.sleep(wait)
            await client.send(request())
            assert (await client.reply()).status == 200
            assert door.upstream.connections == connections
        await trio.sleep(14)
        assert door.upstream.ended == 2


async def test_a_client_that_takes_nothing_is_let_go(autojump_clock: object) -> None:
    stopped = trio.Event()

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD)
        try:
            while True:
                await side.send(chunk(event("word " * 2000)))
        finally:
            stopped.set()

    async with house(script, limits=LIMITS) as door:
        client = await door.connect()
        watch = Stopwatch()
        await client.send(request())
        await stopped.wait()
        watch.check(25)
        await trio.sleep(1)
        assert "aborted:client_stalled" in door.journal.records[-1].reasons


async def test_an_upstream_that_takes_nothing_is_504(autojump_clock: object) -> None:
    async def script(side: UpstreamSide) -> None:
        await trio.sleep_forever()

    async with house(script, limits=LIMITS) as door:
        client = await door.connect()
        body = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 7_000_000 + b'"}]}'
        await client.send(request(body))
        reply = await client.reply()
        assert (reply.status, reply.code) == (504, "upstream_timeout")


async def test_an_upstream_that_cannot_be_connected_to_is_504(autojump_clock: object) -> None:
    # A listener that never accepts, with its queue full: the kernel drops what comes.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}"
        async with house(limits=LIMITS, upstream_url=url) as door:
            client, watch = await door.connect(), Stopwatch()
            await client.send(request())
            reply = await client.reply()
            assert (reply.status, reply.code) == (504, "upstream_timeout")
            watch.check(3)
        for filler in fillers:
            filler.close()
