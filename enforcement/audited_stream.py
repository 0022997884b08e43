"""A streamed reply that auditors look at: events wait in front of the guard until they have.

The guard of the stream (`enforcement.stream_guard`) stays as it is. What the model server sends is
read here into texts, one for each field that grows, and queued. When enough new text is there, or
the stream ends, the auditors are asked about the text so far; the door waits for them, so that at
most one question of a stream is under way, and what comes meanwhile waits in the socket. Then the
guard judges with their claims, and the queued events go into it, masked where auditors marked what
the policy masks. Where auditors mark texts, the newest characters stay queued, because more text
may make a mark longer. In mode `observe` nothing waits, and auditors are asked at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from attestation.records import DecisionRecord
from enforcement.auditing import Audit, Question
from enforcement.bodies.json_escapes import Places
from enforcement.content import sse
from enforcement.content.apierror import Headers, Refusal
from enforcement.content.redact import united
from enforcement.content.sse import MalformedStreamError, SseDecoder
from enforcement.content.texts import BodyError, Text, encode_json
from enforcement.content.window import CONTEXT, MAX_HELD
from enforcement.detectors import Span
from enforcement.policy_view import marked_by
from enforcement.stream_guard import StreamGuard
from enforcement.streams.api import Part
from enforcement.streams.editor import MAX_WINDOWS

Path = tuple[str | int, ...]
WEIGHT: Final = 8  # bytes of memory for each byte of an event that was read and waits


class Ask(Protocol):
    """Makes the question about the texts of a reply so far."""

    def __call__(self, output: tuple[str, ...], *, final: bool) -> Question:
        """`final`: no more text follows."""


# Events of the Responses API that repeat, at the end of a text, all of it.
_REPEATS: Final = (".done", ".completed", ".incomplete", ".failed")


@dataclass(slots=True)
class _Channel:
    """A text that grows: `text` so far, of which `passed` characters went to the guard.

    `masked_to`: where the last mask that went to the guard ends. `places`: of JSON that is written
    as a text, what auditors were given of it: its escapes resolved.
    """

    text: str = ""
    passed: int = 0
    masked_to: int = 0
    places: Places | None = None

    def add(self, text: str) -> None:
        """The text goes on."""
        self.text += text
        if self.places is not None:
            self.places.add(text)

    def shown(self) -> str:
        """What auditors are given."""
        return self.text if self.places is None else self.places.plain

    def marked(self, spans: Iterable[Span]) -> list[Span]:
        """What they marked, as spans of `text`."""
        if self.places is None:
            return united(spans)
        place = self.places.place
        return united(
            [replace(span, start=place(span.start), end=place(span.end)) for span in spans]
        )


@dataclass(slots=True)
class _Piece:
    """One text of one event: `[start:end]` of the channel with that number."""

    channel: int
    start: int
    end: int
    text: Text


@dataclass(slots=True)
class _Item:
    """One event that waits."""

    event: sse.Event
    value: Any = None
    pieces: list[_Piece] = field(default_factory=list)


class AuditedStream:
    """Stands before a guard and looks like one.

    Args:
        ask: makes the question about the texts.
        every: characters of new text after which auditors are asked; None: only at the end.
        hold_back: characters that stay queued, because a mark may still grow; 0: none.
    """

    def __init__(
        self, guard: StreamGuard, ask: Ask, *, observe: bool, every: int | None, hold_back: int
    ) -> None:
        self._guard = guard
        self._ask = ask
        self._observe = observe
        self._every = every
        self._hold_back = hold_back
        self._decoder = SseDecoder()
        self._reader = guard.reader()
        self._others = 0
        self._channels: list[_Channel] = []
        self._numbers: dict[Path, int] = {}
        self._queue: list[_Item] = []
        self._held = 0
        self._fresh = 0
        self._audited = False
        self._marked: list[list[Span]] = []  # what to mask, by channel, by the last answer
        self._blind = False
        self._finishing = False
        self.question: Question | None = None

    @property
    def denied(self) -> bool:
        """See StreamGuard."""
        return self._guard.denied

    @property
    def headers(self) -> Headers:
        """See StreamGuard."""
        return self._guard.headers

    @property
    def refusal(self) -> Refusal | None:
        """See StreamGuard."""
        return self._guard.refusal

    @property
    def held(self) -> int:
        """See StreamGuard."""
        return self._held * WEIGHT + self._guard.held

    @property
    def record(self) -> DecisionRecord:
        """See StreamGuard."""
        return self._guard.record

    def aborted(self, reason: str) -> None:
        """See StreamGuard."""
        self._guard.aborted(reason)

    def feed(self, data: bytes) -> bytes:
        """Wire bytes in; what may leave without a new question out. Sets `question`."""
        if self.denied:
            return b""
        try:
            out = b"".join([self._take(event) for event in self._decoder.feed(data)])
        except (MalformedStreamError, BodyError):
            if not self._observe:
                return self._guard.deny("malformed_stream")
            self._blind = True  # what cannot be read cannot be audited; the guard says the same
        if self._observe:
            return self._guard.feed(data)
        if self._every is not None and self._fresh >= self._every:
            self._put_question(final=False)
        return out

    def finish(self) -> bytes:
        """The upstream ended. Sets `question` where text came that nobody has looked at."""
        if self.denied:
            return b""
        if self._decoder.pending and not self._observe:
            return self._guard.deny("malformed_stream")
        self._finishing = True
        if self._audited and not self._fresh:
            return self._pass_on()
        self._put_question(final=True)
        return b""

    def answer(self, audit: Audit) -> bytes:
        """What auditors say to the last `question`; gives what may leave then."""
        self.question = None
        self._audited = True
        if not self._observe:
            self._guard.foresee([c.text[max(c.passed - CONTEXT, 0) :] for c in self._channels])
        out = self._guard.answer(audit)
        if self.denied or self._observe:
            return out if self.denied or not self._finishing else out + self._guard.finish()
        marked = marked_by(audit, self._guard.redact)
        if marked is None:
            return out + self._guard.deny("redaction_incomplete")
        self._marked = [
            channel.marked(spans) for channel, spans in zip(self._channels, marked, strict=False)
        ]
        return out + self._pass_on()

    def _put_question(self, *, final: bool) -> None:
        self._fresh = 0
        shown = tuple([channel.shown() for channel in self._channels])
        self.question = self._ask(shown, final=final)

    # -- events in --------------------------------------------------------------------------------

    def _take(self, event: sse.Event) -> bytes:
        if self._blind:
            return b""
        if event.data is None:
            return b"" if self._observe else self._guard.feed(sse.KEEP_ALIVE)
        part = self._reader.read(event)
        item = _Item(event, part.value)
        repeats = part.name.endswith(_REPEATS)
        for path, text, is_json in self._texts(part):
            item.pieces.append(self._piece(path, text, repeats=repeats, is_json=is_json))
        if not self._observe:
            self._queue.append(item)
            self._held += len(event.data)
            if self._held > MAX_HELD:
                raise MalformedStreamError("more is held back than the limit allows")
        return b""

    def _texts(self, part: Part) -> Iterator[tuple[Path, Text, bool]]:
        """The texts of an event, and whether each is JSON: pieces of those that go on, and others,
        each by itself.
        """
        for piece in part.reading.streamed:
            yield piece.channel, Text(piece.value, piece.holder, piece.key), piece.is_json
        for text in part.reading.texts:
            self._others += 1
            yield ("other", self._others), text, False

    def _piece(self, path: Path, text: Text, *, repeats: bool, is_json: bool) -> _Piece:
        value = text.value
        if repeats:
            for number, channel in enumerate(self._channels):
                if channel.text == value:
                    return _Piece(number, 0, len(value), text)
        number = self._numbers.setdefault(path, len(self._channels))
        if number == len(self._channels):
            if number >= MAX_WINDOWS:
                raise MalformedStreamError("too many texts in one stream")
            self._channels.append(_Channel(places=Places() if is_json else None))
        channel = self._channels[number]
        start = len(channel.text)
        channel.add(value)
        self._fresh += len(value)
        return _Piece(number, start, start + len(value), text)

    # -- events out -------------------------------------------------------------------------------

    def _pass_on(self) -> bytes:
        """Give the guard what is settled, masked."""
        out = b""
        count = 0
        for item in self._queue:
            if not self._finishing and not all(map(self._settled, item.pieces)):
                break
            count += 1
            try:
                edited = True in [self._mask(piece) for piece in item.pieces]
            except (BodyError, _LeftAlreadyError):
                return out + self._guard.deny("redaction_incomplete")
            self._held -= len(item.event.data or "")
            out += self._guard.feed(_encode(item, edited=edited))
            if self.denied:
                return out
        del self._queue[:count]
        return out + self._guard.finish() if self._finishing else out

    def _settled(self, piece: _Piece) -> bool:
        total = len(self._channels[piece.channel].text)
        edge = total - self._hold_back
        if piece.end > edge:
            return False
        spans = self._spans(piece.channel)
        return not any(span.start < piece.end and span.end > edge for span in spans)

    def _spans(self, channel: int) -> list[Span]:
        return self._marked[channel] if channel < len(self._marked) else []

    def _mask(self, piece: _Piece) -> bool:
        """Mask one piece in place; True if it was edited."""
        channel, value = self._channels[piece.channel], piece.text.value
        out: list[str] = []
        place = piece.start
        edited = False
        for span in self._spans(piece.channel):
            if span.end <= piece.start or span.start >= piece.end:
                continue
            if span.start < piece.start:
                if channel.masked_to <= span.start:
                    raise _LeftAlreadyError
            else:
                out += (
                    value[place - piece.start : span.start - piece.start],
                    self._guard.how.replacement(
                        span.label, channel.text[span.start : span.end], span.also
                    ),
                )
            channel.masked_to = max(channel.masked_to, span.end)
            place = min(span.end, piece.end)
            edited = True
        if edited:
            out.append(value[place - piece.start :])
            piece.text.replace("".join(out))
        channel.passed = max(channel.passed, piece.end)
        return edited


class _LeftAlreadyError(Exception):
    """What is to be masked began in text that has left."""


def _encode(item: _Item, *, edited: bool) -> bytes:
    event = item.event
    assert event.data is not None
    data = _edited(item.value) if edited else event.data.replace("\n", "\ndata: ").encode()
    return (b"event: %b\n" % event.name.encode() if event.name else b"") + sse.encode(data)


def _edited(value: Any) -> bytes:
    try:
        return encode_json(value)
    except UnicodeEncodeError:  # half of a character, whose other half is in the next event
        return json.dumps(value).encode()
