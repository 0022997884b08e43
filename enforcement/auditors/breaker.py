"""A circuit breaker, without a clock: who failed again and again is left alone for a while.

| state     | a call may be made | it succeeds       | it fails                               |
| --------- | ------------------ | ----------------- | -------------------------------------- |
| closed    | always             | failures = 0      | one more; at the limit → open          |
| open      | no; after the pause: one trial → half-open | (late: nothing) | (late: nothing)   |
| half-open | no; the trial is under way | → closed  | → open, the pause twice as long        |

The pause grows to a limit, and goes back to its first length only after as many successes in a row
as it took failures to open: who comes and goes is called less and less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GROWTH: Final = 2.0


class State(StrEnum):
    """The states; their numbers in metrics are 0, 1 and 2."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When to open, and how long to pause.

    Attributes:
        failures: in a row, that open it.
        pause: seconds, the first time.
        longest_pause: seconds.
    """

    failures: int = 5
    pause: float = 1.0
    longest_pause: float = 30.0


class Breaker:
    """One breaker. Ask `allows` before each call, then tell it `succeeded`, `failed` or `dropped`.

    Times are seconds on any clock that does not go backwards.
    """

    __slots__ = (
        "_failures",
        "_next",
        "_opened",
        "_pause",
        "_rules",
        "_successes",
        "opens",
        "state",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._failures = 0
        self._successes = 0
        self._pause = 0.0
        self._next = rules.pause
        self._opened = 0.0
        self.state = State.CLOSED
        self.opens = 0

    def allows(self, now: float) -> bool:
        """Whether a call may be made now. A yes in the state open is the trial."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN and now >= self._opened + self._pause:
            self.state = State.HALF_OPEN
            return True
        return False

    def retry_after(self, now: float) -> float:
        """Seconds until a call may be made."""
        return max(self._opened + self._pause - now, 0.0) if self.state is State.OPEN else 0.0

    def succeeded(self) -> None:
        """A call ended well."""
        if self.state is State.OPEN:
            return
        if self.state is State.HALF_OPEN:
            self.state = State.CLOSED
            self._successes = 0
        self._failures = 0
        self._successes += 1
        if self._successes >= self._rules.failures:
            self._next = self._rules.pause

    def failed(self, now: float) -> None:
        """A call failed."""
        if self.state is State.OPEN:
            return
        self._successes = 0
        self._failures += 1
        if self.state is State.CLOSED and self._failures < self._rules.failures:
            return
        self._pause = self._next
        self._next = min(self._next * GROWTH, self._rules.longest_pause)
        self.state = State.OPEN
        self._opened = now
        self.opens += 1

    def dropped(self) -> None:
        """A call was given up for no fault of the other side: the trial may be made again."""
        if self.state is State.HALF_OPEN:
            self.state = State.OPEN
