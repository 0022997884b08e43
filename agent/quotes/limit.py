"""How often quotes are made, across processes: a token bucket in a file, under its lock.

Whoever holds the lock makes a quote; nobody else does at that time. The file is in memory (`memfd`)
where one process serves all, and below `/run` where each request has a process of its own.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BURST: Final = 20.0  # quotes at once; the agent needs one for each renewal and each challenge
PER_SECOND: Final = 1.0  # guesses, both: the firmware itself throttles at about this rate
_STATE: Final = struct.Struct(">dQ")  # tokens, boot-time nanoseconds


@contextmanager
def turn(descriptor: int, now_ns: int) -> Iterator[bool]:
    """Wait for the lock, hold it in the block; False: too many quotes lately, make none."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        tokens = refill(os.pread(descriptor, _STATE.size, 0), now_ns)
        allowed = tokens >= 1
        os.pwrite(descriptor, _STATE.pack(tokens - allowed, now_ns), 0)
        yield allowed
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def refill(state: bytes, now_ns: int) -> float:
    """The tokens there are now. An empty file is a full bucket; a broken one is an empty bucket."""
    if not state:
        return BURST
    if len(state) != _STATE.size:
        return 0.0
    tokens, then_ns = _STATE.unpack(state)
    gained = max(now_ns - then_ns, 0) / 1e9 * PER_SECOND
    return min(tokens + gained, BURST) if 0 <= tokens <= BURST else 0.0
