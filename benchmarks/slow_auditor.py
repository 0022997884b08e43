"""An auditor that takes a fixed time: `python -m benchmarks.slow_auditor PORT SECONDS`.

A busy wait at the end makes the time exact: a timer alone would be late by as much as is measured.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import trio

BODY = (
    b'{"status":"success","claims":[{"name":"risk","type":"score_normalized","value":0.1,'
    b'"timestamp":"2026-01-01T00:00:00Z"}]}'
)
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


async def serve(seconds: float, stream: trio.SocketStream) -> None:
    buffer = b""
    while True:
        data = await stream.receive_some()
        if not data:
            return
        due = time.perf_counter() + seconds
        buffer += data
        while b"\r\n\r\n" in buffer:
            head, _, rest = buffer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            if len(rest) < length:
                break
            buffer = rest[length:]
            await trio.sleep(max(due - time.perf_counter() - 0.0005, 0))
            while time.perf_counter() < due:
                pass
            await stream.send_all(REPLY)


async def main(port: int, seconds: float) -> None:
    await trio.serve_tcp(partial(serve, seconds), port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), float(sys.argv[2]))
