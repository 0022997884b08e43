"""HTTP/1.1 messages for the door, without I/O: strict about where a message begins and ends.

Two readers must agree on every head. First a grammar over the raw bytes, narrower than RFC 9112:
what does not match is refused and a diagnosis names the fault. Then llhttp (httptools) reads the
same bytes and gives the fields, and must see the message end where the framing rules here say it
ends. A message that two parsers could read in two ways is refused, never repaired: that is what
request smuggling lives on.

What is narrower than the RFC: no obsolete folding, no bare CR or LF, no empty line before the
request line, only origin-form targets, no Upgrade, no trailers, `Transfer-Encoding: chunked` alone
and only in HTTP/1.1, one Content-Length of plain digits. HTTP/1.0 is answered, without keep-alive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from enforcement.limits import Limits

Header = tuple[bytes, bytes]  # name in lower case, value without surrounding blanks

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_LINES: Final = rb"(?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"
_REQUEST: Final = re.compile(rb"([A-Z]{1,20}) (/[!\"$-~]*+) HTTP/1\.([01])\r\n" + FIELD_LINES)
_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9]+\.[0-9]+)")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME: Final = re.compile(TOKEN + rb"+")
LENGTH_VALUE: Final = re.compile(rb"0|[1-9][0-9]{0,14}")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_TCHAR_LIST: Final = re.compile(TOKEN + rb"+(?:[ \t]*,[ \t]*" + TOKEN + rb"+)*")

# What `Connection` may not name: to drop one of these would change what the message means.
_NOT_HOP_BY_HOP: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"authorization",
        b"x-api-key",
        b"cookie",
        b"date",
    }
)


class HttpError(Exception):
    """A message that is refused. The connection it came on is closed after the refusal.

    Attributes:
        code: stable, lower case, e.g. `http_content_length`.
        status: what a client is told (a fault of the upstream becomes 502 at the door).
    """

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class RequestHead:
    """A request's head, checked. Plain slots, not a frozen dataclass: one is made per request.

    Attributes:
        method, target: as sent, decoded from ASCII; the target is in origin form.
        headers: all fields as sent (names in lower case), for looking at; never log them.
        forward: the fields to send upstream, as wire bytes: without hop-by-hop fields, Host,
            Content-Length, Accept-Encoding and the client's own `Lucid-*`.
        length: octets of the body, 0 where there is none; None where it is chunked.
        close: the connection ends with this exchange (HTTP/1.0 or `Connection: close`).
        http10: the client cannot read chunked replies.
        expect: the client waits for `100 Continue` before it sends the body.
        request_id: the client's X-Request-Id if it is harmless to repeat, else None.
        trace_id: 32 hex digits from `traceparent`, or None.
    """

    __slots__ = (
        "_chunked",
        "_host",
        "_length_field",
        "_options",
        "close",
        "expect",
        "forward",
        "headers",
        "http10",
        "length",
        "method",
        "request_id",
        "target",
        "trace_id",
    )

    def __init__(self, method: str, target: str, *, http10: bool) -> None:
        self.method = method
        self.target = target
        self.http10 = http10
        self.close = http10
        self.expect = False
        self.length: int | None = 0
        self.headers: list[Header] = []
        self.forward = b""
        self.request_id: bytes | None = None
        self.trace_id: str | None = None
        self._length_field: bytes | None = None
        self._host: bytes | None = None
        self._chunked = False
        self._options: list[bytes] = []

    def take_fields(self, fields: list[Header], limits: Limits) -> None:
        """Read the fields: framing, connection, and what to pass on.

        Raises:
            HttpError: they are refused.
        """
        if len(fields) > limits.header_count:
            raise HttpError("http_too_many_headers", "too many header fields", status=431)
        self.headers = fields
        forward: list[bytes] = []
        for name, value in fields:
            take = _REQUEST_FIELDS.get(name)
            if take is None:
                if name[:6] != b"lucid-":
                    forward.append(b"%b: %b\r\n" % (name, value))
            elif take(self, value):
                forward.append(b"%b: %b\r\n" % (name, value))
        if self._host is None and not self.http10:
            raise HttpError("http_host", "HTTP/1.1 requests need a Host")
        self._settle_length()
        if self._options:
            dropped = self._options
            forward = [line for line in forward if line[: line.index(b":")] not in dropped]
        self.forward = b"".join(forward)

    def _settle_length(self) -> None:
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

    # Each of these reads one field and says whether it is passed on.

    def take_length(self, value: bytes) -> bool:
        if self._length_field is not None:
            raise HttpError("http_content_length", "Content-Length is given more than once")
        self._length_field = value
        return False

    def take_coding(self, value: bytes) -> bool:
        if self._chunked or value.lower() != b"chunked":
            raise HttpError(
                "http_transfer_encoding", "only `Transfer-Encoding: chunked` is understood"
            )
        self._chunked = True
        return False

    def take_host(self, value: bytes) -> bool:
        if self._host is not None:
            raise HttpError("http_host", "Host is given more than once")
        if not _HOST.fullmatch(value):
            raise HttpError("http_host", "Host is not a name or address with an optional port")
        self._host = value
        return False

    def take_connection(self, value: bytes) -> bool:
        lower = value.lower()
        if lower == b"close":
            self.close = True
        elif lower != b"keep-alive":
            self._options += connection_options(lower)
            self.close = self.close or b"close" in self._options
        return False

    def take_expect(self, value: bytes) -> bool:
        if value.lower() != b"100-continue":
            raise HttpError("http_expectation", "only 100-continue is understood", status=417)
        self.expect = True
        return False

    def take_upgrade(self, _value: bytes) -> bool:
        raise _upgrade_refused()

    def take_request_id(self, value: bytes) -> bool:
        self.request_id = value if _SANE_ID.fullmatch(value) else None
        return self.request_id is not None

    def take_traceparent(self, value: bytes) -> bool:
        match = _TRACEPARENT.fullmatch(value)
        if match is not None:
            self.trace_id = match.group(1).decode()
        return True

    def drop(self, _value: bytes) -> bool:
        return False


_TakeField = Callable[[RequestHead, bytes], bool]
# Fields that the door reads, replaces or drops. Everything else is passed on as it is.
_REQUEST_FIELDS: Final[dict[bytes, _TakeField]] = {
    b"content-length": RequestHead.take_length,
    b"transfer-encoding": RequestHead.take_coding,
    b"host": RequestHead.take_host,
    b"connection": RequestHead.take_connection,
    b"expect": RequestHead.take_expect,
    b"upgrade": RequestHead.take_upgrade,
    b"x-request-id": RequestHead.take_request_id,
    b"traceparent": RequestHead.take_traceparent,
    b"accept-encoding": RequestHead.drop,  # a compressed reply could not be looked at
    b"keep-alive": RequestHead.drop,
    b"proxy-connection": RequestHead.drop,
    b"proxy-authorization": RequestHead.drop,
    b"te": RequestHead.drop,
    b"trailer": RequestHead.drop,
    b"range": RequestHead.drop,  # a part of a reply could split what a detector would find
    b"if-range": RequestHead.drop,
}


def check_partial(data: bytes, seen: int) -> None:
    """Refuse early what can no longer become a head. `seen` bytes of `data` were checked before.

    Without this a head with bare line feeds would wait for its time limit.

    Raises:
        HttpError: a line ending that is not CR LF.
    """
    if _BARE.search(data, max(seen - 1, 0)):
        raise HttpError("http_line_ending", "lines of a head must end with CR LF")


class FieldEvents:
    """What llhttp calls back. The lists are taken away and made anew for each message."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[Header] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_message_complete(self) -> None:
        self.complete = True

    def on_message_begin(self) -> None:
        pass

    def on_headers_complete(self) -> None:
        pass

    def on_chunk_header(self) -> None:
        pass

    def on_chunk_complete(self) -> None:
        pass


