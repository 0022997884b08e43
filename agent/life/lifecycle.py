"""The life cycle of the daemon: one state, derived from facts, as tables.

Rule 1: nothing is latched. The state is computed from the facts (has the first quote been asked
for, when does the passport end, what troubles the parts report) each time somebody looks.
Rule 2: everybody looks here. `/readyz`, the gateway's gate, sd_notify, logs, metrics and `status`
say the same, because `Lifecycle.look` is the one place where a change is noticed and announced.
Rule 3: this file knows no part of the daemon. Parts report their trouble through a `Source`.

    starting ──► attesting ──► serving ◄──► degraded     every state ──► stopping, which is final
                                  ▲            ▲
                                  ▼            ▼
                               blocked ◄──► expired      these four follow the facts either way
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Final


class State(StrEnum):
    """Where the daemon is in its life."""

    STARTING = "starting"
    ATTESTING = "attesting"
    SERVING = "serving"
    DEGRADED = "degraded"
    BLOCKED = "blocked"
    EXPIRED = "expired"
    STOPPING = "stopping"


class Part(StrEnum):
    """Who can have a trouble."""

    PASSPORT = "passport"
    COLLATERAL = "collateral"
    POLICY = "policy"
    JOURNAL = "journal"
    OBSERVER = "observer"
    TLS = "tls"


class Weight(IntEnum):
    """What a trouble means while the passport is valid."""

    CONCERN = 1  # requests are decided and recorded; somebody should look
    BLOCKS = 2  # requests are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is wrong with one part.

    Attributes:
        code: stable; another code of the same part is a change that is announced.
        reason: what was found, for people; may change without being announced.
        next: what happens next, by itself or by whom.
    """

    part: Part
    weight: Weight
    code: str
    reason: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the state depends on.

    Attributes:
        now_ns, passport_ends_ns: on the boot-time clock; None: there was no passport yet.
    """

    now_ns: int
    begun: bool = True
    stopping: bool = False
    passport_ends_ns: int | None = None
    troubles: tuple[Trouble, ...] = ()


def _heaviest(facts: Facts) -> int:
    return max((trouble.weight for trouble in facts.troubles), default=0)


# The first that holds is the state.
RULES: Final[tuple[tuple[State, Callable[[Facts], bool]], ...]] = (
    (State.STOPPING, lambda facts: facts.stopping),
    (State.STARTING, lambda facts: not facts.begun),
    (State.ATTESTING, lambda facts: facts.passport_ends_ns is None),
    (State.EXPIRED, lambda facts: (facts.passport_ends_ns or 0) <= facts.now_ns),
    (State.BLOCKED, lambda facts: _heaviest(facts) >= Weight.BLOCKS),
    (State.DEGRADED, lambda facts: _heaviest(facts) >= Weight.CONCERN),
    (State.SERVING, lambda _facts: True),
)

_LIVE: Final = frozenset({State.SERVING, State.DEGRADED, State.BLOCKED, State.EXPIRED})
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.STARTING: frozenset({State.ATTESTING, State.STOPPING}),
    State.ATTESTING: _LIVE | {State.STOPPING},
    **{state: (_LIVE - {state}) | {State.STOPPING} for state in _LIVE},
    State.STOPPING: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Serves:
    """What a state serves.

    Attributes:
        gateway: requests are decided and recorded; else they are refused, and `/readyz` says no.
        means: what the state means, for people.
        next: what happens next where no trouble knows better.
    """

    gateway: bool
    means: str
    next: str


SERVES: Final[dict[State, Serves]] = {
    State.STARTING: Serves(False, "everything is being opened", "the first quote is asked for"),
    State.ATTESTING: Serves(
        False, "there is no passport yet", "the quote is asked for until there is one"
    ),
    State.SERVING: Serves(True, "all is well", "the passport is renewed at about half its life"),
    State.DEGRADED: Serves(True, "requests are served, something is wrong", "it is tried again"),
    State.BLOCKED: Serves(
        False, "requests are refused though the passport is valid", "it is tried again"
    ),
    State.EXPIRED: Serves(
        False, "the passport has ended", "requests are refused until a passport is issued"
    ),
    State.STOPPING: Serves(
        False, "the end has begun", "open requests finish, the journal is delivered"
    ),
}


def derive(facts: Facts) -> State:
    """The state that the facts make."""
    return next(state for state, holds in RULES if holds(facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is said of the daemon at one moment, everywhere alike. Times on the boot-time clock."""

    state: State
    since_ns: int
    ready: bool
    reason: str
    next: str
    troubles: tuple[tuple[Trouble, int], ...]  # with since when

    def line(self) -> str:
        """State and reason, for `/readyz` and the service manager."""
        return f"{self.state}: {self.reason}"


Source = Callable[[], Trouble | None]
_FOREVER: Final = 2**63


