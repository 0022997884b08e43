"""The editing of one stream: every text through its window, every event in its place.

An event is edited, never reordered: text that is held back leaves with a later event; an event that
has nothing else to say does not leave. When a text ends, its rest and the event that ends it wait
until the stream goes on with something else, or for `finish`: so the last bytes of a reply leave
only after the decision is on record.
"""

from __future__ import annotations

from typing import Final

from attestation.records import TextDigest
from enforcement.bodies.reading import Streamed, Text
from enforcement.content.redact import mask
from enforcement.content.sse import Event, MalformedStreamError
from enforcement.content.window import Window, WindowOverflowError
from enforcement.detectors import Span, scan
from enforcement.streams.api import Channel, Part, Quick, StreamApi
from enforcement.streams.judge import Judge

MAX_WINDOWS: Final = 256  # texts of one stream: choices times fields
MAX_HELD: Final = 2 * 1024 * 1024  # characters held back over all of them
MAX_TAIL: Final = 4 * 1024 * 1024  # bytes that wait for what follows


class Editor:
    """Edits one stream.

    Attributes:
        tail: bytes that wait for what follows, or for the end.
        scans: how often detectors looked: at windows, and at texts that came whole.
        seen, left: bytes of text that came, and that left; what waits in `tail` has not.
        fields: texts that were read.
    """

    def __init__(
        self,
        api: StreamApi,
        judge: Judge,
        *,
        labels: frozenset[str],
        hold_back: int | None,
        salt: bytes,
    ) -> None:
        self._api = api
        self._judge = judge
        self._labels = labels
        self._hold_back = hold_back
        self._salt = salt
        self._windows: dict[Channel, Window] = {}
        self._ended: list[Channel] = []
        self._held = 0
        self._edited = False
        self._over = False
        self.scans = 0
        self._other_seen = 0
        self._other_released = 0
        self._other_fields = 0
        self._before_tail = 0
        self.tail = b""

    @property
    def held(self) -> int:
        """Bytes, about, of text and events that have not left."""
        return self._held + len(self.tail)

    def event(self, event: Event) -> bytes:
        """One event in, the bytes out that may leave now.

        Raises:
            DeniedError: by the policy.
            MalformedStreamError, BodyError, RedactionIncompleteError, WindowOverflowError: the
                event cannot be guarded.
        """
        if self._over:
            raise MalformedStreamError("an event after the end")
        quick = self._api.quick(event)
        if quick is not None:
            out = self._quick(quick)
            if out is not None:
                return out
        return self._part(self._api.read(event))

    def _part(self, part: Part) -> bytes:
        self._over = part.last
        if part.ends and not self.tail:
            self._before_tail = self._released
        reading = part.reading
        if reading.media:
            raise MalformedStreamError("content other than text in a stream")
        if reading.texts:
            self._whole_texts(reading.texts)
        goes_on, speaks = False, part.speaks
        more: list[tuple[Channel, list[str]]] = []  # blocks that leave behind the event
        for piece in reading.streamed:
            goes_on = goes_on or bool(piece.value)
            blocks = self._pass(piece, part.ends)
            if blocks:
                speaks = True
                more.append((piece.channel, blocks[1:]))
        self._judge.ask()
        if part.ends:
            for end in part.ends:
                self._flush(end)
            self._wait(self._encode(part))
            return b""
        if part.alive:
            return self._encode(part)
        before = self._go_on() if goes_on or part.begins else b""
        if not speaks and not part.begins:
            return before
        if self.tail:
            self._wait(self._encode(part))
            return b""
        out = before + self._encode(part)
        for channel, blocks in more:
            out += self._carry(channel, blocks)
        return out

    def _carry(self, channel: Channel, blocks: list[str]) -> bytes:
        """Text in events of its own, one for each block."""
        api = self._api
        return b"".join([api.encode(*api.carry(channel, block)) for block in blocks])

    def _quick(self, quick: Quick) -> bytes | None:
        """More of a text that is known; None: the event needs a closer look."""
        channel, text = quick
        window = self._windows.get(channel)
        if window is None or not text:
            return None
        self._add(window, channel, text)
        if not window.full:
            return self._go_on() if self.tail else b""
        return self._go_on() + self._carry(channel, self._release(window))

    def finish(self) -> bytes:
        """The stream has ended: everything that waited, for when the decision is on record.

        Raises:
            DeniedError: by the policy.
        """
        if not self.tail:
            self._before_tail = self._released
        self._flush(())
        self._judge.ask()
        tail, self.tail = self.tail, b""
        return tail

    # -- texts ------------------------------------------------------------------------------------

    def _whole_texts(self, texts: list[Text]) -> None:
        """Texts that do not go on: read, decided and masked at once."""
        self._other_fields += len(texts)
        self.scans += len(texts)
        found: list[tuple[Text, list[Span]]] = []
        for text in texts:
            self._other_seen += len(text.value.encode())
            spans = scan(text.value, self._labels)
            if spans:
                found.append((text, spans))
                self._judge.found(spans)
        self._judge.ask()
        for text, _ in found:
            masked = mask(text.value, self._judge.masks, how=self._judge.how)
            if masked != text.value:
                self._edited = True
                text.replace(masked)
        self._other_released += sum([len(text.value.encode()) for text in texts])

    def _pass(self, piece: Streamed, ends: tuple[Channel, ...]) -> list[str]:
        """Text into its window; the first block that may leave now takes its place."""
        channel = piece.channel
        window = self._windows.get(channel)
        if window is None:
            window = self._open(channel, is_json=piece.is_json)
        if piece.value:
            self._add(window, channel, piece.value)
        ending = ends and any(channel[: len(end)] == end for end in ends)
        blocks = [] if ending or not piece.value or not window.full else self._release(window)
        piece.holder[piece.key] = blocks[0] if blocks else ""
        return blocks

    def _add(self, window: Window, channel: Channel, text: str) -> None:
        if self._ended and any(channel[: len(end)] == end for end in self._ended):
            raise MalformedStreamError("text after its end")
        window.add(text)
        self._held += len(text)  # what a window took in and has not let go, about
        if self._held > MAX_HELD:
            self._held = sum(window.waiting for window in self._windows.values())
            if self._held > MAX_HELD:
                raise WindowOverflowError

    def _open(self, channel: Channel, *, is_json: bool) -> Window:
        if len(self._windows) >= MAX_WINDOWS:
            raise MalformedStreamError("too many texts in one stream")
        window = self._windows[channel] = Window(
            labels=self._labels, hold_back=self._hold_back, salt=self._salt, is_json=is_json
        )
        return window

    def _release(self, window: Window, *, everything: bool = False) -> list[str]:
        spans = window.spans()
        self.scans += 1
        self._judge.found(spans)
        self._judge.ask()
        before = window.waiting
        judge = self._judge
        blocks = window.release(judge.masks, spans, everything=everything, how=judge.how)
        self._held -= before - window.waiting
        self._edited = self._edited or window.masked
        return blocks

    def _flush(self, end: Channel) -> None:
        """The rest of the texts that end, as events of their own, behind what waits."""
        for channel, window in self._windows.items():
            if channel[: len(end)] == end and not any(
                channel[: len(done)] == done for done in self._ended
            ):
                window.end()
                self._wait(self._carry(channel, self._release(window, everything=True)))
        self._ended.append(end)
        if len(self._ended) > 4 * MAX_WINDOWS:
            raise MalformedStreamError("too many ends in one stream")

    # -- events -----------------------------------------------------------------------------------

    def _encode(self, part: Part) -> bytes:
        value = part.value
        if self._edited and value and not part.ends and value.get("choices"):
            # Running totals would tell how many tokens are behind a mask. The last total stays.
            value.pop("usage", None)
        return self._api.encode(part.name, value)

    def _wait(self, event: bytes) -> None:
        self.tail += event
        if len(self.tail) > MAX_TAIL:
            raise WindowOverflowError

    def _go_on(self) -> bytes:
        """What waited was not the end: it leaves."""
        tail, self.tail = self.tail, b""
        return tail

    # -- the record -------------------------------------------------------------------------------

    def texts(self, most: int) -> tuple[TextDigest, ...]:
        """Digests of the texts that were streamed."""
        return tuple(window.digest() for window in list(self._windows.values())[:most])

    @property
    def seen(self) -> int:
        """Bytes of text that came."""
        return self._other_seen + sum(w.digest().size for w in self._windows.values())

    @property
    def left(self) -> int:
        """Bytes of text that left."""
        return self._before_tail if self.tail else self._released

    @property
    def _released(self) -> int:
        return self._other_released + sum(w.released_size for w in self._windows.values())

    @property
    def fields(self) -> int:
        """How many texts were read."""
        return len(self._windows) + self._other_fields