class RequestParser:
    """Reads the requests of one connection, one after another."""

    __slots__ = ("_events", "_limits", "_llhttp")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._events = FieldEvents()
        self._llhttp = httptools.HttpRequestParser(self._events)

    def parse(self, head: bytes) -> RequestHead:
        """Read one head, ended by its empty line, all of it and nothing more.

        Raises:
            HttpError: it is refused; the parser must not be used again.
        """
        match = _REQUEST.fullmatch(head)
        if match is None:
            raise diagnose_request(head)
        method, target, minor = match.groups()
        if len(target) > self._limits.target_bytes:
            raise HttpError("http_target_too_long", "the request target is too long", status=414)
        if method in (b"CONNECT", b"TRACE"):
            raise HttpError("http_method", "CONNECT and TRACE are not served", status=405)
        events = self._events
        events.fields = []
        events.complete = False
        request = RequestHead(method.decode(), target.decode(), http10=minor == b"0")
        try:
            self._llhttp.feed_data(head)
        except httptools.HttpParserUpgrade:
            raise _upgrade_refused() from None
        except httptools.HttpParserError:
            # Mostly a framing fault that has its own name; what follows is for the rest.
            request.take_fields(events.fields, self._limits)
            raise HttpError("http_malformed", "the head is not valid HTTP/1.1") from None
        request.take_fields(events.fields, self._limits)
        if events.complete is not (request.length == 0):
            raise disagreement()
        return request

    def body(self, wire: bytes | memoryview, *, last: bool) -> None:
        """Show llhttp the wire bytes of the body. It must see the end exactly where `last` says.

        Raises:
            HttpError: it does not.
        """
        try:
            self._llhttp.feed_data(wire)
        except httptools.HttpParserError:
            raise HttpError("http_chunk", "the chunked body is malformed") from None
        if self._events.complete is not last:
            raise disagreement()


