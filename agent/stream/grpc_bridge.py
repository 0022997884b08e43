"""One bidirectional gRPC stream under a trio nursery, on the synchronous stack in two threads.

grpcio has no trio support; its synchronous stack runs each stream on one thread that sends (it
iterates our outbox) and one that receives (ours). Batches make the hand-over cheap. The care is in
the end: the sentinel goes into the outbox on *every* way out, or the sending thread would wait for
ever; and the call is cancelled whenever the `with` block ends.
"""

from __future__ import annotations

import importlib
import os
import queue
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import trio

# Before the import: the C core reads these once. Its own log lines are not structured, and forked
# children must not inherit its threads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from agent.stream.status import Target

# grpcio wakes whoever waits for a message ten times a second, so that signal handlers run where
# that is the main thread. Here it never is, and an idle stream would cost as much as the rest of
# the daemon. What happens to the stream wakes the thread at once, however long this is.
WAIT_SECONDS: Final = 2.0
cast("Any", importlib.import_module("grpc._common")).MAXIMUM_WAIT_TIMEOUT = WAIT_SECONDS

INBOUND: Final = 64  # messages between the receiving thread and trio
MAX_MESSAGE: Final = 1024 * 1024  # bytes; what the Observer takes (observer.proto)
MAX_ANSWER: Final = (
    64 * 1024
)  # bytes; a Welcome has 2 kB. Parsed, a message takes 50 times its size

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Retrying is ours, with one back-off; the channel must not add its own.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def open_channel(target: Target) -> grpc.Channel:
    """A new channel. Blocking (reads files).

    Raises:
        OSError: a file cannot be read.
        ValueError: the address or a file is not what it should be.
    """
    if target.ca is None:
        return grpc.insecure_channel(target.address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=target.ca.read_bytes(),
        private_key=target.key.read_bytes() if target.key else None,
        certificate_chain=target.certificate.read_bytes() if target.certificate else None,
    )
    return grpc.secure_channel(target.address, credentials, options=CHANNEL_OPTIONS)


@dataclass(slots=True)
class Ended:
    """How the stream ended: the gRPC status, empty while it lives or after a clean end."""

    code: str = ""


@dataclass(frozen=True, slots=True)
class Bidi:
    """An open stream: `send` never blocks; `half_close` ends our side; `received` yields bytes."""

    outbox: queue.SimpleQueue[bytes | None]
    received: trio.MemoryReceiveChannel[bytes]
    ended: Ended

    def send(self, message: bytes) -> None:
        """Queue one message. Credits bound how many are queued."""
        self.outbox.put(message)

    def half_close(self) -> None:
        """No more messages from us; the peer may finish."""
        self.outbox.put(None)


@asynccontextmanager
async def open_bidi(channel: grpc.Channel, method: str) -> AsyncIterator[Bidi]:
    """Open a stream for the block; no thread of it outlives the block."""
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    # Bytes in, bytes out: no serialiser, which the type information does not provide for.
    call: Any = cast("Any", channel.stream_stream(method))(iter(outbox.get, None))
    send, received = trio.open_memory_channel[bytes](INBOUND)
    ended = Ended()

    def pump() -> None:
        try:
            for message in call:
                trio.from_thread.run(send.send, message)  # blocks: back-pressure to HTTP/2
        except grpc.RpcError as error:
            ended.code = error.code().name
        except (trio.Cancelled, trio.BrokenResourceError, trio.ClosedResourceError):
            call.cancel()
        finally:
            outbox.put(None)

    async def reader() -> None:
        async with send:
            await trio.to_thread.run_sync(pump)

    async def stopper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            call.cancel()
            outbox.put(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopper)
        nursery.start_soon(reader)
        try:
            yield Bidi(outbox, received, ended)
        finally:
            nursery.cancel_scope.cancel()
