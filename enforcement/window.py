"""The hold-back window over one text of a stream (one field of one choice).

Text enters as it comes and leaves when it is settled: far enough from the end that nothing which is
still to come can make it part of a match, and masked where the policy says so. What has left stays
as context for a while, because a match may depend on the words before it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attestation.records import TextDigest
from enforcement.detectors import MASKS, Span, hold_from, max_match_length, scan

CONTEXT: Final = 256  # characters that have left and still count as what stands before a match
MAX_HELD: Final = 1024 * 1024  # characters; a reply held whole (`buffer`) may be this long


class WindowOverflowError(Exception):
    """More text is held than the limit allows."""


class Window:
    """One text. `labels`: the detectors that are on."""

    __slots__ = ("_context", "_hash", "_hold_back", "_labels", "_size", "held", "released_size")

    def __init__(self, *, labels: frozenset[str], hold_back: int | None, salt: bytes) -> None:
        """`hold_back` in characters; None holds everything until the end. At least as much is held
        as the detectors need to recognise a match.
        """
        self._labels = labels
        self._hold_back = None if hold_back is None else max(hold_back, max_match_length(labels))
        self._context = ""
        self._hash = hashlib.sha256(salt)
        self._size = 0
        self.held = ""
        self.released_size = 0

    def add(self, text: str) -> None:
        """Take more text in.

        Raises:
            WindowOverflowError: the limit of held text.
        """
        data = text.encode()
        self._hash.update(data)
        self._size += len(data)
        self.held += text
        if len(self.held) > MAX_HELD:
            raise WindowOverflowError

    @property
    def full(self) -> bool:
        """Whether enough is held that it is worth looking: a quarter more than must stay."""
        hold = self._hold_back
        return hold is not None and len(self.held) > hold + max(hold // 4, 16)

    def spans(self) -> list[Span]:
        """What the detectors find in the held text, context considered; offsets in `held`."""
        return self._scan(self._labels)

    def _scan(self, labels: frozenset[str]) -> list[Span]:
        before = len(self._context)
        return [
            Span(max(span.start - before, 0), span.end - before, span.label, span.also)
            for span in scan(self._context + self.held, labels)
            if span.end > before
        ]

    def release(self, redact: frozenset[str], *, everything: bool = False) -> str:
        """What may leave now, masked; the rest stays. `everything`: the text has ended."""
        masks = self._scan(redact) if redact else []
        cut = len(self.held) if everything else self._settled(masks)
        if cut <= 0:
            return ""
        out: list[str] = []
        place = 0
        for span in masks:
            if span.end > cut:
                break
            out += (self.held[place : span.start], MASKS[span.label])
            place = span.end
        out.append(self.held[place:cut])
        self._context = (self._context + self.held[:cut])[-CONTEXT:]
        self.held = self.held[cut:]
        text = "".join(out)
        self.released_size += len(text.encode())
        return text

    def _settled(self, masks: list[Span]) -> int:
        if self._hold_back is None:
            return 0
        before = len(self._context)
        cut = min(
            len(self.held) - self._hold_back,
            hold_from(self._context + self.held, self._labels) - before,
        )
        for span in (*masks, *self.spans()):
            if span.start < cut < span.end:
                cut = span.start
        return cut

    def digest(self) -> TextDigest:
        """For the record: salted, over the text as it came."""
        return TextDigest(sha256=self._hash.digest(), size=self._size)
