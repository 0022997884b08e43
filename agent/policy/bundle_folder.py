"""A folder that holds a policy bundle, looked at for changes.

A change is told when two looks in a row see the same, and what is read counts only if nothing
changed meanwhile, so a folder that is being written is left alone. What was tried once is not tried
again until it changes, unless it may pass by itself: a file that could not be read, an auditor that
was away, a fault of our own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from enforcement.policy.bundle_files import fingerprint, read_files
from enforcement.policy.problems import BundleError

Seen = tuple[object, ...]
SETTLE_TRIES: Final = 5  # to read a folder that is being written
SETTLE_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 60.0  # between two tries of what may pass by itself
_PASSING: Final = frozenset({"auditors", "file.unreadable"})  # rules of such problems


class BundleFolder:
    """One folder. Used on the trio thread, but for `begin`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tried: Seen = ()
        self._before: Seen = ()
        self._again = float("inf")  # when what was refused is told again all the same

    def begin(self) -> Mapping[str, bytes]:
        """Read it for the first time. Blocking.

        Raises:
            BundleError: it holds no bundle.
        """
        self._tried = self._before = fingerprint(self.path)
        return read_files(self.path)

    async def look(self) -> Seen | None:
        """Look once: what to read, or None where nothing changed or it still changes."""
        seen = await trio.to_thread.run_sync(fingerprint, self.path)
        settled = seen == self._before
        self._before = seen
        wanted = seen != self._tried or time.monotonic() >= self._again
        return seen if settled and wanted else None

    def refused(self, error: BundleError | None) -> None:
        """What was read could not be used (None: for a fault of ours): tell it again some time, if
        that may pass by itself."""
        passing = error is None or {problem.rule for problem in error.problems} <= _PASSING
        self._again = time.monotonic() + RETRY_SECONDS if passing else float("inf")

    async def read(self, seen: Seen) -> Mapping[str, bytes] | None:
        """What it holds; None if it changed since it was seen so, and nothing was tried.

        Raises:
            BundleError: it holds no bundle.
        """

        def work() -> Mapping[str, bytes] | BundleError | None:
            try:
                found: Mapping[str, bytes] | BundleError = read_files(self.path)
            except BundleError as error:
                found = error
            return found if fingerprint(self.path) == seen else None

        self._tried, before = seen, self._tried
        found = await trio.to_thread.run_sync(work)
        if found is None:
            self._tried = before
        else:
            self._again = float("inf")
        if isinstance(found, BundleError):
            raise found
        return found

    async def read_now(self) -> Mapping[str, bytes] | None:
        """What it holds, whether or not it seems to have changed; None if it does not settle.

        Raises:
            BundleError: it holds no bundle.
        """
        for _ in range(SETTLE_TRIES):
            found = await self.read(await trio.to_thread.run_sync(fingerprint, self.path))
            if found is not None:
                return found
            await trio.sleep(SETTLE_SECONDS)
        return None
