"""Precision and recall of the detectors over texts that they were not made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from enforcement.detectors import DETECTORS, PRIORITY, scan
from tests.enforcement.detectors.labelled import LABELLED

Counts = dict[str, Counter[str]]


def counts() -> tuple[Counts, list[str]]:
    """Right, missed and wrong spans of each label; exact spans, all detectors on."""
    found: Counts = {label: Counter() for label in PRIORITY}
    faults: list[str] = []
    for text, wanted in LABELLED:
        spans = [(s.label, text[s.start : s.end]) for s in scan(text, DETECTORS)]
        for label, words in wanted:
            right = (label, words) in spans
            found[label]["right" if right else "missed"] += 1
            if not right:
                faults.append(f"missed {label}: {words!r} in {text!r}")
        for label, words in spans:
            if (label, words) not in wanted:
                found[label]["wrong"] += 1
                faults.append(f"wrong {label}: {words!r} in {text!r}")
    return found, faults


def test_precision_and_recall_over_texts_they_were_not_made_for(
    record_property: Callable[[str, object], None],
) -> None:
    found, faults = counts()
    right, missed, wrong = (
        sum(c[kind] for c in found.values()) for kind in ("right", "missed", "wrong")
    )
    record_property("labelled", {label: dict(c) for label, c in found.items()})
    report = "\n".join([str(found), *faults])
    assert right / (right + missed) >= 0.83, report
    assert right / (right + wrong) >= 0.94, report


def test_disguised_numbers_and_addresses_are_found_whole() -> None:
    """Full-width, zero-width, other scripts' digits, look-alike letters: part of the set."""
    disguised = [
        (text, words)
        for text, wanted in LABELLED
        for _, words in wanted
        if not words.isascii() and "ö" not in words
    ]
    assert len(disguised) >= 8
    for text, words in disguised:
        assert words in [text[s.start : s.end] for s in scan(text, DETECTORS)], text


def test_most_texts_hold_nothing_and_nearly_none_is_accused() -> None:
    innocent = [text for text, wanted in LABELLED if not wanted]
    accused = [text for text in innocent if scan(text, DETECTORS)]
    assert len(innocent) > len(LABELLED) / 2
    assert len(accused) <= 1, accused
