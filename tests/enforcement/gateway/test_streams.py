"""Streamed replies through the door."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.lowlevel

from enforcement.http.limits import Limits
from enforcement.outcome import Outcome
from tests.enforcement.exchanges import events, texts, when_found
from tests.enforcement.gateway.doors import (
    CHAT,
    DONE,
    LAST,
    STREAM_HEAD,
    Script,
    UpstreamSide,
    chunk,
    event,
    house,
    http_reply,
    request,
    streaming_until,
)

# Longer than what the window holds back, so that a part of it leaves early.
TEXT = "The quick brown fox jumps over the lazy dog and then sleeps for a while. " * 8
SECRET = "Please write to bob@example.com, or do not."


def streaming(*pieces: bytes, last: bytes = LAST) -> Script:
    async def script(side: UpstreamSide) -> None:
        while await side.next() is not None:
            await side.send(STREAM_HEAD)
            for piece in pieces:
                await side.send(chunk(piece))
                await trio.testing.wait_all_tasks_blocked()
            await side.send(last)
            if last != LAST:
                return

    return script


def told(text: str, size: int = 3) -> list[bytes]:
    return [event(text[i : i + size]) for i in range(0, len(text), size)] + [
        event("", finish="stop"),
        DONE,
    ]


async def test_a_stream_goes_through_and_ends_as_it_should() -> None:
    async with house(streaming(*told(TEXT))) as door:
        client = await door.connect()
        for _ in range(2):
            await client.send(request())
            reply = await client.reply()
            assert reply.status == 200
            assert reply.headers["content-type"] == "text/event-stream"
            assert texts(reply.body)[0, "content"] == TEXT
            assert events(reply.body)[-1] == "[DONE]"
        assert door.upstream.connections == 1
        assert door.outcomes == [("request", "proceed"), ("response", "proceed")] * 2
        assert door.gateway.metrics.streams == 2


async def test_text_comes_while_the_model_still_speaks() -> None:
    go_on = trio.Event()

    async with house(streaming_until(go_on, TEXT)) as door:
        client = await door.connect()
        await client.send(request())
        with trio.fail_after(5):
            while b"quick" not in client.buffer:
                await client.more()
        assert b"[DONE]" not in client.buffer
        go_on.set()
        assert events((await client.reply()).body)[-1] == "[DONE]"


async def test_the_last_bytes_leave_after_the_record_is_durable() -> None:
    async with house(streaming(*told(TEXT))) as door:
        client = await door.connect()
        await client.send(request())
        await client.more()
        door.journal.hold = trio.Event()
        with trio.fail_after(5):
            while "append response proceed" not in door.log:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert b"[DONE]" not in client.buffer
        assert not client.buffer.endswith(LAST)
        assert door.journal.hold is not None
        door.journal.hold.set()
        assert events((await client.reply()).body)[-1] == "[DONE]"


async def test_no_byte_of_a_stream_leaves_before_the_requests_record_is_durable() -> None:
    async with house(streaming(*told(TEXT))) as door:
        door.journal.hold = trio.Event()
        client = await door.connect()
        await client.send(request())
        with trio.move_on_after(0.05):
            await client.more()
        assert client.buffer == b""
        door.journal.hold.set()
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("size", [1, 2, 5, 60])
async def test_a_stream_is_redacted_however_it_is_split(size: int) -> None:
    policy = when_found(Outcome.REDACT, "email")
    script = streaming(*told(SECRET, size))
    async with house(script, policy=policy, hold_back=64) as door:
        reply = await door.ask()
        assert texts(reply.body)[0, "content"] == "Please write to [EMAIL], or do not."
        assert b"bob" not in reply.body


async def test_a_stream_denied_half_way_ends_with_an_error_and_closes_the_upstream() -> None:
    stopped = trio.Event()

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD)
        with suppress(OSError, trio.BrokenResourceError):  # it is closed while we still speak
            for piece in told(TEXT + " " + SECRET + " " + TEXT)[:-2]:
                await side.send(chunk(piece))
                await trio.testing.wait_all_tasks_blocked()
            await side.closed()
        stopped.set()

    async with house(script, policy=when_found(Outcome.DENY)) as door:
        client = await door.connect()
        await client.send(request())
        reply = await client.reply()
        assert reply.status == 200
        *_, error, done = events(reply.body)
        assert error["error"]["code"]
        assert done == "[DONE]"
        assert b"example.com" not in reply.body
        with trio.fail_after(5):
            await stopped.wait()
        assert door.outcomes == [("request", "proceed"), ("response", "deny")]
        # The client's connection is sound: its stream was ended in good order.
        door.upstream.script = streaming(*told("ok"))
        await client.send(request())
        assert (await client.reply()).status == 200


async def test_a_stream_denied_before_its_first_byte_is_refused_with_a_status() -> None:
    script = streaming(event("bob@example.com and so on"), *told(TEXT))
    policy = when_found(Outcome.DENY)
    async with house(script, policy=policy, hold_back=64) as door:
        reply = await door.ask()
        assert reply.status == 403
        assert b"example.com" not in reply.body
        assert reply.headers["content-type"] == "application/json"


async def test_a_client_gone_mid_stream_ends_the_models_work() -> None:
    stopped = trio.Event()

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD + chunk(event(TEXT)))
        await side.closed()  # says nothing more: only the hang-up can wake the door
        stopped.set()

    async with house(script) as door:
        client = await door.connect()
        await client.send(request())
        await client.more()
        client.reset()
        with trio.fail_after(5):
            await stopped.wait()
        await trio.testing.wait_all_tasks_blocked()
        record = door.journal.records[-1]
        assert record.phase == "response"
        assert record.coverage.complete is False
        assert "aborted:client_gone" in record.reasons
        assert door.gateway.metrics.client_gone == 1


async def test_a_client_gone_while_the_model_speaks_ends_its_work() -> None:
    stopped = trio.Event()

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD)
        try:
            while True:
                await side.send(chunk(event(TEXT)))
                await trio.lowlevel.checkpoint()
        finally:
            stopped.set()

    async with house(script) as door:
        client = await door.connect()
        await client.send(request())
        await client.more()
        client.reset()
        with trio.fail_after(5):
            await stopped.wait()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert door.journal.records[-1].coverage.complete is False


@pytest.mark.parametrize("last", [b"", b"5\r\nab", b"nonsense\r\n"])
async def test_a_stream_that_breaks_off_is_not_ended_as_if_it_were_whole(last: bytes) -> None:
    async with house(streaming(event(TEXT), last=last)) as door:
        client = await door.connect()
        await client.send(request())
        wire = await client.rest()
        assert b"quick" in wire
        assert not wire.endswith(LAST)
        assert b"[DONE]" not in wire
        record = door.journal.records[-1]
        assert record.coverage.complete is False
        assert any(reason.startswith("aborted:upstream_") for reason in record.reasons)


async def test_a_stream_that_breaks_off_before_any_byte_left_is_502() -> None:
    async with house(streaming(last=b"")) as door:
        client = await door.connect()
        await client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.code) == (502, "upstream_closed")
        assert door.journal.records[-1].coverage.complete is False
        assert await client.is_closed()


async def test_an_http_1_0_client_gets_a_stream_without_chunks() -> None:
    async with house(streaming(*told(TEXT))) as door:
        client = await door.connect()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(CHAT) + CHAT
        )
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert texts(body)[0, "content"] == TEXT


async def test_a_slow_client_slows_the_model_down() -> None:
    sent = 0

    async def script(side: UpstreamSide) -> None:
        nonlocal sent
        await side.next()
        await side.send(STREAM_HEAD)
        piece = chunk(event("word " * 2000))
        for _ in range(4000):
            await side.send(piece)
            sent += len(piece)
        await side.send(chunk(event("", finish="stop") + DONE) + LAST)

    async with house(script) as door:
        client = await door.connect()
        await client.send(request())
        last = -1
        with trio.fail_after(20):
            while sent != last:  # nothing moves any more: the buffers of the sockets are full
                last = sent
                await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 4000 * 10_000 / 2
        assert len(door.journal.records) == 1
        client.reset()


async def test_a_stream_with_a_length_is_a_stream() -> None:
    body = b"".join(told(TEXT))

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(http_reply(body, headers=("Content-Type: text/event-stream",)))

    async with house(script) as door:
        reply = await door.ask()
        assert reply.headers["transfer-encoding"] == "chunked"
        assert texts(reply.body)[0, "content"] == TEXT


async def test_a_stream_that_cannot_be_recorded_is_not_begun() -> None:
    async with house(streaming(*told(TEXT))) as door:
        door.journal.durable_fails = True
        reply = await door.ask()
        assert (reply.status, reply.code) == (503, "journal_unavailable")
        assert b"quick" not in reply.body


async def test_a_stream_whose_end_cannot_be_recorded_is_cut() -> None:
    gate = trio.Event()

    async with house(streaming_until(gate, TEXT)) as door:
        client = await door.connect()
        await client.send(request())
        await client.more()
        door.journal.durable_fails = True
        gate.set()
        wire = await client.rest()
        assert b"[DONE]" not in wire
        assert not wire.endswith(LAST)


async def test_a_stopped_gateway_records_its_open_streams() -> None:
    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD + chunk(event(TEXT)))
        await side.closed()

    async with house(script) as door:
        client = await door.connect()
        await client.send(request())
        await client.more()
        door.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await client.more()
    assert "aborted:gateway_stopped" in door.journal.records[-1].reasons


async def test_what_streams_hold_back_is_bounded_over_all_connections() -> None:
    script = streaming(*told(TEXT * 200, 500))
    async with house(script, mode="buffer", limits=Limits(buffered_bytes=150_000)) as door:
        client = await door.connect()
        await client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.code) == (503, "overloaded")
        await client.stream.send_eof()
        assert await client.is_closed()
        record = door.journal.records[1]
        assert record.reasons[-1] == "aborted:overloaded"
        assert (record.coverage.complete, record.coverage.released) == (False, 0)
        assert door.gateway.metrics.buffered_bytes == 0
    async with house(script, mode="window", limits=Limits(buffered_bytes=150_000)) as door:
        assert (await door.ask()).body.endswith(DONE)
