"""Why a request's head is refused, for whoever has to mend it."""

from __future__ import annotations

import re
from typing import Final

from enforcement.http.fields import BARE_LINE_END, HEAD_END, TOKEN, HttpError

_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9]+\.[0-9]+)")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME: Final = re.compile(TOKEN + rb"+")


def diagnose_request(head: bytes) -> HttpError:
    """Why a head does not match the grammar. Slow; only refused heads come here."""
    if BARE_LINE_END.search(head):
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
