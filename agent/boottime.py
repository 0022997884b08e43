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

from agent.life.ticks import next_tick

# A suspended VM notices a passed deadline at most this late after it wakes. A guess.
LOOK_SECONDS: Final = 2.0
SUSPENDED_SECONDS: Final = 1.0  # the two clocks agree to nanoseconds while the machine runs
STEPPED_SECONDS: Final = 5.0  # more than time services slew away unseen (a guess)

Clock = Callable[[], int]


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_ns() -> int:
    """Nanoseconds since 1970 UTC; the host can set this clock."""
    return time.time_ns()


async def sleep_until(
    deadline_ns: int, *, clock: Clock = boot_ns, look_seconds: float = LOOK_SECONDS
) -> None:
    """Sleep until a boot-time instant, however the machine slept in between."""
    while (left := (deadline_ns - clock()) / 1e9) > 0:  # noqa: ASYNC110 - no event tells that boot time has passed
        await trio.sleep_until(min(trio.current_time() + left, next_tick(look_seconds)))


class ClockWatch:
    """Notices what a running machine's clocks do not do by themselves. Looked at now and then.

    A suspend shows as boot time that passed without monotonic time; a step of the wall clock as
    wall time that passed without boot time. A host that pauses the whole guest stops all three:
    that shows only when something sets the wall clock right.
    """

    def __init__(
        self,
        *,
        boot: Clock = boot_ns,
        monotonic: Clock = time.monotonic_ns,
        wall: Clock = wall_ns,
    ) -> None:
        self._clocks = boot, monotonic, wall
        self._last = self._read()

    def look(self) -> dict[str, float]:
        """What happened since the last look: `suspend` (seconds), `step` (seconds, signed)."""
        before, self._last = self._last, self._read()
        boot, monotonic, wall = (
            (now - then) / 1e9 for now, then in zip(self._last, before, strict=True)
        )
        found = {}
        if boot - monotonic > SUSPENDED_SECONDS:
            found["suspend"] = boot - monotonic
        if abs(wall - boot) > STEPPED_SECONDS:
            found["step"] = wall - boot
        return found

    def _read(self) -> tuple[int, int, int]:
        boot, monotonic, wall = self._clocks
        return boot(), monotonic(), wall()
