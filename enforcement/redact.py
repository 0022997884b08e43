"""Masking: spans out, masks in; and proof that nothing is left."""

from __future__ import annotations

from enforcement.detectors import DETECTORS, MASKS, Span, scan


class RedactionIncompleteError(Exception):
    """After masking, something that had to be masked was still found."""


def known_labels(labels: frozenset[str]) -> frozenset[str]:
    """The labels that the built-in detectors can find."""
    return labels & DETECTORS


def mask(text: str, labels: frozenset[str]) -> str:
    """The text with every match of the labels replaced by its mask, whole.

    Raises:
        RedactionIncompleteError: the result still has a match.
    """
    spans = scan(text, labels)
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
        out += (text[place : span.start], MASKS[span.label])
        place = span.end
    out.append(text[place:])
    return "".join(out)
