"""Where a thing to be checked comes from: a file, standard input, or a URL. All are hostile."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import httpx

MAX_SIZE: Final = 1024 * 1024  # bytes; a passport is about 8 KiB
TIMEOUT_SECONDS: Final = 15.0  # of silence
FETCH_SECONDS: Final = 60.0  # altogether: a server may drip


class SourceError(Exception):
    """The source gave nothing usable. The message says what and where."""


def read_source(source: str) -> bytes:
    """The bytes of `-` (standard input), `http(s)://…`, or a file.

    Raises:
        SourceError: missing, unreadable, too large, or an HTTP answer other than 200.
    """
    if source.startswith(("http://", "https://")):
        data = _fetch(source)
        if len(data) > MAX_SIZE:
            raise SourceError(f"{source}: larger than {MAX_SIZE} bytes")
        return data
    return read_file(source)


def read_file(source: str) -> bytes:
    """The bytes of `-` (standard input) or a file; never of a URL.

    Raises:
        SourceError: missing, unreadable or too large.
    """
    if source == "-":
        data = sys.stdin.buffer.read(MAX_SIZE + 1)
    else:
        try:
            with Path(source).open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        except OSError as error:
            raise SourceError(f"{source}: {error.strerror}") from None
    if len(data) > MAX_SIZE:
        raise SourceError(f"{source}: larger than {MAX_SIZE} bytes")
    return data


def _fetch(url: str) -> bytes:
    end = time.monotonic() + FETCH_SECONDS
    try:
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise SourceError(f"{url}: answered {answer.status_code}, not 200")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise SourceError(f"{url}: answered compressed, which it was asked not to")
            data = bytearray()
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) > MAX_SIZE:
                    break
                if time.monotonic() > end:
                    raise SourceError(f"{url}: no whole answer in {FETCH_SECONDS:.0f} s")
            return bytes(data)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceError(f"{url}: {error}") from None
