"""Thirty simulated days with failures of every kind: the promises of the life cycle hold all along.

The seed is printed; `LUCID_SOAK_SEED` gives another one.
"""

from __future__ import annotations

import itertools
import logging
import os
import random

from agent.attesting.renewal import FIRST_RETRY_SECONDS
from agent.life.lifecycle import TRANSITIONS, Part, State
from tests.agent.life.soaking import DAY, HINDER, MOMENTS, OTHERS, lived_through, schedule

SEED = int(os.environ.get("LUCID_SOAK_SEED", "20261126"))
DAYS = 30.0


def test_thirty_days_of_failures_never_serve_without_a_passport_and_always_recover() -> None:
    logging.getLogger("lucid").setLevel(logging.CRITICAL + 1)  # ten thousand lines
    try:
        world = lived_through(SEED, DAYS)
    finally:
        logging.getLogger("lucid").setLevel(logging.NOTSET)
    print(  # noqa: T201 - the seed, for whoever has to look at a failure
        f"seed {SEED}: {DAYS:.0f} days, {world.renewal.renewals} passports,"
        f" {sum(world.renewal.failures.values())} failed tries, {len(world.told)} changes,"
        f" open at {world.open_checks} of {world.checks} looks, faults {world.faults.counts}"
    )
    # It was hard enough to say something.
    assert world.renewal.renewals > 2_000
    assert len(world.renewal.failures) >= 8, world.renewal.failures
    assert world.pulse.jumps[("suspend",)] > 10
    assert world.pulse.jumps[("step",)] > 10
    assert world.faults.counts[("stream",)] > 10
    assert {after for _, _, after in world.told} >= {
        *(State.ATTESTING, State.SERVING, State.DEGRADED, State.BLOCKED, State.EXPIRED)
    }
    assert set(world.appeared) == set(Part)
    # One state at a time, along the table.
    at = State.STARTING
    for _, before, after in world.told:
        assert before is at
        assert after is before or after in TRANSITIONS[before]
        at = after
    # No flapping: a trouble of one part never comes back faster than the back-off.
    for part, times in world.appeared.items():
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert min(gaps) >= FIRST_RETRY_SECONDS * 0.9, (part, min(gaps))


def test_a_key_that_dies_ends_in_refusal_and_stays_visible() -> None:
    logging.getLogger("lucid").setLevel(logging.CRITICAL + 1)
    try:
        world = lived_through(SEED, 3.0, dies=1.5 * DAY)
    finally:
        logging.getLogger("lucid").setLevel(logging.NOTSET)
    assert world.dead is not None, "checked by the client all along"
    assert world.renewal.failures[("quote.key_disabled",)] == 1
    issued = world.renewal.current
    assert issued is not None
    closed = [boot for boot, _, after in world.told if after is State.EXPIRED][-1]
    assert closed >= issued.expires_ns
    served = [after for boot, _, after in world.told if boot > closed]
    assert State.SERVING not in served
    assert world.lifecycle.transitions[State.STOPPING] == 0


def test_the_schedule_has_every_kind_and_is_the_same_for_a_seed() -> None:
    made = schedule(random.Random(SEED), DAYS)
    assert {window.kind for window in made} == {*HINDER, *OTHERS, *MOMENTS}
    assert made == schedule(random.Random(SEED), DAYS)
