"""`make bench-sse`: streams through the gateway with everything on, in window mode.

Many model streams at a fixed rate, one chunk a token, none in step with another. Text leaves in
blocks behind the window; when it leaves depends on the text alone, so the chunk that lets a block
go is known beforehand. The delay of a block is the time from the moment that chunk was sent to the
moment the client had the block: what the gateway adds beyond the window's own hold. Then the same
as fast as it takes them.

One process plays all model servers and all clients, on the core that is not the gateway's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.peers import OTHER_CPU, PATH, Peer, cpu_seconds, may_hurry
from enforcement.outcome import Outcome
from tests.enforcement.exchanges import always, guard

RESULT: Final = Path(__file__).with_name("RESULTS-SSE.md")
HOLD: Final = 256  # characters, as in the bundle
NAP: Final = 100e-6  # seconds
STEPS: Final = 53  # streams of as many different phases
WORDS: Final = ("some", "plain", "words", "that", "nobody", "needs", "to", "hide,", "of", "course")
_REQUEST: Final = json.dumps(
    {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "tell me"}]}
)
END: Final = b"}\n\n"  # of an event
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-bbc046618876fd1b",
        "object": "chat.completion.chunk",
        "created": 1795376925,
        "model": "bench",
        "choices": [choice],
    }
    data = f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def token(number: int) -> str:
    return " " + WORDS[number % len(WORDS)]


_DONE: Final = event({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def releases(chunks: int, *, window: bool) -> list[int]:
    """For each event that leaves before the stream's end, the chunk after which it does."""
    if not window:
        return list(range(chunks))
    stream, _ = guard(always(Outcome.PROCEED), hold_back=HOLD)
    stream.feed(_undone(event({"role": "assistant", "content": ""})))
    return [
        number
        for number in range(chunks)
        for _ in range(stream.feed(_undone(event({"content": token(number)}))).count(END))
    ]


def _undone(chunk: bytes) -> bytes:
    return chunk.partition(b"\r\n")[2][:-2]


@dataclass(slots=True)
class Stream:
    """One stream: its two ends, and when each chunk was sent and each event came."""

    client: socket.socket
    server: socket.socket
    sent: list[float] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    tail: bytes = b""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Paced:
    """Streams at a fixed rate. Delays in microseconds; `late`: the generator's own lag."""

    chunks: int
    events: int
    expected: int
    p50: float
    p99: float
    late: float
    cpu_us: float
    core: float


@contextlib.contextmanager
def streams(count: int, listener: socket.socket, peer: Peer) -> Iterator[list[Stream]]:
    """Open streams through a peer: asked for, and their heads answered."""
    opened: list[Stream] = []
    request = (
        f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(_REQUEST)}\r\n\r\n{_REQUEST}"
    ).encode()
    try:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", peer.port))
            client.sendall(request)
            server, _ = listener.accept()
            opened.append(Stream(client, server))
            data = b""
            while not data.endswith(_tail(data)):
                data += server.recv(65536)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.sendall(_HEAD + event({"role": "assistant", "content": ""}))
            _until_role(opened[-1])
        yield opened
    finally:
        for stream in opened:
            stream.client.close()
            stream.server.close()


def _tail(data: bytes) -> bytes:
    return b"}" if b"\r\n\r\n" in data else b"\0"


def _until_role(stream: Stream) -> None:
    data = b""
    while b'"role"' not in data or not data.endswith(b"\n\r\n"):
        data += stream.client.recv(65536)


def _receive(stream: Stream, now: float) -> None:
    data = stream.client.recv(256 * 1024)
    if not data:
        raise ConnectionError("the proxy closed a stream")
    text = stream.tail + data
    # A client has an event when it has its empty line.
    stream.came += [now] * text.count(END)
    stream.tail = text[-2:] if not text.endswith(END) else b""
    if text.endswith(b"0\r\n\r\n"):
        stream.ended = True


