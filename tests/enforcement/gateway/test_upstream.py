"""Model servers that are down, slow, rude or malformed."""

from __future__ import annotations

import socket

import pytest
import trio

from enforcement.http.limits import Limits
from tests.enforcement.gateway.doors import (
    DONE,
    LAST,
    REPLY,
    STREAM_HEAD,
    UpstreamSide,
    answering,
    chunk,
    house,
    http_reply,
    request,
)

JSON = b"Content-Type: application/json\r\n"


def once(reply: bytes) -> object:
    """Sends these bytes as the reply and closes."""

    async def script(side: UpstreamSide) -> None:
        if await side.next() is not None:
            await side.send(reply)

    return script


async def test_an_upstream_that_is_down_is_502_and_recorded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with house(upstream_url=f"http://127.0.0.1:{port}") as door:
        client = await door.connect()
        for _ in range(2):
            await client.send(request())
            reply = await client.reply()
            assert (reply.status, reply.code) == (502, "upstream_unreachable")
            assert reply.headers["lucid-decision-id"].startswith("dec-")
        assert door.outcomes == [("request", "proceed"), ("response", "deny")] * 2
        assert door.journal.records[1].reasons == ("upstream:upstream_unreachable",)
        assert door.gateway.metrics.upstream_errors == {("upstream_unreachable",): 2}


async def test_an_upstream_whose_name_is_unknown_is_502() -> None:
    async with house(upstream_url="http://no-such-host.invalid:1") as door:
        reply = await door.ask()
        assert (reply.status, reply.code) == (502, "upstream_unreachable")


async def test_an_upstream_is_found_by_name() -> None:
    async with house() as first:
        port = int(first.gateway._door._shared.pool.authority.split(b":")[1])
        async with house(first.upstream.script, upstream_url=f"http://localhost:{port}") as door:
            assert (await door.ask()).status == 200
        assert first.upstream.connections == 1


BROKEN: dict[str, tuple[bytes, str]] = {
    "closes at once": (b"", "upstream_closed"),
    "closes inside the head": (b"HTTP/1.1 200 OK\r\nContent", "upstream_closed"),
    "closes inside the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "upstream_closed"),
    "closes inside a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        "upstream_closed",
    ),
    "closes before the last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(REPLY),
        "upstream_closed",
    ),
    "is no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "upstream_malformed"),
    "speaks with bare line feeds": (
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        "upstream_malformed",
    ),
    "gives two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "upstream_malformed",
    ),
    "gives length and coding": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "upstream_malformed",
    ),
    "answers twice": (http_reply() + http_reply(), "upstream_malformed"),
    "changes the protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "upstream_malformed",
    ),
    "sends a part": (
        http_reply(status="206 Partial Content"),
        "upstream_malformed",
    ),
    "compresses": (
        http_reply(headers=("Content-Type: application/json", "Content-Encoding: gzip")),
        "upstream_encoding",
    ),
    "compresses a stream": (
        http_reply(headers=("Content-Type: text/event-stream", "Content-Encoding: br")),
        "upstream_encoding",
    ),
    "has an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000, "upstream_head_too_large"),
    "says too much": (http_reply(b"x" * 100_001), "upstream_reply_too_large"),
    "says too much in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 60_000) * 2,
        "upstream_reply_too_large",
    ),
}


async def test_a_broken_upstream_is_502_recorded_and_its_connection_not_used_again() -> None:
    async with house(limits=Limits(reply_bytes=100_000)) as door:
        for name, (wire, code) in BROKEN.items():
            before = door.upstream.connections
            door.upstream.script = once(wire)  # type: ignore[assignment]
            client = await door.connect()
            await client.send(request())
            reply = await client.reply()
            assert (name, reply.status, reply.code) == (name, 502, code)
            record = door.journal.records[-1]
            assert (record.phase, record.outcome) == ("response", "deny")
            assert record.reasons == (f"upstream:{code}",)
            # The client's connection is sound; only the upstream's is not.
            door.upstream.script = answering(http_reply())
            await client.send(request())
            assert (await client.reply()).status == 200, name
            assert door.upstream.connections == before + 2
            door.gateway._door._shared.pool.close()
        assert sum(door.gateway.metrics.upstream_errors.values()) == len(BROKEN)


