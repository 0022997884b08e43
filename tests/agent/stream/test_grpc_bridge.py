"""No thread of a stream outlives it, however the stream ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
import trio
from grpc import _common

from agent.stream.grpc_bridge import MAX_ANSWER, WAIT_SECONDS, open_bidi, open_channel
from agent.stream.status import Target
from tests.processes import free_port

METHOD = "/test.Bridge/Talk"


class Peer(grpc.GenericRpcHandler):
    """One server; what it does depends on the first message."""

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        del handler_call_details
        return grpc.stream_stream_rpc_method_handler(self._talk)

    def _talk(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        how = next(messages)
        if how == b"end":
            return
        if how == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "as asked")
        if how == b"flood":
            for _ in range(500):
                yield b"x" * 1000
            return
        if how == b"huge":
            yield bytes(MAX_ANSWER + 1)
        if how == b"silent":
            while context.is_active():
                time.sleep(0.01)
            return
        yield how
        yield from messages


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Peer()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


async def talk(
    address: str, how: bytes, *, seconds: float = 5.0, leave: bool = False
) -> list[bytes]:
    """One stream; what came. `leave`: the block is left while the stream lives."""
    channel = open_channel(Target(address=address))
    found: list[bytes] = []
    try:
        with trio.move_on_after(seconds):
            async with open_bidi(channel, METHOD) as bidi:
                bidi.send(how)
                if leave:
                    await trio.sleep(0.02)
                    return found
                async for message in bidi.received:
                    found.append(message)
                    if message == b"bye":
                        bidi.half_close()
                    elif how == b"echo" and message == b"echo":
                        bidi.send(b"bye")
    finally:
        channel.close()
    return found


def test_who_waits_for_a_message_is_not_woken_for_nothing() -> None:
    waits: list[float] = []
    done = [False, False, True]

    def wait(timeout: float) -> bool:
        waits.append(timeout)
        return False

    _common.wait(wait, lambda: done.pop(0))
    assert waits == [WAIT_SECONDS] * 2


@pytest.mark.parametrize("leave", [True, False])
async def test_a_stream_that_waits_is_ended_at_once(address: str, leave: bool) -> None:
    await talk(address, b"echo")
    for _ in range(5):
        began = trio.current_time()
        await talk(address, b"silent", leave=leave, seconds=0.05)
        assert trio.current_time() - began < WAIT_SECONDS / 2


async def test_what_comes_after_a_while_is_there_at_once(address: str) -> None:
    channel = open_channel(Target(address=address))
    try:
        async with open_bidi(channel, METHOD) as bidi:
            bidi.send(b"hello")
            assert await bidi.received.receive() == b"hello"
            for _ in range(5):
                await trio.sleep(0.05)
                began = trio.current_time()
                bidi.send(b"again")
                assert await bidi.received.receive() == b"again"
                assert trio.current_time() - began < WAIT_SECONDS / 2
    finally:
        channel.close()


async def threads_settled(most: int) -> int:
    """gRPC's own threads need a moment to end after their channel."""
    for _ in range(150):
        if threading.active_count() <= most:
            break
        await trio.sleep(0.02)
    return threading.active_count()


@pytest.mark.parametrize(
    ("how", "leave", "seconds"),
    [
        (b"echo", False, 5.0),
        (b"end", False, 5.0),
        (b"fail", False, 5.0),
        (b"silent", False, 0.05),
        (b"silent", True, 5.0),
        (b"flood", True, 5.0),
        (b"echo", True, 5.0),
    ],
)
async def test_streams_that_are_over_leave_no_thread(
    address: str, how: bytes, leave: bool, seconds: float
) -> None:
    for _ in range(3):  # the threads that stay: trio's cache, the server's pool
        await talk(address, how, seconds=seconds, leave=leave)
    before = threading.active_count()
    for _ in range(20):
        await talk(address, how, seconds=seconds, leave=leave)
    assert await threads_settled(before) <= before + 1  # one more of the server's eight


async def test_a_peer_that_is_not_there_leaves_no_thread() -> None:
    target = f"127.0.0.1:{free_port()}"
    await talk(target, b"echo")
    before = threading.active_count()
    for _ in range(20):
        assert await talk(target, b"echo") == []
    assert await threads_settled(before) <= before


async def test_the_status_of_the_end_is_kept(address: str) -> None:
    channel = open_channel(Target(address=address))
    try:
        async with open_bidi(channel, METHOD) as bidi:
            bidi.send(b"fail")
            assert [message async for message in bidi.received] == []
            assert bidi.ended.code == "INTERNAL"
        async with open_bidi(channel, METHOD) as bidi:
            bidi.send(b"huge")  # more than an Observer has to say is not read
            assert [message async for message in bidi.received] == []
            assert bidi.ended.code == "RESOURCE_EXHAUSTED"
        async with open_bidi(channel, METHOD) as bidi:
            bidi.send(b"end")
            assert [message async for message in bidi.received] == []
            assert bidi.ended.code == ""
    finally:
        channel.close()


async def test_what_comes_waits_for_who_reads_and_nothing_is_lost(address: str) -> None:
    channel = open_channel(Target(address=address))
    try:
        async with open_bidi(channel, METHOD) as bidi:
            bidi.send(b"flood")
            await trio.sleep(0.2)
            assert len([message async for message in bidi.received]) == 500
    finally:
        channel.close()
