"""Server-sent events, decoded without I/O across any chunking.

Source: WHATWG HTML, section 9.2.6. Only what model servers send matters: events of `data:` lines,
perhaps with `event:`, and comments that keep a connection alive. Sizes are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_EVENT: Final = 1024 * 1024  # bytes of one event


class MalformedStreamError(Exception):
    """The upstream's stream cannot be understood, so it cannot be guarded."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (empty: `message`) and data. `data` None: a comment."""

    data: str | None
    name: str = ""


COMMENT: Final = Event(None)


class SseDecoder:
    """Bytes in, events out. `pending` says whether an event is incomplete."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []
        self._name = ""
        self._size = 0
        self._started = False

    @property
    def pending(self) -> bool:
        """Whether something was received that has not become an event."""
        return bool(self._buffer.strip(b"\r\n") or self._data)

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            MalformedStreamError: not UTF-8, or an event over the limit.
        """
        buffer = self._buffer + data
        if not self._started and buffer:
            if b"\xef\xbb\xbf".startswith(buffer[:3]) and len(buffer) < 3:
                self._buffer = buffer
                return []
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        events: list[Event] = []
        if b"\r" in buffer:
            # A CR at the end may be the first half of CRLF: it waits for what follows.
            tail = b"\r" if buffer.endswith(b"\r") else b""
            buffer = buffer[: len(buffer) - len(tail)].replace(b"\r\n", b"\n")
            buffer = buffer.replace(b"\r", b"\n") + tail
        lines = buffer.split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            self._line(line, events)
        if len(self._buffer) + self._size > MAX_EVENT:
            raise MalformedStreamError(f"an event is larger than {MAX_EVENT} bytes")
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event("\n".join(self._data), self._name))
            self._data, self._name, self._size = [], "", 0
            return
        if line.startswith(b":"):
            events.append(COMMENT)
            return
        self._size += len(line)
        if self._size > MAX_EVENT:
            raise MalformedStreamError(f"an event is larger than {MAX_EVENT} bytes")
        try:
            field, _, value = line.decode().partition(":")
        except UnicodeDecodeError:
            raise MalformedStreamError("the stream is not UTF-8") from None
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field not in ("id", "retry"):
            raise MalformedStreamError("a field that event streams do not have")


def encode(data: bytes) -> bytes:
    """One event with one line of data."""
    return b"data: " + data + b"\n\n"


KEEP_ALIVE: Final = b": keep-alive\n\n"  # what a comment becomes: its own text does not pass