async def test_a_reply_that_ends_with_the_connection_is_read_to_its_end() -> None:
    async with house(once(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n" + REPLY)) as door:  # type: ignore[arg-type]
        for _ in range(2):
            reply = await door.ask()
            assert reply.status == 200
            assert reply.headers["content-length"] == str(len(reply.body))
        assert door.upstream.connections == 2


async def test_a_chunked_reply_is_sent_on_with_its_length() -> None:
    wire = b"HTTP/1.1 200 OK\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    wire += chunk(REPLY[:5]) + chunk(REPLY[5:]) + b"0\r\nX-Trailer: 1\r\n\r\n"
    async with house(answering(wire)) as door:
        reply = await door.ask()
        assert reply.headers["content-length"] == str(len(reply.body))
        assert "x-trailer" not in reply.headers
        assert (await door.ask()).status == 200
        assert door.upstream.connections == 1


async def test_error_replies_are_sent_on_with_their_status() -> None:
    body = b'{"error":{"message":"busy"}}'
    for status in ("429 Too Many Requests", "500 Internal Server Error", "400 Bad Request"):
        async with house(answering(http_reply(body, status=status))) as door:
            reply = await door.ask()
            assert reply.status == int(status[:3])
            assert reply.json["error"]["message"] == "busy"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_words_beside_a_status_do_not_pass(stream: bool) -> None:
    line = b"HTTP/1.1 404 no mail from bob@example.org"
    wire = line + (STREAM_HEAD + chunk(DONE) + LAST if stream else http_reply())[15:]
    async with house(answering(wire)) as door:
        client = await door.connect()
        await client.send(request(close=True))
        assert (await client.rest()).startswith(b"HTTP/1.1 404 Not Found\r\n")


async def test_a_pooled_connection_closed_meanwhile_is_not_used() -> None:
    async def script(side: UpstreamSide) -> None:
        if await side.next() is not None:
            await side.send(http_reply())  # and closes, without having said so

    async with house(script) as door:
        client = await door.connect()
        for number in range(1, 4):
            await client.send(request())
            assert (await client.reply()).status == 200
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert door.upstream.connections == number
        assert door.gateway.metrics.upstream_errors == {}


async def test_a_pooled_connection_that_spoke_unasked_is_not_used() -> None:
    """A reply put there beforehand would be taken for the answer to the next client's request."""
    poison = http_reply(b'{"choices":[{"text":"poison"}]}')

    async def script(side: UpstreamSide) -> None:
        first = True
        while await side.next() is not None:
            await side.send(http_reply())
            if first:
                first = False
                await trio.testing.wait_all_tasks_blocked(0.01)
                await side.send(poison)

    async with house(script) as door:
        for _ in range(3):
            reply = await door.ask()
            assert b"poison" not in reply.body
            await trio.testing.wait_all_tasks_blocked(0.03)
        assert door.upstream.connections == 3


async def test_a_request_is_never_sent_twice() -> None:
    """The upstream may have begun the work before it closed: 502, not a second try."""

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(http_reply())
        await side.next()  # the second request on the same connection: read, then dropped

    async with house(script) as door:
        client = await door.connect()
        await client.send(request())
        assert (await client.reply()).status == 200
        await client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.code) == (502, "upstream_closed")
        assert len(door.upstream.seen) == 2
        assert door.upstream.connections == 1


async def test_an_early_reply_to_a_large_body_is_still_seen() -> None:
    async def script(side: UpstreamSide) -> None:
        await side.stream.receive_some(100)
        await side.send(http_reply(b'{"error":{"message":"too large"}}', status="413 Too Large"))
        await trio.testing.wait_all_tasks_blocked(0.02)

    async with house(script) as door:
        client = await door.connect()
        body = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 4_000_000 + b'"}]}'
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, request(body))
            reply = await client.reply()
        assert reply.status in (413, 502)
        assert door.outcomes[0] == ("request", "proceed")


@pytest.mark.parametrize("keep", [True, False])
async def test_an_upstream_that_says_close_is_not_pooled(keep: bool) -> None:
    headers = ("Content-Type: application/json", f"Connection: {'keep-alive' if keep else 'close'}")
    async with house(answering(http_reply(headers=headers))) as door:
        for _ in range(3):
            assert (await door.ask()).status == 200
        assert door.upstream.connections == (1 if keep else 3)
