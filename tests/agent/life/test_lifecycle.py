"""The life cycle's tables hold what the design promises of each state, and nothing is latched."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.life.lifecycle import (
    RULES,
    SERVES,
    TRANSITIONS,
    Facts,
    Lifecycle,
    Part,
    Standing,
    State,
    Trouble,
    Weight,
    derive,
)

SECOND = 1_000_000_000


class Ticks:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


def trouble(part: Part, weight: Weight = Weight.CONCERN, code: str = "x") -> Trouble:
    return Trouble(
        part=part, weight=weight, code=code, reason=f"{part} is broken", next="tried again"
    )


class World:
    """A life cycle with its parts, as a test wants them."""

    def __init__(self, *, require_passport: bool = True) -> None:
        self.clock = Ticks()
        self.told: list[tuple[State, State]] = []
        self.cycle = Lifecycle(
            clock=self.clock,
            require_passport=require_passport,
            changed=lambda standing, before: self.told.append((before, standing.state)),
        )
        self.troubles: dict[Part, Trouble] = {}
        for part in Part:
            self.cycle.watch(lambda part=part: self.troubles.get(part))  # type: ignore[misc]

    def serving(self) -> World:
        self.cycle.begin()
        self.cycle.issued("pass-1", self.clock.now + 100 * SECOND)
        return self

    def has(self, *troubles: Trouble) -> Standing:
        self.troubles = {each.part: each for each in troubles}
        return self.cycle.look()

    def state(self) -> State:
        return self.cycle.look().state


# -- the tables ----------------------------------------------------------------------------------


def test_every_state_has_a_rule_says_what_it_serves_and_where_it_leads() -> None:
    assert [state for state, _ in RULES][-1] is State.SERVING
    assert {state for state, _ in RULES} == set(SERVES) == set(TRANSITIONS) == set(State)


def test_every_state_can_be_reached_and_only_the_last_is_final() -> None:
    reached = set(itertools.chain.from_iterable(TRANSITIONS.values()))
    assert reached == set(State) - {State.STARTING}
    assert [state for state in State if not TRANSITIONS[state]] == [State.STOPPING]


@given(
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(0, 3),
    st.integers(0, 3),
    st.sets(st.sampled_from(list(Weight))),
)
def test_facts_make_one_state_and_only_a_valid_passport_serves(
    begun: bool, stopping: bool, ends: int | None, now: int, weights: set[Weight]
) -> None:
    facts = Facts(
        now_ns=now,
        begun=begun,
        stopping=stopping,
        passport_ends_ns=ends,
        troubles=tuple(trouble(Part.JOURNAL, weight) for weight in weights),
    )
    serves = SERVES[derive(facts)].gateway
    valid = ends is not None and now < ends
    assert serves == (begun and not stopping and valid and Weight.BLOCKS not in weights)


# -- what holds ----------------------------------------------------------------------------------


def test_nothing_is_served_before_the_first_passport() -> None:
    world = World()
    assert not world.cycle.look().ready
    world.cycle.begin()
    standing = world.has(trouble(Part.PASSPORT))
    assert (standing.state, standing.ready) == (State.ATTESTING, False)
    assert world.cycle.open_until_ns == 0
    assert "passport is broken" in standing.reason


def test_a_concern_degrades_and_still_serves() -> None:
    world = World().serving()
    standing = world.has(trouble(Part.PASSPORT))
    assert (standing.state, standing.ready) == (State.DEGRADED, True)
    assert standing.line() == "degraded: passport: passport is broken"
    assert standing.next == "tried again"
    assert world.cycle.open_until_ns == 100 * SECOND


def test_what_cannot_be_recorded_is_not_served_and_the_heaviest_comes_first() -> None:
    world = World().serving()
    standing = world.has(trouble(Part.OBSERVER), trouble(Part.JOURNAL, Weight.BLOCKS))
    assert (standing.state, standing.ready) == (State.BLOCKED, False)
    assert standing.reason == "journal: journal is broken; observer: observer is broken"


def test_a_passport_ends_when_it_ends_not_when_it_is_noticed() -> None:
    world = World().serving()
    world.clock.forward(130)
    standing = world.cycle.look()
    assert standing.state is State.EXPIRED
    assert standing.since_ns == 100 * SECOND
    assert not standing.ready


def test_nothing_is_latched() -> None:
    world = World().serving()
    for _ in range(3):
        assert world.has(trouble(Part.JOURNAL, Weight.BLOCKS)).state is State.BLOCKED
        assert world.has().state is State.SERVING
    world.clock.forward(200)
    assert world.state() is State.EXPIRED
    world.cycle.issued("pass-2", world.clock.now + SECOND)
    assert world.state() is State.SERVING


def test_a_later_passport_that_ends_earlier_is_the_one_that_counts() -> None:
    world = World().serving()
    world.cycle.issued("pass-2", 5 * SECOND)
    world.clock.forward(6)
    assert world.state() is State.EXPIRED


def test_without_the_requirement_an_ended_passport_closes_nothing_and_shows_all_the_same() -> None:
    world = World(require_passport=False).serving()
    world.clock.forward(130)
    standing = world.cycle.look()
    assert (standing.state, standing.ready) == (State.EXPIRED, True)
    assert world.cycle.open_until_ns > world.clock.now
    assert not world.has(trouble(Part.JOURNAL, Weight.BLOCKS)).ready


def test_without_the_requirement_there_must_still_have_been_a_passport() -> None:
    world = World(require_passport=False)
    world.cycle.begin()
    assert world.cycle.open_until_ns == 0


def test_stopping_is_final_and_closes_the_gate() -> None:
    world = World().serving()
    world.cycle.stop("received SIGTERM")
    world.cycle.stop("received SIGINT")
    world.cycle.issued("late", world.clock.now + 100 * SECOND)
    standing = world.cycle.look()
    assert (standing.state, standing.reason) == (State.STOPPING, "received SIGTERM")
    assert world.cycle.open_until_ns == 0


def test_a_stop_before_the_start_is_possible() -> None:
    world = World()
    world.cycle.stop("SIGTERM")
    assert world.state() is State.STOPPING


# -- what is told --------------------------------------------------------------------------------


def test_each_change_is_told_once() -> None:
    world = World().serving()
    for _ in range(5):
        world.has(trouble(Part.PASSPORT))
    world.has()
    assert world.told == [
        (State.STARTING, State.ATTESTING),
        (State.ATTESTING, State.SERVING),
        (State.SERVING, State.DEGRADED),
        (State.DEGRADED, State.SERVING),
    ]


def test_a_second_trouble_and_another_code_are_told_though_the_state_stays() -> None:
    world = World().serving()
    world.has(trouble(Part.PASSPORT))
    told = len(world.told)
    world.has(trouble(Part.PASSPORT), trouble(Part.OBSERVER))
    world.has(trouble(Part.PASSPORT, code="y"), trouble(Part.OBSERVER))
    assert world.told[told:] == [(State.DEGRADED, State.DEGRADED)] * 2


def test_a_trouble_keeps_since_when_it_has_been_there() -> None:
    world = World().serving()
    world.has(trouble(Part.OBSERVER))
    world.clock.forward(7)
    standing = world.has(trouble(Part.OBSERVER), trouble(Part.JOURNAL))
    since = {each.part: began for each, began in standing.troubles}
    assert since == {Part.OBSERVER: 0, Part.JOURNAL: 7 * SECOND}


def test_entries_are_counted() -> None:
    world = World().serving()
    world.has(trouble(Part.PASSPORT))
    world.has()
    assert world.cycle.transitions[State.SERVING] == 2
    assert sum(world.cycle.transitions.values()) == 5


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["begin", "stop", "issue", "calm"]),
            st.floats(0, 60, allow_nan=False),
            st.sampled_from([trouble(part, weight) for part in Part for weight in Weight]),
        ),
        max_size=40,
    )
)
def test_whatever_happens_what_is_told_is_a_path_through_the_table(
    steps: list[str | float | Trouble],
) -> None:
    world = World()
    for step in steps:
        match step:
            case "begin":
                world.cycle.begin()
            case "stop":
                world.cycle.stop("test")
            case "issue":
                world.cycle.begin()
                world.cycle.issued("p", world.clock.now + 50 * SECOND)
            case "calm":
                world.has()
            case float():
                world.clock.forward(step)
            case Trouble():
                world.troubles[step.part] = step
        standing = world.cycle.look()
        if standing.ready:
            assert world.clock.now < world.cycle.open_until_ns
    at = State.STARTING
    for before, after in world.told:
        assert before is at
        assert after is before or after in TRANSITIONS[before]
        at = after


@pytest.mark.parametrize("state", list(State))
def test_what_a_state_means_is_said(state: State) -> None:
    assert SERVES[state].means
    assert SERVES[state].next
