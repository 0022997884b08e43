"""The load: closed loop by wrk, open loop by a small generator of our own.

In the open loop requests are due at fixed times whether or not earlier ones were answered, and a
latency counts from the time a request was due: a stalled server cannot hide by slowing its client.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass

from benchmarks.peers import OTHER_CPU, PATH, REQUEST, Peer, cpu_seconds


@dataclass(frozen=True, slots=True)
class Closed:
    """Result of a closed-loop run."""

    requests: int
    per_second: float
    cpu_us: float
    errors: int


@dataclass(frozen=True, slots=True)
class Open:
    """Result of an open-loop run; times in microseconds."""

    sent: int
    answered: int
    errors: int
    p50: float
    p99: float
    cpu_us: float


def closed_loop(peer: Peer, *, connections: int, seconds: int) -> Closed:
    """wrk with keep-alive connections, as fast as the proxy answers."""
    escaped = REQUEST.replace("\\", "\\\\").replace("'", "\\'")
    script = (
        f"wrk.method='POST'\nwrk.body='{escaped}'\nwrk.headers['Content-Type']='application/json'\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        before = cpu_seconds(peer.pid)
        done = subprocess.run(
            ["taskset", "-c", str(OTHER_CPU), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
             "-s", file.name, f"http://127.0.0.1:{peer.port}{PATH}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        cpu = cpu_seconds(peer.pid) - before
    total = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if not total or not rate:
        raise RuntimeError(done.stdout)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    sock = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout
    )
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, sock.groups())) if sock else 0)
    requests = int(total[1])
    return Closed(requests, float(rate[1]), cpu / max(requests, 1) * 1e6, errors)


class _Connection(asyncio.Protocol):
    """One keep-alive connection; answers come in order."""

    def __init__(self, done: list[float], errors: list[int]) -> None:
        self.due: deque[float] = deque()
        self.buffer = b""
        self._done, self._errors = done, errors
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        self._errors[0] += len(self.due)
        self.due.clear()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            if head[9:12] != b"200":
                self._errors[0] += 1
            self.buffer = self.buffer[end + 4 + length :]
            self._done.append((time.perf_counter() - self.due.popleft()) * 1e6)


async def _open_loop(
    peer: Peer, rate: int, seconds: int, connections: int
) -> tuple[int, list[float], int]:
    loop = asyncio.get_running_loop()
    done: list[float] = []
    errors = [0]
    pool = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: _Connection(done, errors), "127.0.0.1", peer.port
        )
        pool.append(protocol)
    message = (
        f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(REQUEST)}\r\n\r\n{REQUEST}"
    ).encode()
    start = time.perf_counter() + 0.2
    total = rate * seconds
    for number in range(total):
        due = start + number / rate
        # One millisecond is the event loop's own grain; finer waiting would burn the core.
        while (left := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - a clock, not an event
            await asyncio.sleep(left if left > 0.001 else 0)
        # The least busy connection of two neighbours: as many clients would behave.
        one, two = pool[number % connections], pool[(number * 7 + 3) % connections]
        connection = one if len(one.due) <= len(two.due) else two
        connection.due.append(due)
        connection.transport.write(message)
    await asyncio.sleep(1)
    for protocol in pool:
        protocol.transport.close()
    await asyncio.sleep(0.05)
    return total, done, errors[0]


def open_loop(peer: Peer, *, rate: int, seconds: int, connections: int = 64) -> Open:
    """A fixed arrival rate."""
    os.sched_setaffinity(0, {OTHER_CPU})
    before = cpu_seconds(peer.pid)
    sent, done, errors = asyncio.run(_open_loop(peer, rate, seconds, connections))
    cpu = cpu_seconds(peer.pid) - before
    done.sort()
    p50 = done[len(done) // 2] if done else float("nan")
    p99 = done[int(len(done) * 0.99)] if done else float("nan")
    return Open(sent, len(done), errors, p50, p99, cpu / max(len(done), 1) * 1e6)
