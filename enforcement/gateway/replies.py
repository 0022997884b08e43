"""What the door itself says: its own refusals, and how replies are written for the client."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from enforcement.content.apierror import Refusal, error_object, error_type
from enforcement.http.fields import Block, Header

_JSON: Final = (b"content-type", b"application/json")
_SAFE_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b" % (status.value, status.phrase.encode())
    for status in http.HTTPStatus
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def refusal(code: str, message: str, status: int, *, retry_after: int | None = None) -> Refusal:
    """A refusal by the door, before or without a decision: OpenAI's shape, no decision id.

    Args:
        retry_after: seconds, for refusals that time may lift.
    """
    error = error_object(
        "openai",
        status=status,
        kind=error_type(status),
        code=code,
        message=message,
        decision_id="",
    )
    shape = error["error"]
    assert isinstance(shape, dict)
    shape["decision_id"] = None
    headers = (_JSON,) if retry_after is None else (_JSON, (b"retry-after", b"%d" % retry_after))
    return Refusal(status=status, body=msgspec.json.encode(error), headers=headers)


def lines(fields: Iterable[Header]) -> Block:
    """Fields as a block for `Client.reply`.

    Raises:
        ValueError: a field's value would end its line.
    """
    parts = []
    for field in fields:
        if not _SAFE_VALUE.fullmatch(field[1]):
            raise ValueError(f"the value of {field[0]!r} has a control character")
        parts.append(b"\r\n%b: %b" % field)
    return b"".join(parts)


def status_line(status: int) -> bytes:
    """The status line of a reply of the door's own, without its end."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; nothing for no data, since an empty chunk would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
