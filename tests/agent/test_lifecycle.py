"""The life-cycle table holds what the design promises of each state."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lifecycle import SERVES, TRANSITIONS, Event, Lifecycle, State


class Ticks:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def after(*events: Event) -> Lifecycle:
    cycle = Lifecycle(clock=Ticks())
    for event in events:
        cycle.happen(event, str(event))
    return cycle


def test_every_state_says_what_it_serves() -> None:
    assert set(SERVES) == set(State)


@pytest.mark.parametrize("state", [s for s in State if s is not State.STOPPING])
def test_every_state_can_stop(state: State) -> None:
    assert TRANSITIONS[state, Event.STOP] is State.STOPPING


def test_nothing_is_served_before_the_first_passport() -> None:
    assert not after().serves.gateway
    assert not after(Event.BEGIN).serves.gateway
    assert not after(Event.BEGIN, Event.FAILED).serves.ready


def test_a_failed_renewal_degrades_and_still_serves() -> None:
    cycle = after(Event.BEGIN, Event.ISSUED, Event.FAILED)
    assert cycle.state is State.DEGRADED
    assert cycle.serves.gateway
    assert cycle.reason == "failed"


def test_an_expired_passport_closes_the_gateway_and_a_new_one_opens_it() -> None:
    cycle = after(Event.BEGIN, Event.ISSUED, Event.FAILED, Event.EXPIRED)
    assert not cycle.serves.gateway
    cycle.happen(Event.FAILED, "still down")
    assert cycle.state is State.EXPIRED
    cycle.happen(Event.ISSUED, "")
    assert cycle.serves.ready


def test_stopping_is_final() -> None:
    cycle = after(Event.BEGIN, Event.STOP)
    assert not cycle.happen(Event.ISSUED, "late")
    assert cycle.state is State.STOPPING


def test_an_event_that_cannot_happen_is_an_error() -> None:
    with pytest.raises(ValueError, match="issued cannot happen while starting"):
        after(Event.ISSUED)


def test_the_time_in_a_state_is_boot_time() -> None:
    clock = Ticks()
    cycle = Lifecycle(clock=clock)
    clock.now = 3_000_000_000
    assert cycle.seconds_in_state == 3.0
    cycle.happen(Event.BEGIN, "")
    assert cycle.seconds_in_state == 0.0


@given(st.lists(st.sampled_from(list(Event)), max_size=20))
def test_the_gateway_is_open_only_while_an_issued_passport_has_not_expired(
    events: list[Event],
) -> None:
    cycle, valid, stopped = Lifecycle(clock=Ticks()), False, False
    for event in events:
        try:
            cycle.happen(event, "")
        except ValueError:
            continue
        stopped = stopped or event is Event.STOP
        valid = {Event.ISSUED: True, Event.EXPIRED: False}.get(event, valid)
        assert cycle.serves.gateway == (valid and not stopped)


def test_the_table_has_no_state_or_event_that_is_not_used() -> None:
    assert {s for s, _ in TRANSITIONS} == set(State)
    assert {e for _, e in TRANSITIONS} == set(Event)
    assert set(itertools.chain(TRANSITIONS.values(), [State.STARTING])) == set(State)
