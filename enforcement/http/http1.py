"""HTTP/1.1 messages for the door, without I/O: strict about where a message begins and ends.

Two readers must agree on every message. First a grammar over the raw bytes, narrower than
RFC 9112: what does not match is refused, and a diagnosis names the fault. Then llhttp (httptools)
reads the same bytes and must see the message end where the rules here say it ends. A message that
two parsers could read in two ways is refused, never repaired: that is what request smuggling lives
on.

What is narrower than the RFC: no obsolete folding, no bare CR or LF, no empty line before the
request line, only origin-form targets, no Upgrade, no trailers, `Transfer-Encoding: chunked` alone
and only in HTTP/1.1, one Content-Length of plain digits. HTTP/1.0 is answered, without keep-alive.

Fields that mean nothing to the door are not taken apart: they are passed on as one block of bytes
with the others cut out. That, not elegance, is why fields are found by one regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from enforcement.http.limits import Limits

Header = tuple[bytes, bytes]  # name in lower case, value without surrounding blanks
Block = bytes  # header lines, each *before* which stands CR LF

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_LINES: Final = rb"(?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"
LENGTH_VALUE: Final = re.compile(rb"0|[1-9][0-9]{0,14}")
MEDIA_TYPE: Final = re.compile(TOKEN + rb"+/" + TOKEN + rb"+")
HEAD_END: Final = b"\r\n\r\n"

_REQUEST: Final = re.compile(rb"([A-Z]{1,20}) (/[!\"$-~]*+) HTTP/1\.([01])\r\n" + FIELD_LINES)
_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9]+\.[0-9]+)")
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME: Final = re.compile(TOKEN + rb"+")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_TOKEN_LIST: Final = re.compile(TOKEN + rb"+(?:[ \t]*,[ \t]*" + TOKEN + rb"+)*")

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


def field_finder(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """A pattern that finds these fields, and `Lucid-*`, in a head made lower case.

    A match begins with the CR LF before the line and ends before the one after it.
    Group 1 is the name, group 2 the value, still with blanks behind it.
    """
    return re.compile(rb"\r\n(" + b"|".join(names) + rb"|lucid[-_][^:]*):[ \t]*([^\r]*)")


def split_fields(block: bytes) -> list[Header]:
    """All fields of a checked head or block."""
    pairs = [line.split(b":", 1) for line in block.split(b"\r\n")[1:] if line]
    return [(name.lower(), value.strip(b" \t")) for name, value in pairs]


def without_fields(block: Block, names: frozenset[bytes]) -> Block:
    """A block without some fields. Slow; few messages need it."""
    lines = block.split(b"\r\n")[1:]
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return b"".join([b"\r\n" + line for line in kept])


class RequestHead:
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
        "_chunked",
        "_head",
        "_host",
        "_length_field",
        "_options",
        "_type",
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
        self.forward = self._take_fields(head, end + 8)
        self._settle()

    @property
    def headers(self) -> list[Header]:
        """All fields as sent (names in lower case), to look at. Never log them."""
        return split_fields(self._head[:-4])

    def _take_fields(self, head: bytes, start: int) -> Block:
        lower = head.lower()
        pieces = []
        for match in _FINDER.finditer(lower, start):
            take = _REQUEST_FIELDS.get(match[1])
            if take is None or not take(self, match):
                begin, end = match.span()
                pieces.append(head[start:begin])
                start = end
        pieces.append(head[start:-4])
        if self._type:
            pieces.append(b"\r\ncontent-type: " + self._type)
        block = b"".join(pieces)
        return without_fields(block, frozenset(self._options)) if self._options else block

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


def check_partial(data: bytes, seen: int) -> None:
    """Refuse early what can no longer become a head. `seen` bytes of `data` were checked before.

    Without this a head with bare line feeds would wait for its time limit.

    Raises:
        HttpError: a line ending that is not CR LF.
    """
    if _BARE.search(data, max(seen - 1, 0)):
        raise HttpError("http_line_ending", "lines of a head must end with CR LF")


class _Events:
    """What llhttp calls back. It is here to agree, not to tell."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def on_message_begin(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True

    def on_chunk_header(self) -> None:
        pass

    def on_chunk_complete(self) -> None:
        pass


class RequestParser:
    """Reads the requests of one connection, one after another."""

    __slots__ = ("_events", "_limits", "_llhttp")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._events = _Events()
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
        if head.count(b"\r\n") - 2 > self._limits.header_count:
            raise HttpError("http_too_many_headers", "too many header fields", status=431)
        request = RequestHead(head, method, target, http10=minor == b"0")
        try:
            self._llhttp.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise HttpError("http_malformed", "the head is not valid HTTP/1.1") from None
        if self._events.complete is not (request.length == 0):
            raise _disagreement()
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
            raise _disagreement()


def _disagreement() -> HttpError:
    return HttpError("http_framing", "the length of the message is ambiguous")


def connection_options(value: bytes) -> list[bytes]:
    """The fields (and `close`) that a `Connection` value in lower case names.

    Raises:
        HttpError: not a list of tokens, or it names a field that must reach the other side.
    """
    if value == b"keep-alive":
        return []
    if not _TOKEN_LIST.fullmatch(value):
        raise HttpError("http_connection", "Connection is not a list of tokens")
    options = [option.strip(b" \t") for option in value.split(b",")]
    if not _NOT_HOP_BY_HOP.isdisjoint(options):
        raise HttpError("http_connection", "Connection names a field that must not be dropped")
    return options


def diagnose_request(head: bytes) -> HttpError:
    """Why a head does not match the grammar. Slow; only refused heads come here."""
    if _BARE.search(head):
        return HttpError("http_line_ending", "lines of a head must end with CR LF")
    line, *fields = head.removesuffix(HEAD_END).split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return HttpError("http_request_line", "not a request line: METHOD /path HTTP/1.1")
    method, target, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        return HttpError("http_version", "only HTTP/1.1 and HTTP/1.0 are served", status=505)
    if method == b"CONNECT":
        return HttpError("http_method", "CONNECT and TRACE are not served", status=405)
    if not (method.isalpha() and method.isupper()) or len(method) > 20:
        return HttpError("http_request_line", "the method is not a known one")
    if not target.startswith(b"/") or b"#" in target:
        return HttpError("http_target", "the target must be a path (origin form)")
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
