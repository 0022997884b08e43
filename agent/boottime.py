"""The two clocks of the daemon: boot time for every deadline, wall time for what people read.

CLOCK_BOOTTIME goes on during suspend; trio's clock (CLOCK_MONOTONIC) does not, and the host can
set the wall clock. So a deadline is a boot-time instant, and a waiter looks at it at least every
few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

# A suspended VM notices a passed deadline at most this late after it wakes. A guess.
LOOK_SECONDS: Final = 2.0

Clock = Callable[[], int]


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_ns() -> int:
    """Nanoseconds since 1970 UTC; the host can set this clock."""
    return time.time_ns()


async def sleep_until(deadline_ns: int, *, clock: Clock = boot_ns) -> None:
    """Sleep until a boot-time instant, however the machine slept in between."""
    while (left := (deadline_ns - clock()) / 1e9) > 0:  # noqa: ASYNC110 - no event tells that boot time has passed
        await trio.sleep(min(left, LOOK_SECONDS))
