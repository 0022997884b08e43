"""HTTP/1.1 messages for the door, without I/O: strict about where a message begins and ends.

Two readers must agree on every message. First a grammar over the raw bytes, narrower than
RFC 9112: what does not match is refused, and a diagnosis names the fault. Then llhttp (httptools)
reads the same bytes and must see the message end where the rules here say it ends. A message that
two parsers could read in two ways is refused, never repaired: that is what request smuggling lives
on.

What is narrower than the RFC: no obsolete folding, no bare CR or LF, no empty line before the
request line, only origin-form targets, no Upgrade, no trailers, `Transfer-Encoding: chunked` alone
and only in HTTP/1.1, one Content-Length of plain digits. HTTP/1.0 is answered, without keep-alive.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from enforcement.http.diagnosis import diagnose_request
from enforcement.http.fields import FIELD_LINES, HttpError
from enforcement.http.limits import Limits
from enforcement.http.request_head import RequestHead

_REQUEST: Final = re.compile(rb"([A-Z]{1,20}) (/[!\"$-~]*+) HTTP/1\.([01])\r\n" + FIELD_LINES)


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
