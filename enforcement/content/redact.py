"""Redaction: spans out, what stands for them in; and proof that nothing is left.

Spans come from the detectors and from auditors, as (start, end, label) in code points of one text.
All of this is pure; streams use it through their windows (`window.py`), whole texts through `mask`.

How a label is redacted, mildest first; where policies differ, the strictest counts:

- `hash`: `[EMAIL:kbdnplaeicfm]`. The same secret has the same token until the agent is restarted,
  in whatever way it is written. Without the key of this boot a token tells nothing; with it, what
  it stands for could be tried out, so the key never leaves memory.
- `mask`: `[EMAIL]`.
- `drop`: an ellipsis, which does not say of what kind it was. (Nothing at all would join the words
  beside it, and digits beside it could become a number that was looked for.)
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from enforcement.detectors import DETECTORS, MASKS, Span, scan
from enforcement.detectors.fold import Folded
from enforcement.outcome import Redaction, Verdict

DROPPED: Final = "…"
_LETTERS: Final = bytes.maketrans(b"0123456789abcdef", b"abcdefghijklmnop")  # no digits: see `mask`
_TOKEN: Final = 12  # letters, 48 bits
_NUMBERS: Final = frozenset({"card", "iban", "phone", "ssn"})


class RedactionIncompleteError(Exception):
    """After masking, something that had to be masked was still found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redactor:
    """What takes the place of a secret.

    Attributes:
        key: of this boot, for `hash`; never empty where a label is hashed.
        methods: by label; `mask` for the others.
    """

    key: bytes = field(default=b"", repr=False)
    methods: Mapping[str, Redaction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError: there is something to hash and no key."""
        if not self.key and Redaction.HASH in self.methods.values():
            raise ValueError("a hash needs the key of this boot")

    @classmethod
    def of(cls, verdict: Verdict, key: bytes) -> Redactor:
        """As a verdict demands it."""
        return cls(key=key, methods=verdict.redact_with) if verdict.redact_with else PLAIN

    def replacement(self, label: str, words: str, also: Iterable[str] = ()) -> str:
        """What stands for `words`, which are of the kind `label` and hold what `also` names."""
        if self.methods:
            methods = [self.methods.get(kind, Redaction.MASK) for kind in (label, *also)]
            method = max(methods, key=lambda one: one.strictness)
            if method is Redaction.DROP:
                return DROPPED
            if method is Redaction.HASH:
                return f"[{label.upper()}:{self._token(label, words)}]"
        return MASKS.get(label) or f"[{label.upper()}]"

    def _token(self, label: str, words: str) -> str:
        message = b"lucid.redact\0%b\0%b" % (label.encode(), _canonical(label, words))
        digest = hmac.digest(self.key, message, "sha256").hex()[:_TOKEN]
        return digest.encode().translate(_LETTERS).decode()


PLAIN: Final = Redactor()


def _canonical(label: str, words: str) -> bytes:
    """One form for all ways to write the same secret."""
    folded = Folded(words).data
    if label in _NUMBERS:
        return folded.translate(None, b" .-()/").upper()
    return folded.lower() if label == "email" else folded


def known_labels(labels: frozenset[str]) -> frozenset[str]:
    """The labels that the built-in detectors can find."""
    return labels & DETECTORS


def mask(
    text: str, labels: frozenset[str], marked: Sequence[Span] = (), how: Redactor = PLAIN
) -> str:
    """The text with every match of the labels, and every mark, redacted whole.

    Args:
        marked: what auditors marked besides; a mark that overlaps a match becomes part of it.

    Raises:
        RedactionIncompleteError: the result still has a match.
    """
    spans = scan(text, labels)
    if marked:
        spans = united((*spans, *marked))
    if not spans:
        return text
    masked = apply(text, spans, how)
    if scan(masked, labels):
        raise RedactionIncompleteError
    return masked


def apply(text: str, spans: Iterable[Span], how: Redactor = PLAIN) -> str:
    """Replace sorted, disjoint spans."""
    out: list[str] = []
    place = 0
    for span in spans:
        words = text[span.start : span.end]
        out += (text[place : span.start], how.replacement(span.label, words, span.also))
        place = span.end
    out.append(text[place:])
    return "".join(out)


def united(spans: Iterable[Span]) -> list[Span]:
    """Matches and marks together, sorted and disjoint; a detector's label goes before a mark's."""
    out: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if not out or span.start >= out[-1].end:
            out.append(span)
            continue
        last = out[-1]
        label = last.label if last.label in MASKS else span.label
        also = {last.label, *last.also, span.label, *span.also} - {label}
        out[-1] = Span(last.start, max(last.end, span.end), label, tuple(sorted(also)))
    return out
