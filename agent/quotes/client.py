"""The agent's side of the quote helper: the same quotes, made by a process that may."""

from __future__ import annotations

import hmac
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.quotes.wire import MAX_REPLY, decode_reply, encode_request
from attestation.configfs_tsm import report_data_of
from attestation.errors import MalformedError, QuoteError
from attestation.tsm import Quote

_CHUNK: Final = 65_536
_REMEDY: Final = "is lucid-agent-quote.socket (or the helper's container) running? see its log"


def quote_by_helper(
    report_data: bytes,
    *,
    path: Path,
    seconds: float,
    privlevel: int | None = None,
    sleep: Callable[[float], object] = time.sleep,
    wanted: Callable[[], bool] = lambda: True,
    failed: Callable[[str, int | None], None] = lambda _code, _number: None,
) -> Quote:
    """A quote over `report_data`, from the helper at `path`. Blocking, for at most `seconds`.

    The helper is not believed: that the quote is over our report data is checked here again, and
    its signature by everyone.

    Args:
        sleep, wanted: as of `fetch_quote`; not used, because the helper tries again by itself.
        failed: told the code and the error number of a failure.

    Raises:
        QuoteError: what the helper says; `quote.helper`: it does not answer, or not as it should;
            `quote.foreign`: the quote is over other report data.
    """
    del sleep, wanted
    try:
        return _quote(report_data, path, seconds, privlevel)
    except QuoteError as error:
        failed(error.code, error.errno)
        raise


def _quote(report_data: bytes, path: Path, seconds: float, privlevel: int | None) -> Quote:
    try:
        data = _exchange(encode_request(report_data, privlevel), path, time.monotonic() + seconds)
        if not data:
            raise QuoteError(
                "quote.helper",
                f"the quote helper at {path} hung up without a word",
                remedy=f"does its --user name the agent's user (now {os.geteuid()})? see its log",
            )
        quote = decode_reply(data)
    except TimeoutError:
        raise QuoteError(
            "quote.timeout", f"no quote within {seconds:g} seconds", remedy=_REMEDY
        ) from None
    except OSError as error:
        raise QuoteError(
            "quote.helper",
            f"the quote helper at {path} cannot be asked: {error.strerror}",
            remedy=_REMEDY,
            errno=error.errno,
        ) from None
    except MalformedError as error:
        raise QuoteError("quote.helper", f"{path} is no quote helper: {error}") from None
    if not hmac.compare_digest(report_data_of(quote), report_data):
        raise QuoteError(
            "quote.foreign",
            "the helper's quote is over other report data than ours",
            remedy="do not trust this helper's quotes until it is known who made them",
        )
    return quote


def _exchange(request: bytes, path: Path, end: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        _bound(sock, end)
        sock.connect(os.fspath(path))
        reply = bytearray()
        # A helper that refuses us hangs up, perhaps before it has read what we say.
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            while len(reply) <= MAX_REPLY:
                _bound(sock, end)
                if not (more := sock.recv(_CHUNK)):
                    break
                reply += more
        return bytes(reply)


def _bound(sock: socket.socket, end: float) -> None:
    if (left := end - time.monotonic()) <= 0:
        raise TimeoutError
    sock.settimeout(left)
