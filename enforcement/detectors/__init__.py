"""Built-in detectors: personal data and secrets in text, in linear time.

`scan` finds spans, `claims_from` turns them into the built-in claims. To mask, scan with exactly
the labels to mask: overlapping matches are merged into one span under the strongest label, so a
scan with more labels could hide a weaker one (it is then listed in `Span.also`).

Streams. A match is recognised within `max_match_length` characters, and once recognised it can
only grow at its end (a private key up to 32,768 characters, other keys up to 4,096, a signed token
without a bound). `hold_from` says from where the text must be kept back because more of it may
still be part of a match.

Time. A text with an unreasonable number of candidates (tens of thousands of numbers, say) is not
looked at to its end: the rest of it counts as one match of that label. So a scan takes a bounded
time, and an attacker gains a mask instead of a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from attestation.records import ClaimValue
from enforcement.detectors import keys, patterns, personal
from enforcement.detectors.budget import Budget, Exhausted
from enforcement.detectors.fold import Folded

# Strongest first: the label of a merged span is the first of these in it.
PRIORITY: Final = ("api_key", "card", "iban", "ssn", "email", "phone")
DETECTORS: Final = frozenset(PRIORITY)
MASKS: Final = {label: f"[{label.upper()}]" for label in PRIORITY}

# Characters within which a match is recognised, words before it (`tel:`, `api_key =`) included.
_LENGTHS: Final = {
    "api_key": 256,
    "card": 64,
    "iban": 80,
    "ssn": 64,
    "email": 256,
    "phone": 96,
}
_FINDERS: Final[dict[str, Callable[[bytes, Budget], Iterator[tuple[int, int]]]]] = {
    "api_key": keys.api_keys,
    "card": personal.cards,
    "iban": personal.ibans,
    "ssn": personal.ssns,
    "email": personal.emails,
    "phone": personal.phones,
}


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` (code points) is of the kind `label`; `also`: weaker labels merged in."""

    start: int
    end: int
    label: str
    also: tuple[str, ...] = ()


def scan(text: str, labels: frozenset[str]) -> list[Span]:
    """Find what `labels` name: sorted, disjoint spans.

    Raises:
        ValueError: an unknown label.
    """
    return _scan(Folded(text), labels)


def _scan(folded: Folded, labels: frozenset[str]) -> list[Span]:
    if not labels or patterns.trigger(labels).search(folded.data) is None:
        return []
    return _merge(_find(folded, labels))


def find(text: str, labels: Iterable[str]) -> list[Span]:
    """Every match of every label, unmerged, without the pre-filter."""
    return _find(Folded(text), labels)


def _find(folded: Folded, labels: Iterable[str]) -> list[Span]:
    spans: list[Span] = []
    data, place = folded.data, folded.place
    for label in PRIORITY:
        if label not in labels:
            continue
        try:
            for start, end in _FINDERS[label](data, Budget()):
                spans.append(Span(place(start), place(end), label))
        except Exhausted as exhausted:
            spans.append(Span(place(exhausted.at), place(len(data)), label))
    return spans


def claims_from(spans: Iterable[Span]) -> dict[str, ClaimValue]:
    """The built-in claims: `pii_found`, `pii_types` (sorted labels) and `secret_leaked`."""
    labels = {label for span in spans for label in (span.label, *span.also)}
    secret = "api_key" in labels
    personal = tuple(sorted(labels - {"api_key"}))
    return {"pii_found": bool(personal), "pii_types": personal, "secret_leaked": secret}


def max_match_length(labels: Iterable[str]) -> int:
    """Characters within which a match of any of the labels is recognised; 1 for none."""
    return max((_LENGTHS[label] for label in labels), default=1)


def hold_from(text: str, labels: frozenset[str]) -> int:
    """First offset of a text so far that must not leave before more is known.

    Everything before it is settled: no match reaches over it, whatever follows.
    """
    folded = Folded(text)
    # Counted in what is visible: invisible characters must not push a match out of the window.
    hold = folded.place(max(0, len(folded.data) - max_match_length(labels) + 1))
    for span in reversed(_scan(folded, labels)):
        if span.end >= hold:
            hold = min(hold, span.start)
    return hold


def _merge(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    accounts = [span for span in spans if span.label == "iban"]
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if span.label == "card" and any(
            a.start < span.start <= span.end <= a.end for a in accounts
        ):
            continue  # some digits of a checked account number pass for a card's by chance
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            labels = {last.label, *last.also, span.label}
            label, *also = sorted(labels, key=PRIORITY.index)
            merged[-1] = Span(last.start, max(last.end, span.end), label, tuple(also))
        else:
            merged.append(span)
    return merged
