"""The kept corpus of the fuzzer: every input once more, without coverage guidance.

`make fuzz` begins with it. An input that broke a law is added, named after what it broke.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

KEPT = Path(__file__).with_name("kept")


@pytest.mark.parametrize("target", TARGETS)
def test_the_laws_hold_for_every_kept_input(target: str) -> None:
    inputs = sorted((KEPT / target).iterdir())
    assert inputs
    for path in inputs:
        data = path.read_bytes()
        try:
            TARGETS[target](data)
        except Exception as error:
            error.add_note(f"input: tests/fuzz/kept/{target}/{path.name}")
            raise


def test_nothing_is_kept_for_a_target_that_is_no_more() -> None:
    assert {path.name for path in KEPT.iterdir()} == set(TARGETS)
