"""The chunked coding of a request's body (RFC 9112 section 7.1), read strictly and without I/O.

llhttp decodes chunks too, but does not say where a message ended inside the bytes it was given,
so a pipelined request behind a chunked body could not be found. This reader says it, and the door
shows llhttp the same bytes as a second opinion.
"""

from __future__ import annotations

import re
from typing import Final

from enforcement.http.fields import HttpError
from enforcement.http.limits import Limits

# Size in up to 8 hex digits, then extensions, which are checked, bounded and thrown away.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t\x20-\x7e]{0,128})?\r\n")
_LONGEST_LINE: Final = 8 + 1 + 128 + 2


class ChunkReader:
    """Undoes the chunks of one body.

    Attributes:
        body: what was decoded until now.
        done: the last chunk and its empty line were read.
    """

    __slots__ = ("_buffer", "_chunks", "_left", "_limits", "body", "done")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = b""
        self._chunks = 0
        self._left = 0  # octets of the present chunk that are still to come, with its CR LF
        self.body = bytearray()
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take wire bytes; once `done`, what is returned belongs to the next message.

        Raises:
            HttpError: malformed, too large, too many chunks, or trailers.
        """
        buffer = self._buffer + data
        position, end = 0, len(buffer)
        while position < end and not self.done:
            if self._left:
                taken = min(self._left, end - position)
                self._take(buffer, position, taken)
                position += taken
                continue
            match = _SIZE_LINE.match(buffer, position)
            if match is None:
                if end - position >= _LONGEST_LINE or b"\n" in buffer[position:]:
                    raise HttpError("http_chunk", "a chunk's size line is malformed or too long")
                break
            size = int(match.group(1), 16)
            if size == 0:
                tail = buffer[match.end() : match.end() + 2]
                if tail != b"\r\n"[: len(tail)]:
                    raise HttpError("http_trailers", "trailers after a chunked body are refused")
                if len(tail) < 2:
                    break
                self.done = True
                position = match.end() + 2
                break
            self._begin(size)
            position = match.end()
        rest = buffer[position:]
        self._buffer = b"" if self.done else rest
        return rest if self.done else b""

    def _begin(self, size: int) -> None:
        self._chunks += 1
        if len(self.body) + size > self._limits.body_bytes:
            raise body_too_large(self._limits)
        if self._chunks > self._limits.chunks:
            raise HttpError("http_too_many_chunks", "the body has too many chunks", status=413)
        self._left = size + 2

    def _take(self, buffer: bytes, position: int, taken: int) -> None:
        """`taken` octets of a chunk's data and of the CR LF that ends it."""
        of_data = min(taken, max(self._left - 2, 0))
        self.body += memoryview(buffer)[position : position + of_data]
        ending = buffer[position + of_data : position + taken]
        if ending != b"\r\n"[2 - (self._left - of_data) :][: len(ending)]:
            raise HttpError("http_chunk", "a chunk is longer than its size says")
        self._left -= taken


def body_too_large(limits: Limits) -> HttpError:
    """The refusal of a body over the limit."""
    return HttpError(
        "body_too_large", f"the body is larger than {limits.body_bytes} bytes", status=413
    )
