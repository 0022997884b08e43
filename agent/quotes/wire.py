"""What the agent and the quote helper say to each other: one request, one reply, one connection.

    request  "LQH1" ‖ privlevel (1 byte, 255: leave it) ‖ report data (64 bytes), then end of stream
    reply    "LQH1" ‖ kind ‖ final ‖ errno (2) ‖ three lengths (4 each) ‖ three texts or blobs
             kind 0: provider, outblob, auxblob;  kind 1: code, message, remedy (UTF-8)

Numbers are big-endian. Bytes in, values out; both ends bound what they take.
"""

from __future__ import annotations

import struct
from typing import Final

from attestation.errors import MalformedError, QuoteError
from attestation.tsm import MAX_PRIVLEVEL, REPORT_DATA_SIZE, Quote

MAGIC: Final = b"LQH1"
REQUEST: Final = struct.Struct(f">4sB{REPORT_DATA_SIZE}s")
HEAD: Final = struct.Struct(">4sBBHIII")
LEAVE: Final = 255
MAX_TEXT: Final = 2048  # bytes
MAX_BLOB: Final = 1024 * 1024  # bytes; a TDX quote has some 8 kB, a certificate table 12
MAX_REPLY: Final = HEAD.size + MAX_TEXT + 2 * MAX_BLOB
_QUOTE, _ERROR = 0, 1
_LIMITS: Final = {_QUOTE: (MAX_TEXT, MAX_BLOB, MAX_BLOB), _ERROR: (MAX_TEXT, MAX_TEXT, MAX_TEXT)}


def encode_request(report_data: bytes, privlevel: int | None = None) -> bytes:
    """A request over exactly 64 bytes."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report data have {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
    return REQUEST.pack(MAGIC, LEAVE if privlevel is None else privlevel, report_data)


def decode_request(data: bytes) -> tuple[bytes, int | None]:
    """Report data and privlevel.

    Raises:
        MalformedError: not exactly one request.
    """
    if len(data) != REQUEST.size or not data.startswith(MAGIC):
        raise MalformedError("quote.request", f"{len(data)} bytes are not a request")
    _magic, privlevel, report_data = REQUEST.unpack(data)
    if privlevel != LEAVE and privlevel > MAX_PRIVLEVEL:
        raise MalformedError("quote.request", f"there is no privlevel {privlevel}")
    return report_data, None if privlevel == LEAVE else privlevel


def encode_quote(quote: Quote) -> bytes:
    """The reply with a quote.

    Raises:
        QuoteError: it is larger than a reply may be.
    """
    parts = (quote.provider.encode(), quote.outblob, quote.auxblob)
    if any(len(part) > limit for part, limit in zip(parts, _LIMITS[_QUOTE], strict=True)):
        raise QuoteError("quote.format", "the quote is too large to be one", final=True)
    return HEAD.pack(MAGIC, _QUOTE, 0, 0, *map(len, parts)) + b"".join(parts)


def encode_error(error: QuoteError | MalformedError) -> bytes:
    """The reply that says why there is no quote."""
    parts = [
        text.encode("utf-8", "replace")[:MAX_TEXT]
        for text in (error.code, str(error), error.remedy)
    ]
    final, number = (error.final, error.errno or 0) if isinstance(error, QuoteError) else (True, 0)
    return HEAD.pack(MAGIC, _ERROR, final, number & 0xFFFF, *map(len, parts)) + b"".join(parts)


def decode_reply(data: bytes) -> Quote:
    """The quote of a reply.

    Raises:
        QuoteError: the error that the reply carries.
        MalformedError: it is not a reply.
    """
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise MalformedError("quote.helper", f"{len(data)} bytes are not a reply")
    _magic, kind, final, number, *lengths = HEAD.unpack_from(data)
    limits = _LIMITS.get(kind)
    if limits is None or final > 1 or HEAD.size + sum(lengths) != len(data):
        raise MalformedError("quote.helper", "the reply is of an unknown kind or another length")
    if any(length > limit for length, limit in zip(lengths, limits, strict=True)):
        raise MalformedError("quote.helper", "a part of the reply is too long")
    first, second, _third = lengths
    rest = data[HEAD.size :]
    parts = rest[:first], rest[first : first + second], rest[first + second :]
    if kind == _ERROR:
        code, message, remedy = (part.decode("utf-8", "replace") for part in parts)
        raise QuoteError(code, message, remedy=remedy, final=bool(final), errno=number or None)
    provider, outblob, auxblob = parts
    return Quote(provider=provider.decode("ascii", "replace"), outblob=outblob, auxblob=auxblob)
