"""The load: closed loop by wrk, open loop by a small generator of our own.

In the open loop requests are due at fixed times whether or not earlier ones were answered, and a
latency counts from the time a request was due: a stalled server cannot hide by slowing its client.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass

from benchmarks.peers import OTHER_CPU, PATH, REQUEST, Peer, cpu_seconds, may_hurry


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


def closed_loop(peer: Peer, *, connections: int, seconds: int, token: str = "") -> Closed:
    """wrk with keep-alive connections, as fast as the proxy answers. `token`: to authorise with."""
    escaped = REQUEST.replace("\\", "\\\\").replace("'", "\\'")
    script = (
        f"wrk.method='POST'\nwrk.body='{escaped}'\nwrk.headers['Content-Type']='application/json'\n"
    )
    if token:
        script += f"wrk.headers['Authorization']='Bearer {token}'\n"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        before = cpu_seconds(peer.pid)
        done = subprocess.run(
            ["taskset", "-c", str(OTHER_CPU), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
             "-s", file.name, f"{peer.scheme}://127.0.0.1:{peer.port}{PATH}"],
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


class _Connection:
    """One keep-alive connection; answers come in order."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due: deque[float] = deque()
        self._buffer = b""

    def read(self, done: list[float]) -> int:
        """Take the answers that are there; gives how many were no success."""
        data = self.sock.recv(256 * 1024)
        if not data:
            raise ConnectionError("the proxy closed a connection")
        self._buffer += data
        errors = 0
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            place = head.find(b"content-length:")
            whole = end + 4 + int(head[place + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < whole:
                break
            errors += head[9:12] != b"200"
            self._buffer = self._buffer[whole:]
            done.append((time.perf_counter() - self.due.popleft()) * 1e6)
        return errors


def _receive(pool: list[_Connection], done: list[float], errors: list[int], total: int) -> None:
    with selectors.DefaultSelector() as selector:
        for connection in pool:
            selector.register(connection.sock, selectors.EVENT_READ, connection)
        while len(done) < total:
            ready = selector.select(timeout=2)
            if not ready:
                return  # what has not come by now counts as an error
            for key, _ in ready:
                errors[0] += key.data.read(done)


def _open_loop(
    peer: Peer, rate: int, seconds: int, connections: int
) -> tuple[int, list[float], int]:
    """One thread sends when it is time and one receives; both sleep in the kernel in between, for
    they share their core with the upstream."""
    done: list[float] = []
    errors = [0]
    pool = [_Connection(peer.port) for _ in range(connections)]
    message = (
        f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(REQUEST)}\r\n\r\n{REQUEST}"
    ).encode()
    total = rate * seconds
    receiver = threading.Thread(target=_receive, args=(pool, done, errors, total))
    start = time.perf_counter() + 0.2
    receiver.start()
    for number in range(total):
        due = start + number / rate
        if (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        # The less busy of two: as many clients would behave.
        one, two = pool[number % connections], pool[(number * 7 + 3) % connections]
        connection = one if len(one.due) <= len(two.due) else two
        connection.due.append(due)
        connection.sock.sendall(message)
    receiver.join()
    for connection in pool:
        connection.sock.close()
    return total, done, errors[0]


def open_loop(peer: Peer, *, rate: int, seconds: int, connections: int = 64) -> Open:
    """A fixed arrival rate."""
    os.sched_setaffinity(0, {OTHER_CPU})
    # The Observer has the same core here; what it delays must not be taken for the proxy's delay.
    if may_hurry():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    before = cpu_seconds(peer.pid)
    try:
        sent, done, errors = _open_loop(peer, rate, seconds, connections)
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    cpu = cpu_seconds(peer.pid) - before
    done.sort()
    p50 = done[len(done) // 2] if done else float("nan")
    p99 = done[int(len(done) * 0.99)] if done else float("nan")
    return Open(sent, len(done), errors, p50, p99, cpu / max(len(done), 1) * 1e6)
