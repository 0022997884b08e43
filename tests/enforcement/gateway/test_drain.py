"""The end of the gateway: what is open is finished, what is idle is closed."""

from __future__ import annotations

import pytest
import trio

from enforcement.outcome import Outcome
from tests.enforcement.exchanges import always, events
from tests.enforcement.gateway.doors import (
    UpstreamSide,
    house,
    http_reply,
    request,
    streaming_until,
)


async def test_with_nothing_open_the_door_is_drained_at_once() -> None:
    async with house() as door:
        door.gateway.stop_accepting()
        with trio.fail_after(1):
            await door.gateway.drained()


async def test_idle_connections_are_closed_at_once() -> None:
    async with house() as door:
        fresh, used = await door.connect(), await door.connect()
        await used.send(request())
        assert (await used.reply()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        door.gateway.stop_accepting()
        with trio.fail_after(1):
            assert await fresh.is_closed()
            assert await used.is_closed()
            await door.gateway.drained()
        assert door.gateway.metrics.connections == 0


async def test_no_new_connections_are_taken() -> None:
    async with house() as door:
        door.gateway.stop_accepting()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(OSError, match=r"refused|failed|attempts"):
            await door.connect()


async def test_an_open_exchange_is_finished_and_its_reply_says_close() -> None:
    answer = trio.Event()

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await answer.wait()
        await side.send(http_reply())

    async with house(script) as door:
        client = await door.connect()
        await client.send(request() + request())  # the second is not begun any more
        await trio.testing.wait_all_tasks_blocked(0.01)
        door.gateway.stop_accepting()
        with trio.move_on_after(0.02) as waiting:
            await door.gateway.drained()
        assert waiting.cancelled_caught
        answer.set()
        reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        await client.stream.send_eof()
        assert await client.is_closed()
        with trio.fail_after(1):
            await door.gateway.drained()
        assert len(door.upstream.seen) == 1


async def test_an_open_stream_is_finished() -> None:
    go_on = trio.Event()

    async with house(streaming_until(go_on, "many words " * 50)) as door:
        client = await door.connect()
        await client.send(request())
        await client.more()
        door.gateway.stop_accepting()
        go_on.set()
        assert events((await client.reply()).body)[-1] == "[DONE]"
        await client.stream.send_eof()
        with trio.fail_after(1):
            await door.gateway.drained()


async def test_a_denial_while_draining_says_close() -> None:
    async with house(policy=always(Outcome.DENY)) as door:
        client = await door.connect()
        await client.send(request()[:-5])
        await trio.testing.wait_all_tasks_blocked(0.01)
        door.gateway.stop_accepting()
        await client.send(request()[-5:])
        reply = await client.reply()
        assert reply.status == 403
        assert reply.headers["connection"] == "close"


async def test_a_whole_exchange_cut_by_the_end_is_recorded() -> None:
    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.closed()

    async with house(script) as door:
        client = await door.connect()
        await client.send(request())
        await trio.testing.wait_all_tasks_blocked(0.01)
        door.nursery.cancel_scope.cancel()
    assert door.outcomes == [("request", "proceed"), ("response", "deny")]
    assert door.journal.records[-1].reasons == ("upstream:gateway_stopped",)
