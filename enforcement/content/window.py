"""The hold-back window over one text of a stream (one field of one choice).

Text enters as it comes and leaves when it is settled: far enough from the end that nothing which is
still to come can make it part of a match, and masked where the policy says so. What has left stays
as context for a while, because a match may depend on the words before it.

What is settled leaves in blocks of one size, counted after masking. So the sizes of the pieces do
not tell how long the text behind a mask was.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attestation.records import TextDigest
from enforcement.bodies.json_escapes import Unescaper
from enforcement.content.redact import PLAIN, Redactor
from enforcement.detectors import Span, hold_from, max_match_length, scan

CONTEXT: Final = 256  # characters that have left and still count as what stands before a match
MAX_HELD: Final = 1024 * 1024  # characters; a reply held whole (`buffer`) may be this long
LEAST_BLOCK: Final = 16  # characters


class WindowOverflowError(Exception):
    """More text is held than the limit allows."""


class Window:
    """One text. `labels`: the detectors that are on; `is_json`: escapes in it are resolved."""

    __slots__ = (
        "_block",
        "_context",
        "_half",
        "_hash",
        "_hold_back",
        "_labels",
        "_limit",
        "_masks",
        "_out",
        "_size",
        "_unescaper",
        "held",
        "masked",
        "released_size",
    )

    def __init__(
        self,
        *,
        labels: frozenset[str],
        hold_back: int | None,
        salt: bytes,
        is_json: bool = False,
    ) -> None:
        """`hold_back` in characters; None holds everything until the end. At least as much is held
        as the detectors need to recognise a match.
        """
        self._labels = labels
        self._hold_back = hold = (
            None if hold_back is None else max(hold_back, max_match_length(labels))
        )
        self._block = 0 if hold is None else max(hold // 4, LEAST_BLOCK)
        self._limit = MAX_HELD if hold is None else hold + self._block
        self._context = ""
        self._half = ""
        self._unescaper = Unescaper() if is_json else None
        self._hash = hashlib.sha256(salt)
        self._size = 0
        self._out = ""
        self._masks: list[tuple[int, int]] = []  # in `_out`: these leave whole
        self.held = ""
        self.masked = False  # whether anything was
        self.released_size = 0

    def add(self, text: str) -> None:
        """Take more text in.

        Raises:
            WindowOverflowError: the limit of held text.
        """
        if self._unescaper is not None:
            text = self._unescaper.add(text)
        if self._half or not text.isascii():
            text = self._characters(text)
        self.held += text
        if len(self.held) > MAX_HELD:
            raise WindowOverflowError

    def _characters(self, text: str) -> str:
        """The text without halves of surrogate pairs: a pair may be split over two pieces."""
        text, self._half = self._half + text, ""
        try:
            text.encode()
        except UnicodeEncodeError:
            if "\ud800" <= text[-1] <= "\udbff":
                text, self._half = text[:-1], text[-1]
            data = text.encode("utf-16-le", "surrogatepass")
            text = data.decode("utf-16-le", "replace")
        return text

    def end(self) -> None:
        """The text has ended: what waited for its other half will not get it."""
        if self._unescaper is not None:
            self.held += self._unescaper.add("", last=True)
        if self._half:
            self.held += "\ufffd"
            self._half = ""

    @property
    def full(self) -> bool:
        """Whether enough is held that it is worth looking: a block more than must stay."""
        return len(self.held) > self._limit

    @property
    def waiting(self) -> int:
        """Characters that have not left."""
        return len(self.held) + len(self._out)

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

    def release(
        self,
        redact: frozenset[str],
        spans: list[Span] | None = None,
        *,
        everything: bool = False,
        how: Redactor = PLAIN,
    ) -> list[str]:
        """What may leave now, masked, in the pieces in which it is to leave; the rest stays.

        The pieces depend on the masked text alone: whole blocks, longer only where a mask would be
        cut, and at the end what is left.

        Args:
            redact: labels to mask.
            spans: what `spans` has just found, where it was asked.
            everything: the text has ended (`end` was called).
            how: what stands in the place of what is masked.
        """
        if spans is None:
            spans = self.spans()
        masks = self._scan(redact) if spans and redact else []
        if everything:
            cut = len(self.held)
        else:
            cut = self._settled([*masks, *spans]) if self._hold_back is not None else 0
        if cut > 0:
            self._settle(cut, [span for span in masks if span.end <= cut], how)
        if self._hold_back is not None:
            # An open match may keep more than the window: not all of it again for every piece.
            grown = len(self.held) + max(self._block, len(self.held) // 8)
            self._limit = max(self._hold_back + self._block, grown)
        return self._take(everything=everything)

    def _settle(self, cut: int, masks: list[Span], how: Redactor) -> None:
        """Move text that is settled behind the masks to what may leave."""
        settled, self.held = self.held[:cut], self.held[cut:]
        place = 0
        for span in masks:
            self._out += settled[place : span.start]
            start = len(self._out)
            self._out += how.replacement(span.label, settled[span.start : span.end], span.also)
            self._masks.append((start, len(self._out)))
            place = span.end
        self._out += settled[place:]
        self._context = (self._context + settled)[-CONTEXT:]
        data = settled.encode()
        self._hash.update(data)
        self._size += len(data)
        self.masked = self.masked or bool(masks)

    def _take(self, *, everything: bool) -> list[str]:
        """Whole blocks of what may leave, or everything; masks are not cut."""
        pieces: list[str] = []
        out, block, place = self._out, self._block, 0
        while block and len(out) - place >= block:
            end = place + block
            for mask_start, mask_end in self._masks:
                if mask_start < end < mask_end:
                    end = mask_end
            pieces.append(out[place:end])
            place = end
        if everything and place < len(out):
            pieces.append(out[place:])
            place = len(out)
        if place:
            self._out = out[place:]
            self._masks = [(s - place, e - place) for s, e in self._masks if e > place]
            left = out[:place]
            self.released_size += len(left) if left.isascii() else len(left.encode())
        return pieces

    def _settled(self, spans: list[Span]) -> int:
        assert self._hold_back is not None
        cut = len(self.held) - self._hold_back
        # Invisible characters stretch a match; `hold_from` counts what is visible.
        if spans or not self.held.isascii():
            before = len(self._context)
            cut = min(cut, hold_from(self._context + self.held, self._labels) - before)
            for span in spans:
                if span.start < cut < span.end:
                    cut = span.start
        return cut

    def digest(self) -> TextDigest:
        """For the record: salted, over the text as it came."""
        rest = self.held.encode()
        whole = self._hash.copy()
        whole.update(rest)
        return TextDigest(sha256=whole.digest(), size=self._size + len(rest))
