"""Tasks that look at something now and then look at the same instants.

To wake the loop costs more than what is done then. Whoever has nothing to do before its next look
sleeps until the next multiple of its period on the loop's clock; periods that divide each other
fall together.
"""

from __future__ import annotations

import math
from typing import Final

import trio

# An instant as near as this is the one that was just slept for, by the rounding of floats.
_NEAR: Final = 0.001


def next_tick(seconds: float) -> float:
    """The next multiple of a period on trio's clock; never further away than `seconds` and 1 ms."""
    return (math.floor((trio.current_time() + _NEAR) / seconds) + 1) * seconds
