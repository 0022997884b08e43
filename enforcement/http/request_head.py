"""A request's head, checked: where its body ends, and which of its fields go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from enforcement.http.fields import (
    LENGTH_VALUE,
    MEDIA_TYPE,
    Head,
    Header,
    HttpError,
    connection_options,
    field_finder,
    split_fields,
)

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class RequestHead(Head):
    """A request's head, checked. Plain slots, not a frozen dataclass: one is made per request.

    Attributes:
        method, target: as sent, decoded from ASCII; the target is in origin form.
        line: method and target as wire bytes, with a blank after each.
        forward: the fields to send upstream: without hop-by-hop fields, Host, Content-Length,
            Accept-Encoding, parameters of Content-Type, and the client's own `Lucid-*`.
        length: octets of the body, 0 where there is none; None where it is chunked.
        close: the connection ends with this exchange (HTTP/1.0 or `Connection: close`).
        http10: the client cannot read chunked replies.
        expect: the client waits for `100 Continue` before it sends the body.
        request_id: the client's X-Request-Id if it is harmless to repeat, else None.
        trace_id: 32 hex digits from `traceparent`, or None.
    """

    __slots__ = (
        "_host",
        "close",
        "expect",
        "forward",
        "http10",
        "length",
        "line",
        "method",
        "request_id",
        "target",
        "trace_id",
    )

    def __init__(self, head: bytes, method: bytes, target: bytes, *, http10: bool) -> None:
        self._head = head
        self.method = method.decode()
        self.target = target.decode()
        self.http10 = self.close = http10
        self.expect = False
        self.length: int | None = 0
        self.request_id: bytes | None = None
        self.trace_id: str | None = None
        self._length_field: bytes | None = None
        self._host = False
        self._chunked = False
        self._options: list[bytes] | None = None
        self._type = b""
        end = len(method) + len(target) + 2
        self.line = head[:end]
        self.forward = self._pass_on(end + 8, _FINDER, _REQUEST_FIELDS)
        self._settle()

    @property
    def headers(self) -> list[Header]:
        """All fields as sent (names in lower case), to look at. Never log them."""
        return split_fields(self._head[:-4])

    def sent_on(self, authority: bytes, body: bytes) -> bytes:
        """The request as it goes on. A body always goes with its length: it is whole."""
        if not body and self.method == "GET":
            return b"%bHTTP/1.1\r\nhost: %b%b\r\n\r\n" % (self.line, authority, self.forward)
        return b"%bHTTP/1.1\r\nhost: %b%b\r\ncontent-length: %d\r\n\r\n%b" % (
            self.line,
            authority,
            self.forward,
            len(body),
            body,
        )

    def _settle(self) -> None:
        if not self._host and not self.http10:
            raise HttpError("http_host", "HTTP/1.1 requests need a Host")
        value = self._length_field
        if self._chunked:
            if value is not None:
                raise HttpError(
                    "http_length_and_encoding", "Content-Length beside Transfer-Encoding"
                )
            if self.http10:
                raise HttpError("http_transfer_encoding", "HTTP/1.0 has no Transfer-Encoding")
            self.length = None
        elif value is not None:
            if not LENGTH_VALUE.fullmatch(value):
                raise HttpError("http_content_length", "Content-Length is not one plain number")
            self.length = int(value)

    # Each of these reads one field (made lower case) and says whether it is passed on.

    def take_length(self, match: re.Match[bytes]) -> bool:
        if self._length_field is not None:
            raise HttpError("http_content_length", "Content-Length is given more than once")
        self._length_field = match[2].rstrip(b" \t")
        return False

    def take_coding(self, match: re.Match[bytes]) -> bool:
        if self._chunked or match[2].rstrip(b" \t") != b"chunked":
            raise HttpError(
                "http_transfer_encoding", "only `Transfer-Encoding: chunked` is understood"
            )
        self._chunked = True
        return False

    def take_host(self, match: re.Match[bytes]) -> bool:
        if self._host:
            raise HttpError("http_host", "Host is given more than once")
        if not _HOST.fullmatch(match[2].rstrip(b" \t")):
            raise HttpError("http_host", "Host is not a name or address with an optional port")
        self._host = True
        return False

    def take_connection(self, match: re.Match[bytes]) -> bool:
        options = connection_options(match[2].rstrip(b" \t"))
        if options:
            self._options = (self._options or []) + options
            self.close = self.close or b"close" in options
        return False

    def take_expect(self, match: re.Match[bytes]) -> bool:
        if match[2].rstrip(b" \t") != b"100-continue":
            raise HttpError("http_expectation", "only 100-continue is understood", status=417)
        self.expect = True
        return False

    def take_upgrade(self, _match: re.Match[bytes]) -> bool:
        raise HttpError("http_upgrade", "protocol upgrades are not served; use HTTP/1.1")

    def take_look_alike(self, _match: re.Match[bytes]) -> bool:
        # Servers that hand fields on as variables (CGI) read `_` as `-`, and so another length.
        raise HttpError("http_header_name", "a header name imitates one that frames the message")

    def take_encoding(self, match: re.Match[bytes]) -> bool:
        # The body is read as it came and encoded again: what it says of itself must be so.
        if match[2].rstrip(b" \t") not in (b"", b"identity"):
            raise HttpError(
                "http_content_encoding",
                "compressed requests are not read; send it plain",
                status=415,
            )
        return False

    def take_type(self, match: re.Match[bytes]) -> bool:
        # Parameters do not go on: the body is encoded again, as UTF-8. A server that reads it by a
        # charset that the client names (`+ACI-` is a quote in UTF-7) would read another body.
        if self._head.lower().count(b"\r\ncontent-type:") > 1:
            raise HttpError("http_content_type", "Content-Type is given more than once")
        kind = match[2].partition(b";")[0].rstrip(b" \t")
        if not MEDIA_TYPE.fullmatch(kind):
            raise HttpError("http_content_type", "Content-Type is not a media type", status=415)
        self._type = kind
        return False

    def take_request_id(self, match: re.Match[bytes]) -> bool:
        value = self._head[match.start(2) : match.end()].rstrip(b" \t")
        if self.request_id is not None or not _SANE_ID.fullmatch(value):
            return False
        self.request_id = value
        return True

    def take_traceparent(self, match: re.Match[bytes]) -> bool:
        found = _TRACEPARENT.fullmatch(match[2].rstrip(b" \t"))
        if found is not None:
            self.trace_id = found[1].decode()
        return True


# Fields that the door reads or replaces; where there is nothing to read they are dropped.
_REQUEST_FIELDS: Final[dict[bytes, Callable[[RequestHead, re.Match[bytes]], bool]]] = {
    b"content-length": RequestHead.take_length,
    b"transfer-encoding": RequestHead.take_coding,
    b"content_length": RequestHead.take_look_alike,
    b"transfer_encoding": RequestHead.take_look_alike,
    b"host": RequestHead.take_host,
    b"connection": RequestHead.take_connection,
    b"expect": RequestHead.take_expect,
    b"upgrade": RequestHead.take_upgrade,
    b"content-encoding": RequestHead.take_encoding,
    b"x-request-id": RequestHead.take_request_id,
    b"traceparent": RequestHead.take_traceparent,
    b"content-type": RequestHead.take_type,
}
_FINDER: Final = field_finder(
    (
        *(name for name in _REQUEST_FIELDS if name != b"content-type"),
        # What almost every request says needs no closer look.
        rb"content-type(?!: application/json\r)",
        b"accept-encoding",  # a compressed reply could not be looked at
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"range",  # a part of a reply could split what a detector would find
        b"if-range",
    )
)
