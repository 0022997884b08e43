"""Where a thing to be read comes from: a file, standard input, or a URL. All may be hostile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from lucid.exchange import ExchangeError, exchange

MAX_SIZE: Final = 1024 * 1024  # bytes; a passport is about 8 KiB
FETCH_SECONDS: Final = 60.0


class SourceError(Exception):
    """The source gave nothing usable. The message says what and where."""


def read_source(source: str) -> bytes:
    """The bytes of `-` (standard input), `http(s)://…`, or a file.

    Raises:
        SourceError: missing, unreadable, too large, or an HTTP answer other than 200.
    """
    if source.startswith(("http://", "https://")):
        return _fetch(source)
    return read_file(source)


def read_file(source: str | Path) -> bytes:
    """The bytes of `-` (standard input) or a file; never of a URL.

    Raises:
        SourceError: missing, unreadable or too large.
    """
    if str(source).startswith(("http://", "https://")):
        raise SourceError(f"{source}: nothing is fetched here; save it as a file")
    try:
        if source != "-":
            with Path(source).open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        elif sys.stdin is None:
            raise SourceError("-: standard input is closed")
        else:
            data = sys.stdin.buffer.read(MAX_SIZE + 1)
    except OSError as error:
        raise SourceError(f"{source}: {error.strerror}") from None
    if len(data) > MAX_SIZE:
        raise SourceError(f"{source}: larger than {MAX_SIZE} bytes")
    return data


def read_text(source: str | Path) -> str:
    """The same as UTF-8. Raises SourceError also where it is not."""
    try:
        return read_file(source).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{source}: not UTF-8 at byte {error.start}") from None


def _fetch(url: str) -> bytes:
    try:
        answer = exchange("GET", url, largest=MAX_SIZE, seconds=FETCH_SECONDS)
    except ExchangeError as error:
        raise SourceError(f"{url}: {error}") from None
    if answer.status != 200:
        raise SourceError(f"{url}: answered {answer.status}, not 200")
    return answer.body