def _upgrade_refused() -> HttpError:
    return HttpError("http_upgrade", "protocol upgrades are not served; use HTTP/1.1")


def disagreement() -> HttpError:
    """The two readers of a message do not agree on its end."""
    return HttpError("http_framing", "the length of the message is ambiguous")


def connection_options(value: bytes) -> list[bytes]:
    if not _TCHAR_LIST.fullmatch(value):
        raise HttpError("http_connection", "Connection is not a list of tokens")
    options = [option.strip(b" \t") for option in value.split(b",")]
    if not _NOT_HOP_BY_HOP.isdisjoint(options):
        raise HttpError("http_connection", "Connection names a field that must not be dropped")
    return options


def diagnose_request(head: bytes) -> HttpError:
    """Why a head does not match the grammar. Slow; only refused heads come here."""
    if _BARE.search(head):
        return HttpError("http_line_ending", "lines of a head must end with CR LF")
    line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if match := _REQUEST_LINE.fullmatch(line):
        method, target, version = match.groups()
        if version not in (b"1.0", b"1.1"):
            return HttpError("http_version", "only HTTP/1.1 and HTTP/1.0 are served", status=505)
        if method == b"CONNECT":
            return HttpError("http_method", "CONNECT and TRACE are not served", status=405)
        if not _NAME.fullmatch(method) or not method.isupper() or len(method) > 20:
            return HttpError("http_request_line", "the method is not a known one")
        if not target.startswith(b"/") or b"#" in target:
            return HttpError("http_target", "the target must be a path (origin form)")
    else:
        return HttpError("http_request_line", "not a request line: METHOD /path HTTP/1.1")
    return _diagnose_fields(fields)


def _diagnose_fields(lines: list[bytes]) -> HttpError:
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            return HttpError("http_obs_fold", "header values may not be continued on another line")
        name, colon, value = line.partition(b":")
        if not colon:
            return HttpError("http_header", "a header line has no colon")
        if not _NAME.fullmatch(name):
            return HttpError("http_header_name", "a header name is not a token")
        if _BAD_VALUE.search(value):
            return HttpError("http_control_character", "a header value has a control character")
    return HttpError("http_malformed", "the head is not valid HTTP/1.1")
