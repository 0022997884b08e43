"""The life cycle of the daemon, as one table.

Rule 1: everything that changes the state goes through `Lifecycle.happen`.
Rule 2: nothing is latched. Readiness, the gate of the gateway, sd_notify, metrics and `status`
all derive from the state and the facts kept here, at the moment they are asked.

    starting ──begin──► attesting ──issued──► serving ◄──issued── degraded
                                                │  ▲ └──failed──────►│
                                          expired  issued          expired
                                                ▼  │                 ▼
                                                expired ◄────────────┘
    every state ──stop──► stopping
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where the daemon is in its life."""

    STARTING = "starting"
    ATTESTING = "attesting"
    SERVING = "serving"
    DEGRADED = "degraded"
    EXPIRED = "expired"
    STOPPING = "stopping"


class Event(StrEnum):
    """What can happen to it."""

    BEGIN = "begin"  # everything is loaded; the first quote is asked for
    ISSUED = "issued"  # a quote was fetched and verified, a passport issued
    FAILED = "failed"  # a quote, its verification or the issue failed
    EXPIRED = "expired"  # the passport has ended
    STOP = "stop"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.STARTING, Event.BEGIN): State.ATTESTING,
    (State.ATTESTING, Event.ISSUED): State.SERVING,
    (State.ATTESTING, Event.FAILED): State.ATTESTING,
    (State.SERVING, Event.ISSUED): State.SERVING,
    (State.SERVING, Event.FAILED): State.DEGRADED,
    (State.SERVING, Event.EXPIRED): State.EXPIRED,
    (State.DEGRADED, Event.ISSUED): State.SERVING,
    (State.DEGRADED, Event.FAILED): State.DEGRADED,
    (State.DEGRADED, Event.EXPIRED): State.EXPIRED,
    (State.EXPIRED, Event.ISSUED): State.SERVING,
    (State.EXPIRED, Event.FAILED): State.EXPIRED,
    (State.EXPIRED, Event.EXPIRED): State.EXPIRED,
} | {(state, Event.STOP): State.STOPPING for state in State}


@dataclass(frozen=True, slots=True)
class Serves:
    """What a state serves."""

    gateway: bool  # requests are decided (with a valid passport)
    ready: bool
    next: str  # what happens next, for people


SERVES: Final[dict[State, Serves]] = {
    State.STARTING: Serves(False, False, "the first quote is asked for"),
    State.ATTESTING: Serves(False, False, "the quote is asked for again until there is one"),
    State.SERVING: Serves(True, True, "the passport is renewed at about half its life"),
    State.DEGRADED: Serves(True, True, "renewal is tried again; at the passport's end: expired"),
    State.EXPIRED: Serves(False, False, "requests are refused until a passport is issued"),
    State.STOPPING: Serves(False, False, "open requests finish, the journal is delivered"),
}


class Lifecycle:
    """The state, since when, and why. `clock` gives boot-time nanoseconds."""

    def __init__(self, *, clock: Callable[[], int], changed: Callable[[], None] = lambda: None):
        self._clock = clock
        self._changed = changed
        self.state = State.STARTING
        self.since_ns = clock()
        self.reason = "the daemon has just started"

    def happen(self, event: Event, reason: str) -> bool:
        """Apply an event; True if the state changed.

        Raises:
            ValueError: the event cannot happen in this state: a programming error, not an input.
        """
        if self.state is State.STOPPING:
            return False  # late results of a renewal; the end is final
        try:
            following = TRANSITIONS[self.state, event]
        except KeyError:
            raise ValueError(f"{event} cannot happen while {self.state}") from None
        changed = following is not self.state
        if changed:
            self.state, self.since_ns = following, self._clock()
        if changed or event is not Event.ISSUED:
            self.reason = reason
        self._changed()
        return changed

    @property
    def serves(self) -> Serves:
        """What is served now."""
        return SERVES[self.state]

    @property
    def seconds_in_state(self) -> float:
        """How long the state has held, on the boot-time clock."""
        return (self._clock() - self.since_ns) / 1e9
