"""A reply's head, checked: where its body ends, and which of its fields the client may see."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from enforcement.http.fields import (
    LENGTH_VALUE,
    MEDIA_TYPE,
    Block,
    Head,
    HttpError,
    connection_options,
    field_finder,
    without_fields,
)

# A content type whose only parameter says what is so: it is read as UTF-8, and written as such.
_UTF8: Final = re.compile(rb"[^;]*;[ \t]*charset=(?:utf-?8|\"utf-?8\"|us-ascii)[ \t]*")

# Fields that say something about the exact bytes of a body: they go when the body is edited.
_OF_THE_BODY: Final = frozenset(
    {b"etag", b"content-md5", b"digest", b"content-digest", b"repr-digest", b"last-modified"}
)
_REQUEST_ID: Final = frozenset({b"x-request-id"})


class ReplyHead(Head):
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
        "_fields",
        "_of_body",
        "_request_id",
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
        self._fields = self._pass_on(line_end, _FINDER, _REPLY_FIELDS)
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


def _ambiguous() -> HttpError:
    return HttpError("upstream_malformed", "the length of the model server's reply is ambiguous")
