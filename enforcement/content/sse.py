"""Server-sent events, decoded without I/O across any chunking.

Source: WHATWG HTML, section 9.2.6. Only what model servers send matters: events of `data:` lines,
perhaps with `event:`, and comments that keep a connection alive. Sizes are bounded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_EVENT: Final = 1024 * 1024  # bytes of one event


class MalformedStreamError(Exception):
    """The upstream's stream cannot be understood, so it cannot be guarded."""


class Event(NamedTuple):
    """One event: its name (empty: `message`) and data. `data` None: a comment."""

    data: str | None
    name: str = ""


COMMENT: Final = Event(None)


class SseDecoder:
    """Bytes in, events out. `pending` says whether an event is incomplete."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line that has not ended
        self._rest_size = 0
        self._data: list[str] = []
        self._name = ""
        self._size = 0
        self._started = False

    @property
    def pending(self) -> bool:
        """Whether something was received that has not become an event."""
        return bool(b"".join(self._rest).strip(b"\r\n") or self._data)

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            MalformedStreamError: not UTF-8, or an event over the limit.
        """
        if self._started and b"\r" not in data and not self._after_cr():
            if b"\n" not in data:
                self._keep(data)  # an event of a megabyte in small pieces must not cost its square
                return []
            if not self._rest and not self._size and data.find(b"\n") == len(data) - 2:
                return self._one(data)
        data = b"".join((*self._rest, data))
        self._rest, self._rest_size = [], 0
        if not self._started and data:
            if len(data) < 3 and b"\xef\xbb\xbf".startswith(data):
                self._keep(data)
                return []
            data = data.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        events: list[Event] = []
        if b"\r" in data:
            # A CR at the end may be the first half of CRLF: it waits for what follows.
            tail = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(tail)].replace(b"\r\n", b"\n")
            data = data.replace(b"\r", b"\n") + tail
        lines = data.split(b"\n")
        rest = lines.pop()
        for line in lines:
            self._line(line, events)
        self._keep(rest)
        return events

    def _one(self, data: bytes) -> list[Event]:
        """A line and one more byte: an event of its own, as model servers send them."""
        events: list[Event] = []
        self._line(data[:-2], events)
        if data.endswith(b"\n"):
            self._line(b"", events)
        else:
            self._keep(data[-1:])
        return events

    def _after_cr(self) -> bool:
        return bool(self._rest) and self._rest[-1].endswith(b"\r")

    def _keep(self, data: bytes) -> None:
        if data:
            self._rest.append(data)
            self._rest_size += len(data)
        if self._rest_size + self._size > MAX_EVENT:
            raise MalformedStreamError(f"an event is larger than {MAX_EVENT} bytes")

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
                events.append(Event(data, self._name))
                self._data = []
            self._name, self._size = "", 0
            return
        if line.startswith(b":"):
            if not events or events[-1] is not COMMENT:  # one keep-alive stands for many
                events.append(COMMENT)
            return
        self._size += len(line)
        if self._size > MAX_EVENT:
            raise MalformedStreamError(f"an event is larger than {MAX_EVENT} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise MalformedStreamError("the stream is not UTF-8") from None
        if text.startswith("data: "):
            self._data.append(text[6:])
            return
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field not in ("id", "retry"):
            raise MalformedStreamError("a field that event streams do not have")


def encode(data: bytes, name: str = "") -> bytes:
    """One event with one line of data."""
    if name:
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"


KEEP_ALIVE: Final = b": keep-alive\n\n"  # what a comment becomes: its own text does not pass
