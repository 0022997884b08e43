"""The quote helper: the one process with root's rights. Turns 64 bytes into a quote, nothing else.

The kernel's report tree is for root alone. The agent, which talks to the network and parses what
strangers send, is not root; it asks this process over a Unix socket (`agent.quotes.wire`). Only one
user may ask, and is known by what the kernel says of the peer (SO_PEERCRED). A request has a fixed
size, little time, and a place in a line; quotes have a rate. There is no state but that rate.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from agent import unix_socket
from agent.quotes.limit import turn
from agent.quotes.wire import REQUEST, decode_request, encode_error, encode_quote
from attestation.configfs_tsm import fetch_quote
from attestation.errors import MalformedError, QuoteError
from attestation.tsm import Quote, TsmTree

TALK_SECONDS: Final = 2.0  # to receive a request; and again to send the reply
QUOTE_SECONDS: Final = 60.0  # the line of those who wait included
BACKLOG: Final = 8
ACCEPT_SECONDS: Final = 0.1  # between two tries to accept after one that failed
_FIRST_PASSED: Final = 3  # sd_listen_fds(3)
Bound = Callable[[float], AbstractContextManager[None]]


class TimeIsUpError(Exception):
    """No OSError, so that nobody takes it for one of the tree's."""


class Helper:
    """Answers connections, one at a time.

    Args:
        tree: where quotes come from.
        uid: the one user that may ask.
        limit: descriptor of the file with the rate (`agent.quotes.limit`).
        bound: a context that raises TimeIsUpError in its block after so many seconds.
    """

    def __init__(self, *, tree: TsmTree, uid: int, limit: int, bound: Bound | None = None) -> None:
        self._tree = tree
        self._uid = uid
        self._limit = limit
        self._bound = bound or alarm

    def serve(self, listener: socket.socket) -> None:
        """Answer until the process ends."""
        while True:
            try:
                connection, _address = listener.accept()
            except OSError as error:  # who came is gone again, or no descriptor is free
                _log(f"nobody could be accepted: {error}")
                time.sleep(ACCEPT_SECONDS)
                continue
            with connection:
                self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        """Answer one connection. What goes wrong in it is the peer's, and is logged in a line."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _gid = struct.unpack("3i", credentials)
        if uid != self._uid:
            _log(f"refused: user {uid} (process {pid}) may not ask, only user {self._uid}")
            return
        try:
            data = _receive(connection, time.monotonic() + TALK_SECONDS)
            reply = self._reply(data)
            connection.settimeout(TALK_SECONDS)
            connection.sendall(reply)
        except OSError as error:  # TimeoutError is one
            _log(f"process {pid} is gone or too slow: {error}")

    def _reply(self, data: bytes) -> bytes:
        error: QuoteError | MalformedError
        try:
            with self._bound(QUOTE_SECONDS):
                return encode_quote(self._quote(*decode_request(data)))
        except TimeIsUpError:
            error = QuoteError("quote.timeout", f"no quote within {QUOTE_SECONDS:g} seconds")
        except (QuoteError, MalformedError) as raised:
            error = raised
        _log(f"no quote: {error} [{error.code}]")
        return encode_error(error)

    def _quote(self, report_data: bytes, privlevel: int | None) -> Quote:
        with turn(self._limit, _boot_ns()) as allowed:
            if not allowed:
                raise QuoteError(
                    "quote.limited",
                    "too many quotes were asked for",
                    remedy="wait some seconds; if the agent did not ask, find out who does",
                )
            return fetch_quote(self._tree, report_data, privlevel=privlevel)


def _receive(connection: socket.socket, end: float) -> bytes:
    """To the end of the stream, or one byte more than a request has."""
    data = b""
    while len(data) <= REQUEST.size:
        if (left := end - time.monotonic()) <= 0:
            raise TimeoutError("the request does not come")
        connection.settimeout(left)
        if not (more := connection.recv(REQUEST.size + 1 - len(data))):
            break
        data += more
    return data


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeIsUpError in the block after `seconds`, out of a system call too. Main thread."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def inherited(environ: dict[str, str]) -> socket.socket | None:
    """The socket that the service manager passed: descriptor 3, or standard input."""
    passed = environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS") == "1"
    descriptor = _FIRST_PASSED if passed else 0
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            sock = socket.socket(fileno=descriptor)
            if sock.family == socket.AF_UNIX:
                return sock
            sock.detach()
    return None


def listen(path: Path) -> socket.socket:
    """A listening socket that everybody may connect to: who may ask is decided by SO_PEERCRED.

    Raises:
        OSError: the place cannot be used, or something that is no socket is there.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "something that is not a socket is there")
        path.unlink()
    sock = unix_socket.bind(path, 0o666)
    try:
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _log(text: str) -> None:
    sys.stderr.write(f"lucid-agent quote-helper: {text}\n")
