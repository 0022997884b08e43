"""Masking: spans out, masks in; and proof that nothing is left."""

from __future__ import annotations

from collections.abc import Sequence

from enforcement.detectors import DETECTORS, MASKS, Span, scan


class RedactionIncompleteError(Exception):
    """After masking, something that had to be masked was still found."""


def known_labels(labels: frozenset[str]) -> frozenset[str]:
    """The labels that the built-in detectors can find."""
    return labels & DETECTORS


def mask_of(label: str) -> str:
    """What stands in the place of what has this label, an auditor's labels included."""
    return MASKS.get(label) or f"[{label.upper()}]"


def mask(text: str, labels: frozenset[str], marked: Sequence[Span] = ()) -> str:
    """The text with every match of the labels replaced by its mask, whole.

    Args:
        marked: what auditors marked besides; a mark that overlaps a match becomes part of it.

    Raises:
        RedactionIncompleteError: the result still has a match.
    """
    spans = scan(text, labels)
    if marked:
        spans = _united(spans, marked)
    if not spans:
        return text
    masked = apply(text, spans)
    if scan(masked, labels):
        raise RedactionIncompleteError
    return masked


def apply(text: str, spans: list[Span]) -> str:
    """Replace sorted, disjoint spans by their masks."""
    out: list[str] = []
    place = 0
    for span in spans:
        out += (text[place : span.start], mask_of(span.label))
        place = span.end
    out.append(text[place:])
    return "".join(out)


def _united(found: list[Span], marked: Sequence[Span]) -> list[Span]:
    """Matches and marks together, sorted and disjoint; a detector's label goes before a mark's."""
    out: list[Span] = []
    for span in sorted((*found, *marked), key=lambda s: (s.start, -s.end)):
        if not out or span.start >= out[-1].end:
            out.append(span)
            continue
        last = out[-1]
        label = last.label if last.label in MASKS else span.label
        out[-1] = Span(last.start, max(last.end, span.end), label)
    return out
