"""The model server's replies, without I/O, read as strictly as the clients' requests.

A reply that could be read in two ways would let an upstream (or who controls what it repeats)
slip a second reply into the connection, unseen by any policy. It is refused and its connection is
never used again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from enforcement.http1 import (
    FIELD_LINES,
    LENGTH_VALUE,
    FieldEvents,
    Header,
    HttpError,
    check_partial,
    connection_options,
)
from enforcement.limits import Limits

_REPLY: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*+)\r\n" + FIELD_LINES
)
_MAX_INTERIM: Final = 8  # 1xx replies before the real one


class ReplyHead:
    """A reply's head, checked.

    Attributes:
        status: 200 to 599.
        reason: the reason phrase as sent.
        fields: the fields to pass to the client: without hop-by-hop and framing fields, and
            without `Lucid-*`, which only the door may say.
        content_type: as sent, or empty.
        encoding: the Content-Encoding in lower case, or empty.
        length: octets of the body; None where it is chunked or ends with the connection.
        until_close: the body ends with the connection.
        reusable: the connection may carry another request after this reply.
    """

    __slots__ = (
        "_chunked",
        "_length_field",
        "_options",
        "content_type",
        "encoding",
        "fields",
        "length",
        "reason",
        "reusable",
        "status",
        "until_close",
    )

    def __init__(self, status: int, reason: bytes, *, reusable: bool) -> None:
        self.status = status
        self.reason = reason
        self.fields: list[Header] = []
        self.content_type = ""
        self.encoding = b""
        self.length: int | None = None
        self.until_close = False
        self.reusable = reusable
        self._chunked = False
        self._length_field: bytes | None = None
        self._options: list[bytes] = []

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is `text/event-stream`."""
        return self.content_type.partition(";")[0].strip().lower() == "text/event-stream"

    def take_fields(self, fields: list[Header], limits: Limits, *, http10: bool) -> None:
        """Read the fields: framing, connection, and what to pass on.

        Raises:
            HttpError: they are refused.
        """
        if len(fields) > limits.header_count:
            raise HttpError("upstream_head_too_large", "the reply has too many header fields")
        passed = self.fields
        for field in fields:
            take = _REPLY_FIELDS.get(field[0])
            if take is None:
                if field[0][:6] != b"lucid-":
                    passed.append(field)
            elif take(self, field[1]):
                passed.append(field)
        if self._options:
            self.fields = [field for field in passed if field[0] not in self._options]
        value = self._length_field
        if self._chunked:
            if value is not None or http10:
                raise _ambiguous()
        elif value is None:
            self.until_close = True
            self.reusable = False
        elif LENGTH_VALUE.fullmatch(value):
            self.length = int(value)
        else:
            raise _ambiguous()

    # Each of these reads one field and says whether it is passed on.

    def take_length(self, value: bytes) -> bool:
        if self._length_field is not None:
            raise _ambiguous()
        self._length_field = value
        return False

    def take_coding(self, value: bytes) -> bool:
        if self._chunked or value.lower() != b"chunked":
            raise _ambiguous()
        self._chunked = True
        return False

    def take_type(self, value: bytes) -> bool:
        if self.content_type:
            raise HttpError("upstream_malformed", "the reply has two content types")
        self.content_type = value.decode("latin-1")
        return True

    def take_connection(self, value: bytes) -> bool:
        lower = value.lower()
        if lower != b"keep-alive":
            self._options += connection_options(lower)
            self.reusable = self.reusable and b"close" not in self._options
        return False

    def take_encoding(self, value: bytes) -> bool:
        self.encoding += value.lower()
        return True

    def drop(self, _value: bytes) -> bool:
        return False


_REPLY_FIELDS: Final[dict[bytes, Callable[[ReplyHead, bytes], bool]]] = {
    b"content-length": ReplyHead.take_length,
    b"transfer-encoding": ReplyHead.take_coding,
    b"connection": ReplyHead.take_connection,
    b"content-type": ReplyHead.take_type,
    b"content-encoding": ReplyHead.take_encoding,
    b"keep-alive": ReplyHead.drop,
    b"proxy-connection": ReplyHead.drop,
    b"proxy-authenticate": ReplyHead.drop,
    b"te": ReplyHead.drop,
    b"trailer": ReplyHead.drop,
    b"upgrade": ReplyHead.drop,
    b"accept-ranges": ReplyHead.drop,
    b"alt-svc": ReplyHead.drop,  # would lead clients around the door
}


