"""The fields of HTTP/1.1 heads, of requests and replies: one grammar, one way to pass them on.

Fields that mean nothing to the door are not taken apart: they are passed on as one block of bytes
with the others cut out. That, not elegance, is why fields are found by one regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

Header = tuple[bytes, bytes]  # name in lower case, value without surrounding blanks
Block = bytes  # header lines, each *before* which stands CR LF

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_LINES: Final = rb"(?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"
LENGTH_VALUE: Final = re.compile(rb"0|[1-9][0-9]{0,14}")
MEDIA_TYPE: Final = re.compile(TOKEN + rb"+/" + TOKEN + rb"+")
HEAD_END: Final = b"\r\n\r\n"

BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
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


class Head:
    """What the heads of requests and replies have in common. They set the slots by themselves: one
    is made per message.
    """

    __slots__ = ("_chunked", "_head", "_length_field", "_options", "_type")

    _head: bytes
    _length_field: bytes | None
    _chunked: bool
    _options: list[bytes] | None  # fields that `Connection` names
    _type: bytes  # what goes on as Content-Type, where that is not what came

    def _pass_on(
        self,
        start: int,
        finder: re.Pattern[bytes],
        readers: Mapping[bytes, Callable[[Any, re.Match[bytes]], bool]],
    ) -> Block:
        """The fields from `start` on without those that the finder finds, unless their reader says
        that they go on. A reader gets the match, made lower case.
        """
        head = self._head
        lower = head.lower()
        pieces = []
        for match in finder.finditer(lower, start):
            take = readers.get(match[1])
            if take is None or not take(self, match):
                begin, end = match.span()
                pieces.append(head[start:begin])
                start = end
        pieces.append(head[start:-4])
        if self._type:
            pieces.append(b"\r\ncontent-type: " + self._type)
        block = b"".join(pieces)
        return without_fields(block, frozenset(self._options)) if self._options else block


def check_partial(data: bytes, seen: int) -> None:
    """Refuse early what can no longer become a head. `seen` bytes of `data` were checked before.

    Without this a head with bare line feeds would wait for its time limit.

    Raises:
        HttpError: a line ending that is not CR LF.
    """
    if BARE_LINE_END.search(data, max(seen - 1, 0)):
        raise HttpError("http_line_ending", "lines of a head must end with CR LF")


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
