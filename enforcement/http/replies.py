"""The model server's replies, without I/O, read as strictly as the clients' requests.

A reply that could be read in two ways would let an upstream (or who controls what it repeats)
slip a second reply into the connection, unseen by any policy. It is refused and its connection is
never used again.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from enforcement.http.fields import FIELD_LINES, HEAD_END, HttpError, check_partial
from enforcement.http.limits import Limits
from enforcement.http.reply_head import ReplyHead

_REPLY: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*+(\r\n)" + FIELD_LINES
)
_MAX_INTERIM: Final = 8  # 1xx replies before the real one


class _Events:
    __slots__ = ("begun", "complete", "parts")

    def __init__(self) -> None:
        self.begun = 0
        self.complete = False
        self.parts: list[bytes] = []

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def on_chunk_header(self) -> None:
        pass

    def on_chunk_complete(self) -> None:
        pass


class ReplyParser:
    """Reads the replies of one upstream connection, one after another.

    Attributes:
        head: the reply's head, once it is there.
        complete: the whole reply was read.
    """

    __slots__ = (
        "_buffer",
        "_events",
        "_interim",
        "_left",
        "_limits",
        "_llhttp",
        "_tail",
        "complete",
        "head",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._events = _Events()
        self._llhttp = httptools.HttpResponseParser(self._events)
        self.begin()

    def begin(self) -> None:
        """A new request was sent; the next bytes begin its reply."""
        events = self._events
        events.begun = 0
        events.complete = False
        self._buffer = b""
        self._interim = 0
        self._left = 0  # octets of the reply, its head included, that are still to come
        self._tail = b""  # the last octets of a chunked reply
        self.head: ReplyHead | None = None
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """Take wire bytes; returns the part of the body that they hold (chunks undone).

        Raises:
            HttpError: the reply is refused; the connection must be closed.
        """
        if self.complete:
            raise _extra()
        head = self.head
        if head is None:
            data = self._feed_head(data)
            head = self.head
            if head is None:
                return b""
        self._show(data)
        events = self._events
        parts = events.parts
        if not parts:
            body = b""
        else:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            events.parts = []
        self.complete = self._ends(head, data)
        if events.begun != 1:
            raise _extra()
        return body

    def _ends(self, head: ReplyHead, data: bytes) -> bool:
        """Whether the reply ends with this data, by llhttp's word and by our own.

        llhttp swallows empty lines behind a message, so its word alone does not show where.
        """
        complete = self._events.complete
        if head.length is not None:
            self._left -= len(data)
            if self._left < 0:
                raise _extra()
            if complete is not (self._left == 0):
                raise _malformed()
        elif head.until_close:
            if complete:
                raise _malformed()
        else:
            self._tail = data[-6:] if len(data) >= 6 else (self._tail + data)[-6:]
            if complete and not _ends_chunks(self._tail):
                raise _extra()
        return complete

    def end(self) -> None:
        """The upstream closed its side.

        Raises:
            HttpError: in the middle of a reply.
        """
        if self.head is not None and self.head.until_close:
            self.complete = True
        if not self.complete:
            raise HttpError("upstream_closed", "the model server closed the connection early")

    def _show(self, data: bytes) -> None:
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserError:
            raise _extra() if self._events.complete else _malformed() from None

    def _feed_head(self, data: bytes) -> bytes:
        """Looks for the head's end; sets `head` and returns the head with what follows it."""
        limit = self._limits.head_bytes
        while data:
            seen = len(self._buffer)
            buffer = self._buffer + data if seen else data
            end = buffer.find(HEAD_END, max(seen - 3, 0)) + 4
            if end == 3 or end > limit:
                if len(buffer) >= limit:
                    raise HttpError("upstream_head_too_large", "the reply's head is too large")
                check_partial(buffer, seen)
                self._buffer = buffer
                return b""
            self._buffer = b""
            raw = buffer if end == len(buffer) else buffer[:end]
            head = self._parse(raw)
            if head.status >= 200:
                self.head = head
                self._left = end + (head.length or 0)
                return buffer
            self._show(raw)
            events = self._events
            self._interim += 1
            if not events.complete or events.begun != 1 or self._interim > _MAX_INTERIM:
                raise _malformed()
            events.begun, events.complete = 0, False
            data = buffer[end:]
        return b""

    def _parse(self, raw: bytes) -> ReplyHead:
        match = _REPLY.fullmatch(raw)
        if match is None:
            raise _malformed()
        if raw.count(b"\r\n") - 2 > self._limits.header_count:
            raise HttpError("upstream_head_too_large", "the reply has too many header fields")
        status = int(match[2])
        if status == 101:
            raise HttpError("upstream_malformed", "the model server wants to change the protocol")
        return ReplyHead(raw, status, match.start(3), http10=match[1] == b"0")


def _ends_chunks(tail: bytes) -> bool:
    """Whether a chunked body ends here, and not an empty line earlier."""
    return tail.endswith(b"\r\n\r\n") and tail != b"\r\n\r\n\r\n"


def _malformed() -> HttpError:
    return HttpError("upstream_malformed", "the model server's reply is not valid HTTP/1.1")


def _extra() -> HttpError:
    return HttpError("upstream_malformed", "the model server sent more than one reply")
