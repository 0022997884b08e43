"""A histogram that costs a search in a short tuple and three additions."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# Seconds. What a disk and an event loop do; what a quote and a fetch from a vendor take.
QUICK: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
SLOW: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts observations by upper bound. Used from one thread.

    Attributes:
        counts: of each bound, not cumulative; the last is of everything above.
        sum: of all observations.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one. A value that equals a bound is counted there, as `le` says."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
