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

from enforcement.http.http1 import (
    FIELD_LINES,
    HEAD_END,
    LENGTH_VALUE,
    MEDIA_TYPE,
    Block,
    HttpError,
    check_partial,
    connection_options,
    field_finder,
    without_fields,
)
from enforcement.http.limits import Limits

_REPLY: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*+(\r\n)" + FIELD_LINES
)
# A content type whose only parameter says what is so: it is read as UTF-8, and written as such.
_UTF8: Final = re.compile(rb"[^;]*;[ \t]*charset=(?:utf-?8|\"utf-?8\"|us-ascii)[ \t]*")
_MAX_INTERIM: Final = 8  # 1xx replies before the real one

# Fields that say something about the exact bytes of a body: they go when the body is edited.
_OF_THE_BODY: Final = frozenset(
    {b"etag", b"content-md5", b"digest", b"content-digest", b"repr-digest", b"last-modified"}
)
_REQUEST_ID: Final = frozenset({b"x-request-id"})


class ReplyHead:
    """A reply's head, checked.

    Attributes:
        status: 200 to 599. (The words beside it are text that nobody looks at; they do not pass.)
        content_type: as sent, or empty.
        encoding: the Content-Encoding in lower case, or empty.
        length: octets of the body; None where it is chunked or ends with the connection.
        until_close: the body ends with the connection.
        reusable: the connection may carry another request after this reply.
    """

    __slots__ = (
        "_chunked",
        "_fields",
        "_head",
        "_length_field",
        "_of_body",
        "_options",
        "_request_id",
        "_type",
        "content_type",
        "encoding",
        "length",
        "reusable",
        "status",
        "until_close",
    )

    def __init__(self, head: bytes, status: int, line_end: int, *, http10: bool) -> None:
        self._head = head
        self.status = status
        self.content_type = ""
        self.encoding = b""
        self.length: int | None = None
        self.until_close = False
        self.reusable = not http10
        self._length_field: bytes | None = None
        self._chunked = False
        self._options: list[bytes] | None = None
        self._of_body = False
        self._request_id = False
        self._type = b""
        self._fields = self._take_fields(head, line_end)
        self._settle(http10=http10)

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is `text/event-stream`."""
        kind = self.content_type
        if kind == "application/json":
            return False
        return kind.partition(";")[0].strip().lower() == "text/event-stream"

    def fields(self, *, edited: bool, request_id: bytes | None) -> Block:
        """The fields for the client: without hop-by-hop and framing fields, and without `Lucid-*`,
        which only the door may say.

        Args:
            edited: the body is not the one that came.
            request_id: what stands in X-Request-Id instead of the model server's own.
        """
        block = self._fields
        if edited and self._of_body:
            block = without_fields(block, _OF_THE_BODY)
        if request_id is not None:
            if self._request_id:
                block = without_fields(block, _REQUEST_ID)
            block += b"\r\nx-request-id: " + request_id
        return block

    def _take_fields(self, head: bytes, start: int) -> Block:
        lower = head.lower()
        pieces = []
        for match in _FINDER.finditer(lower, start):
            take = _REPLY_FIELDS.get(match[1])
            if take is None or not take(self, match):
                begin, end = match.span()
                pieces.append(head[start:begin])
                start = end
        pieces.append(head[start:-4])
        if self._type:
            pieces.append(b"\r\ncontent-type: " + self._type)
        block = b"".join(pieces)
        return without_fields(block, frozenset(self._options)) if self._options else block

    def _settle(self, *, http10: bool) -> None:
        if self.status < 200 or self.status in (204, 304):
            self.length = 0
        elif self._chunked:
            if self._length_field is not None or http10:
                raise _ambiguous()
        elif self._length_field is None:
            self.until_close = True
            self.reusable = False
        elif LENGTH_VALUE.fullmatch(self._length_field):
            self.length = int(self._length_field)
        else:
            raise _ambiguous()

    # Each of these reads one field (made lower case) and says whether it is passed on.

    def take_length(self, match: re.Match[bytes]) -> bool:
        if self._length_field is not None:
            raise _ambiguous()
        self._length_field = match[2].rstrip(b" \t")
        return False

    def take_coding(self, match: re.Match[bytes]) -> bool:
        if self._chunked or match[2].rstrip(b" \t") != b"chunked":
            raise _ambiguous()
        self._chunked = True
        return False

    def take_type(self, match: re.Match[bytes]) -> bool:
        if self.content_type:
            raise HttpError("upstream_malformed", "the reply has two content types")
        value = match[2]
        self.content_type = self._head[match.start(2) : match.end()].decode("latin-1").rstrip()
        if b"charset" not in value or _UTF8.fullmatch(value):
            return True
        # It was read as UTF-8, and so must the client: in another charset it could be another text.
        kind = value.partition(b";")[0].rstrip(b" \t")
        if not MEDIA_TYPE.fullmatch(kind):
            raise HttpError("upstream_malformed", "the reply's content type is malformed")
        self._type = kind + b"; charset=utf-8"
        return False

    def take_connection(self, match: re.Match[bytes]) -> bool:
        options = connection_options(match[2].rstrip(b" \t"))
        if options:
            self._options = (self._options or []) + options
            self.reusable = self.reusable and b"close" not in options
        return False

    def take_encoding(self, match: re.Match[bytes]) -> bool:
        self.encoding += match[2].rstrip(b" \t")
        return True

    def take_request_id(self, _match: re.Match[bytes]) -> bool:
        self._request_id = True
        return True

    def take_of_body(self, _match: re.Match[bytes]) -> bool:
        self._of_body = True
        return True


_REPLY_FIELDS: Final[dict[bytes, Callable[[ReplyHead, re.Match[bytes]], bool]]] = {
    b"content-length": ReplyHead.take_length,
    b"transfer-encoding": ReplyHead.take_coding,
    b"connection": ReplyHead.take_connection,
    b"content-type": ReplyHead.take_type,
    b"content-encoding": ReplyHead.take_encoding,
    b"x-request-id": ReplyHead.take_request_id,
    **dict.fromkeys(_OF_THE_BODY, ReplyHead.take_of_body),
}
_FINDER: Final = field_finder(
    (
        *_REPLY_FIELDS,
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"upgrade",
        b"accept-ranges",
        b"alt-svc",  # would lead clients around the door
    )
)


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


def _ambiguous() -> HttpError:
    return HttpError("upstream_malformed", "the length of the model server's reply is ambiguous")
