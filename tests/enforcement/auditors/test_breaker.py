"""The circuit breaker, against its table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcement.auditors.breaker import Breaker, Rules, State

RULES = Rules(failures=3, pause=1.0, longest_pause=8.0)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(RULES.failures):
        assert breaker.allows(now)
        breaker.failed(now)
    assert breaker.state is State.OPEN
    return breaker


def test_it_opens_at_the_limit_of_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker(RULES)
    for outcome in (False, False, True, False, False):
        assert breaker.allows(0.0)
        breaker.succeeded() if outcome else breaker.failed(0.0)
    assert breaker.state == "closed"
    breaker.failed(0.0)
    assert breaker.state == "open"
    assert not breaker.allows(0.5)
    assert breaker.retry_after(0.25) == 0.75


def test_after_the_pause_one_trial_is_made_and_no_second_beside_it() -> None:
    breaker = opened()
    assert breaker.allows(1.0)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.allows(1.0)
    assert not breaker.allows(100.0)


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = opened()
    breaker.allows(1.0)
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert breaker.allows(1.0)


def test_a_trial_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        pause = breaker.retry_after(now)
        pauses.append(pause)
        now += pause
        assert breaker.allows(now)
        breaker.failed(now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_trial_that_is_given_up_may_be_made_again() -> None:
    breaker = opened()
    assert breaker.allows(1.0)
    breaker.dropped()
    assert breaker.allows(1.0)


def test_who_comes_and_goes_is_called_less_and_less() -> None:
    breaker, now = opened(), 0.0
    for expected in (1.0, 2.0, 4.0):
        assert breaker.retry_after(now) == expected
        now += expected
        assert breaker.allows(now)
        breaker.succeeded()  # it comes …
        for _ in range(RULES.failures):  # … and goes
            breaker.failed(now)
        assert breaker.state is State.OPEN


def test_who_stays_starts_anew_with_the_first_pause() -> None:
    breaker = opened()
    assert breaker.allows(1.0)
    breaker.failed(1.0)
    assert breaker.allows(3.0)
    for _ in range(RULES.failures):
        breaker.succeeded()
    for _ in range(RULES.failures):
        breaker.failed(3.0)
    assert breaker.retry_after(3.0) == 1.0


@pytest.mark.parametrize("late", ["succeeded", "failed", "dropped"])
def test_what_ends_late_changes_nothing_while_it_is_open(late: str) -> None:
    breaker = opened()
    breaker.failed(0.9) if late == "failed" else getattr(breaker, late)()
    assert breaker.state is State.OPEN
    assert breaker.retry_after(0.0) == 1.0


@given(st.lists(st.sampled_from(["ok", "fail", "drop", "wait"]), max_size=60))
def test_it_never_stays_shut_for_longer_than_the_longest_pause(steps: list[str]) -> None:
    breaker, now = Breaker(RULES), 0.0
    for step in steps:
        if step == "wait":
            now += 0.7
        elif breaker.allows(now):
            {"ok": breaker.succeeded, "drop": breaker.dropped}.get(
                step, lambda now=now: breaker.failed(now)
            )()
    assert breaker.state is not State.HALF_OPEN
    assert breaker.allows(now + RULES.longest_pause)
