"""When the service manager's watchdog is fed, and `/healthz` says yes: only while every part has
kept its promise.

A part says how long it will take until it says something again; for the journal's writer that is
its next turn, for the renewal its next try. A part that is late is stuck in something that nobody
bounded, for example a disk that never answers. A loop that hangs feeds nothing by itself.
Promises are on CLOCK_MONOTONIC, as the service manager's time is: suspend breaks none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

Promise = Callable[[float], None]
REST: Final = float("inf")  # seconds: nothing is promised, for example before there is a passport


def no_promise(_seconds: float) -> None:
    """Of a part that nobody watches."""


class Freshness:
    """The promises of all parts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def part(self, name: str) -> Promise:
        """What a part calls with the seconds until it will call again."""
        self._until[name] = REST

        def promise(seconds: float) -> None:
            self._until[name] = self._clock() + seconds

        return promise

    def late(self) -> dict[str, float]:
        """The parts that broke their promise, and by how many seconds."""
        return {name: seconds for name, seconds in self.lateness().items() if seconds}

    def lateness(self) -> dict[str, float]:
        """Every part, and by how many seconds its promise is broken; 0: it is not."""
        now = self._clock()
        return {name: max(now - until, 0.0) for name, until in self._until.items()}
