"""Quotes for the daemon: off the event loop, one at a time, with a deadline, and counted.

A thread that waits in the kernel cannot be interrupted. When the deadline passes it is abandoned,
and keeps the only place until the kernel answers: the platform never has two requests of ours,
which TDX would refuse with EBUSY, and a host that never answers costs one thread, not one a try.

A guest whose key for the firmware is dead is not asked again: no answer can be another one.
"""

from __future__ import annotations

import errno
import functools
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import trio

from attestation.errors import QuoteError
from attestation.tsm import Quote


class Fetch(Protocol):
    """Makes a quote: `fetch_quote` over a tree, or the quote helper asked. Blocking."""

    def __call__(
        self,
        report_data: bytes,
        *,
        sleep: Callable[[float], object],
        wanted: Callable[[], bool],
        failed: Callable[[str, int | None], None],
    ) -> Quote:
        """A quote over 64 bytes; the arguments are those of `fetch_quote`."""


NO_NUMBER: Final = "none"  # stands for the error number of a failure that has none


class Quotes:
    """Fetches quotes from one place.

    Attributes:
        fetched: quotes that were given.
        failures: transactions that failed, those that were tried again included, by (code, name of
            the error number or `none`): `("quote.busy", "EBUSY")`. A deadline that passed counts as
            `("quote.timeout", "none")`.
        took: told the seconds that each quote took, failed transactions included.
        dead: the error after which no quote comes until the guest is rebooted; None: none was met.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        seconds: float,
        took: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self.took = took
        self.fetched = 0
        self.failures: dict[tuple[str, ...], int] = {}
        self.dead: QuoteError | None = None
        self._place = trio.CapacityLimiter(1)
        self._lock = threading.Lock()  # failures are counted in the thread
        self._since: float | None = None  # when the thread that is at work began

    @property
    def waiting_seconds(self) -> float:
        """How long the request that is in the kernel has been there; 0 where there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    async def fetch(self, report_data: bytes) -> Quote:
        """A quote over 64 bytes.

        Raises:
            QuoteError: as `fetch_quote`; `quote.timeout`: the deadline passed. The error in `dead`
                where there is one, without asking.
        """
        self.refuse_if_dead()
        gone = threading.Event()
        started = time.monotonic()
        work = functools.partial(self._work, report_data, gone)
        with trio.move_on_after(self._seconds):
            try:
                quote = await trio.to_thread.run_sync(
                    work, abandon_on_cancel=True, limiter=self._place
                )
            finally:
                gone.set()
            self.fetched += 1
            self.took(time.monotonic() - started)
            return quote
        self._failed("quote.timeout", None)
        waiting = self.waiting_seconds
        raise QuoteError(
            "quote.timeout",
            f"no quote within {self._seconds:g} seconds"
            + (f"; the kernel has had a request of ours for {waiting:.0f} s" if waiting else ""),
            remedy="it is tried again later; if it stays so, look at the host and at dmesg",
        )

    def _work(self, report_data: bytes, gone: threading.Event) -> Quote:
        self.refuse_if_dead()  # whoever was before us may have found it
        self._since = time.monotonic()
        try:
            return self._fetch(
                report_data,
                sleep=gone.wait,  # nobody sits out a pause for a caller that has gone
                wanted=lambda: not gone.is_set(),
                failed=self._failed,
            )
        except QuoteError as error:
            if error.needs_reboot:
                self.dead = error.again()  # without its traceback, which holds our frames
            raise
        finally:
            self._since = None

    def refuse_if_dead(self) -> None:
        """Raise the error in `dead`, if there is one."""
        if self.dead is not None:
            raise self.dead.again()

    def _failed(self, code: str, number: int | None) -> None:
        name = NO_NUMBER if number is None else errno.errorcode.get(number, str(number))
        with self._lock:
            self.failures[code, name] = self.failures.get((code, name), 0) + 1