class _ReplyEvents(FieldEvents):
    __slots__ = ("begun", "parts")

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.parts: list[bytes] = []

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)


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
        "_limits",
        "_llhttp",
        "_received",
        "complete",
        "head",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._events = _ReplyEvents()
        self._llhttp = httptools.HttpResponseParser(self._events)
        self._buffer = b""
        self._interim = 0
        self._received = 0
        self.head: ReplyHead | None = None
        self.complete = False

    def begin(self) -> None:
        """A new request was sent; the next bytes begin its reply."""
        self._buffer = b""
        self._interim = 0
        self.head = None
        self.complete = False
        self._events.complete = False

    def feed(self, data: bytes) -> bytes:
        """Take wire bytes; returns the part of the body that they hold (chunks undone).

        Raises:
            HttpError: the reply is refused; the connection must be closed.
        """
        if self.head is None:
            rest = self._feed_head(data)
            if not rest and not self._events.complete:
                return b""
        else:
            rest = data
        events = self._events
        if rest:
            self._feed_body(rest)
        parts = events.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        events.parts = []
        self._received += len(body)
        if events.complete:
            self._finish()
        return body

    def _feed_body(self, data: bytes) -> None:
        events = self._events
        if events.complete:
            raise _extra()
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserError:
            raise _malformed() from None

    def _finish(self) -> None:
        head = self.head
        if head is None or self._events.begun != 1 or head.length not in (None, self._received):
            raise _extra()
        self.complete = True

    def end(self) -> None:
        """The upstream closed its side.

        Raises:
            HttpError: in the middle of a reply.
        """
        if self.head is not None and self.head.until_close:
            self.complete = True
        if not self.complete:
            raise HttpError("upstream_closed", "the model server closed the connection early")

    def _feed_head(self, data: bytes) -> bytes:
        """Looks for the head's end; returns what follows it, empty where the head is not there."""
        while True:
            seen = len(self._buffer)
            buffer = self._buffer + data if seen else data
            end = buffer.find(b"\r\n\r\n", max(seen - 3, 0)) + 4
            if end == 3 or end > self._limits.head_bytes:
                if len(buffer) >= self._limits.head_bytes:
                    raise HttpError("upstream_head_too_large", "the reply's head is too large")
                check_partial(buffer, seen)
                self._buffer = buffer
                return b""
            self._buffer = b""
            data = buffer[end:]
            head = self._parse(buffer if end == len(buffer) else buffer[:end])
            if head is not None:
                self.head = head
                return data
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise _malformed()
            if not data:
                return b""

    def _parse(self, raw: bytes) -> ReplyHead | None:
        """One head; None for an interim reply."""
        match = _REPLY.fullmatch(raw)
        if match is None:
            raise _malformed()
        minor, code, reason = match.groups()
        status = int(code)
        if status == 101:
            raise HttpError("upstream_malformed", "the model server wants to change the protocol")
        events = self._events
        events.fields = []
        events.complete = False
        events.begun = 0
        self._received = 0
        try:
            self._llhttp.feed_data(raw)
        except httptools.HttpParserError:
            raise _malformed() from None
        http10 = minor == b"0"
        head = ReplyHead(status, reason, reusable=not http10)
        head.take_fields(events.fields, self._limits, http10=http10)
        if status < 200 or status in (204, 304):
            head.length, head.until_close = 0, False
        if events.complete is not (head.length == 0):
            raise _malformed()
        if status < 200:
            events.complete = False
            return None
        return head


def _malformed() -> HttpError:
    return HttpError("upstream_malformed", "the model server's reply is not valid HTTP/1.1")


def _extra() -> HttpError:
    return HttpError("upstream_malformed", "the model server sent more than one reply")


def _ambiguous() -> HttpError:
    return HttpError("upstream_malformed", "the length of the model server's reply is ambiguous")