class Lifecycle:
    """The facts, and what was last made of them.

    Args:
        clock: boot-time nanoseconds.
        require_passport: False: an ended passport does not close the gateway; the state says so
            all the same.
        changed: called after each change of the state, or of which troubles there are, with what
            holds now and the state before. It must not look again.

    Attributes:
        open_until_ns: the gateway decides requests before this instant. Kept ready for the gate,
            which compares it with the clock for every request.
        transitions: how often each state was entered.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        require_passport: bool = True,
        changed: Callable[[Standing, State], None] = lambda _standing, _before: None,
    ) -> None:
        self._clock = clock
        self._require_passport = require_passport
        self._changed = changed
        self._sources: list[Source] = []
        self._facts = Facts(now_ns=clock(), begun=False)
        self._passport = ""
        self._ending, self._ending_next = "", SERVES[State.STOPPING].next
        self._troubles: dict[Part, tuple[Trouble, int]] = {}
        self._state = State.STARTING
        self._since_ns = clock()
        self.open_until_ns = 0
        self.transitions = dict.fromkeys(State, 0)
        self.transitions[State.STARTING] = 1

    def watch(self, source: Source) -> None:
        """Ask this whenever somebody looks. It must be cheap and must not raise."""
        self._sources.append(source)

    def begin(self) -> None:
        """Everything is open; the first quote is asked for."""
        self._facts = replace(self._facts, begun=True)
        self.look()

    def stop(self, reason: str) -> None:
        """The end begins. Final; the first reason stays."""
        if not self._facts.stopping:
            self._ending = reason
            self._facts = replace(self._facts, stopping=True)
        self.look()

    def ending(self, following: str) -> None:
        """While stopping: what happens next."""
        self._ending_next = following

    def issued(self, passport_id: str, ends_ns: int) -> None:
        """There is a new passport. A later one may end earlier: the newest counts."""
        self._passport = passport_id
        self._facts = replace(self._facts, passport_ends_ns=ends_ns)
        self.look()

    def look(self) -> Standing:
        """What holds now; announces it if it is something else than the last time."""
        self.beat()
        return self._standing()

    def beat(self) -> None:
        """Only look whether there is something to announce. Done all the time, so it is cheap."""
        now, known = self._clock(), self._facts
        found = [trouble for source in self._sources if (trouble := source()) is not None]
        facts = Facts(
            now_ns=now,
            begun=known.begun,
            stopping=known.stopping,
            passport_ends_ns=known.passport_ends_ns,
            troubles=tuple(found),
        )
        state, before = derive(facts), self._state
        moved = state is not before
        if moved:
            if state not in TRANSITIONS[before]:
                raise AssertionError(f"{state} cannot follow {before}: an error of the program")
            ends = facts.passport_ends_ns
            # An ended passport ended when it did, not when it was noticed.
            exact = state is State.EXPIRED and ends is not None
            self._state = state
            self._since_ns = max(ends or 0, self._since_ns) if exact else now
            self.transitions[state] += 1
        news = self._note(found, now) or moved
        self.open_until_ns = self._open_until(facts)
        if news:
            self._changed(self._standing(), before)

    def _note(self, found: Iterable[Trouble], now: int) -> bool:
        """Keep since when each trouble has been there; whether there are others than before."""
        kept: dict[Part, tuple[Trouble, int]] = {}
        news = False
        for trouble in found:
            known = self._troubles.get(trouble.part)
            same = known is not None and known[0].code == trouble.code
            kept[trouble.part] = (trouble, known[1] if known is not None else now)
            news = news or not same
        news = news or len(kept) != len(self._troubles)
        self._troubles = kept
        return news

    def _open_until(self, facts: Facts) -> int:
        ends = facts.passport_ends_ns
        if facts.stopping or not facts.begun or ends is None:
            return 0
        return ends if self._require_passport else _FOREVER

    def _ready(self) -> bool:
        if self._state is State.EXPIRED and not self._require_passport:
            return all(trouble.weight < Weight.BLOCKS for trouble, _ in self._troubles.values())
        return SERVES[self._state].gateway

    def _standing(self) -> Standing:
        troubles = sorted(self._troubles.values(), key=lambda pair: -pair[0].weight)
        reasons = [f"{trouble.part}: {trouble.reason}" for trouble, _ in troubles]
        following = troubles[0][0].next if troubles else SERVES[self._state].next
        match self._state:
            case State.STARTING:
                reasons = ["the daemon has just started"]
            case State.ATTESTING if not reasons:
                reasons = ["the first quote has been asked for"]
            case State.SERVING:
                reasons = [f"passport {self._passport} is valid"]
            case State.EXPIRED:
                reasons = [f"passport {self._passport} has ended", *reasons]
            case State.STOPPING:
                reasons, following = [self._ending, *reasons], self._ending_next
            case _:
                pass
        return Standing(
            state=self._state,
            since_ns=self._since_ns,
            ready=self._ready(),
            reason="; ".join(reasons),
            next=following,
            troubles=tuple(troubles),
        )
