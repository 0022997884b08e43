"""How long a call takes. Plain Python: peers in other environments are measured by it, too."""

from __future__ import annotations

import time
from collections.abc import Callable


def microseconds(
    call: Callable[[], object],
    *,
    rounds: int,
    calls: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Of each round, what one of its calls took in the mean."""
    taken = []
    for _ in range(rounds):
        start = clock()
        for _ in range(calls):
            call()
        taken.append((clock() - start) / calls * 1e6)
    return taken