def paced(
    peer: Peer, listener: socket.socket, *, count: int, rate: int, seconds: int, window: bool
) -> Paced:
    """`rate` chunks a second over all streams, evenly spread, whatever the gateway does."""
    chunks = rate * seconds // count + STEPS
    wire = [event({"content": token(number)}) for number in range(chunks)]
    with streams(count, listener, peer) as opened, contextlib.closing(select.epoll()) as poll:
        by_fd = {stream.client.fileno(): stream for stream in opened}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        _out_of_step(opened, wire)
        before, start = cpu_seconds(peer.pid), time.perf_counter() + 0.1
        number, total, late = 0, (chunks - STEPS) * count, []
        began = start
        while number < total:
            now = time.perf_counter()
            due = min(int((now - start) * rate) + 1, total) if now >= start else 0
            while number < due:
                stream = opened[number % count]
                stamp = time.perf_counter()
                late.append(stamp - (start + number / rate))
                stream.sent.append(stamp)
                stream.server.send(wire[len(stream.sent) - 1])
                number += 1
            for fd, _ in poll.poll(0):
                _receive(by_fd[fd], time.perf_counter())
            wait = start + number / rate - time.perf_counter()
            if wait > 0:
                time.sleep(min(wait, NAP))  # epoll's own wait counts in milliseconds
        spent, ran = cpu_seconds(peer.pid) - before, time.perf_counter() - began
        end = time.perf_counter() + 1
        while time.perf_counter() < end:
            for fd, _ in poll.poll(0.1):
                _receive(by_fd[fd], time.perf_counter())
    which = releases(chunks, window=window)
    expected = sum(sum(1 for chunk in which if chunk < len(stream.sent)) for stream in opened)
    delays = [
        came - stream.sent[which[place]]
        for stream in opened
        for place, came in enumerate(stream.came[: len(which)])
        if which[place] < len(stream.sent) and stream.sent[which[place]] >= start
    ]
    delays.sort()
    return Paced(
        chunks=total,
        events=sum(len(stream.came) for stream in opened),
        expected=expected,
        p50=statistics.median(delays) * 1e6,
        p99=delays[int(len(delays) * 0.99)] * 1e6,
        late=sorted(late)[int(len(late) * 0.99)] * 1e6,
        cpu_us=spent / total * 1e6,
        core=spent / ran,
    )


def _out_of_step(opened: list[Stream], wire: list[bytes]) -> None:
    """Some chunks beforehand, as many on no other stream: else all blocks would leave at once."""
    for number, stream in enumerate(opened):
        for chunk in wire[: number % STEPS]:
            stream.sent.append(time.perf_counter())
            stream.server.send(chunk)
    time.sleep(0.2)


def flood(peer: Peer, listener: socket.socket, *, count: int, chunks: int) -> tuple[float, float]:
    """Chunks a second, and CPU microseconds a chunk, where the model servers never wait."""
    wire = b"".join([event({"content": token(number)}) for number in range(chunks)]) + _DONE
    with streams(count, listener, peer) as opened, contextlib.closing(select.epoll()) as poll:
        left: dict[int, memoryview] = {}
        by_fd: dict[int, Stream] = {}
        for stream in opened:
            stream.server.setblocking(False)
            left[stream.server.fileno()] = memoryview(wire)
            by_fd[stream.client.fileno()] = by_fd[stream.server.fileno()] = stream
            poll.register(stream.client.fileno(), select.EPOLLIN)
            poll.register(stream.server.fileno(), select.EPOLLOUT)
        before, start = cpu_seconds(peer.pid), time.perf_counter()
        while not all(stream.ended for stream in opened):
            for fd, _ in poll.poll(5):
                if fd in left:
                    left[fd] = left[fd][by_fd[fd].server.send(left[fd]) :]
                    if not left[fd]:
                        poll.unregister(fd)
                        del left[fd]
                else:
                    _receive(by_fd[fd], 0)
        spent, took = cpu_seconds(peer.pid) - before, time.perf_counter() - start
    return count * chunks / took, spent / (count * chunks) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sse", description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000, help="chunks/s over all streams")
    parser.add_argument("--streams", type=int, default=400)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        print("two cores are needed: one for the proxy, one for the rest", file=sys.stderr)
        return 3
    titles = (
        "", f"{args.rate:,} chunks/s: delay added, p50 µs", "p99 µs", "CPU µs/chunk",
        "of one core", "events missing", "generator late, p99 µs",
        "as fast as it can: chunks/s", "CPU µs/chunk",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lucid-bench-")))
        directory.chmod(0o755)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        port = listener.getsockname()[1]
        observer_port = stack.enter_context(peers.observer(directory))
        contenders = [
            (stack.enter_context(peers.nginx_proxy(directory, port)), False),
            (stack.enter_context(peers.bare_gateway(port)), False),
            (stack.enter_context(peers.full_agent(directory, port, observer_port)), True),
        ]
        os.sched_setaffinity(0, {OTHER_CPU})
        if may_hurry():
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        for peer, window in contenders:
            print(f"{peer.name} …", file=sys.stderr)
            flood(peer, listener, count=8, chunks=200)  # warm-up
            run = paced(
                peer,
                listener,
                count=args.streams,
                rate=args.rate,
                seconds=args.seconds,
                window=window,
            )
            fast, cpu = flood(peer, listener, count=32, chunks=2000)
            lines.append(
                f"| {peer.name} | {run.p50:,.0f} | {run.p99:,.0f} | {run.cpu_us:.1f}"
                f" | {run.core:.0%} | {run.expected - run.events} | {run.late:,.0f}"
                f" | {fast:,.0f} | {cpu:.1f} |"
            )
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    table = "\n".join(lines)
    print(table)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Event streams, measured on {when}, two cores, loopback\n\nThe proxy has one core;"
            " the model servers' and clients' stand-in (one process) and the Observer share the"
            f" other. {args.streams} streams, one token a chunk. *Everything on* is the window mode"
            f" with {HOLD} characters of hold-back, policy, journal and stream to the Observer; its"
            " delay is counted from the chunk that lets a block of text go. Made by `make"
            f" bench-sse`.\n\n{table}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
