"""Where issuers' keys come from: a file, or a URL that is asked again from time to time.

Keys are exchanged while the agent runs, without a restart: a file is read again when it changes, a
URL every `refresh` seconds, and at once (but not more often than `SPACING`) when a token names a
key that is not there. What cannot be read or fetched changes nothing, until the keys are older than
`MAX_AGE`: then there are none, and the issuer's tokens are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from attestation.panics import is_fault
from enforcement.identity.token_rules import check_url
from enforcement.identity.tokens import KeySet, read_keys

if TYPE_CHECKING:
    import httpx

MAX_DOCUMENT: Final = 1024 * 1024  # bytes
MAX_AGE: Final = 24 * 3600.0  # seconds
SPACING: Final = 10.0  # seconds between two fetches
FETCH_SECONDS: Final = 10.0
FILE_SECONDS: Final = 5.0  # between two looks at a file
_PLAIN: Final = {"accept": "application/json", "accept-encoding": "identity"}

Told = Callable[[str, str], None]


class KeySource:
    """The keys of one issuer, kept fresh while `run` runs. `keys` is what holds now.

    Args:
        place: a file, or a URL.
        refresh, max_age: seconds.
        told: called with the issuer and what went wrong; nothing secret is in it.
    """

    def __init__(
        self,
        issuer: str,
        place: Path | str,
        *,
        refresh: float = 300.0,
        max_age: float = MAX_AGE,
        told: Told | None = None,
    ) -> None:
        """Raises ValueError: a URL that may not be asked."""
        if isinstance(place, str):
            check_url(place)
        self.issuer = issuer
        self._place = place
        self._refresh = refresh
        self._max_age = max_age
        self._told = told or (lambda _issuer, _problem: None)
        self._keys: KeySet | None = None
        self._document = b""
        self._as_of = 0.0
        self._wanted = trio.Event()
        self.failures = 0

    def keys(self) -> KeySet | None:
        """The keys, or None: there are none, or they are too old to be believed."""
        if self._keys is not None and trio.current_time() - self._as_of > self._max_age:
            self._keys = None
        return self._keys

    def want(self) -> None:
        """A token named a key that is not there."""
        self._wanted.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read now, and again, until cancelled. Reports as started after the first attempt."""
        if isinstance(self._place, Path):
            await self._run_file(self._place, task_status)
            return
        import httpx  # noqa: PLC0415 - an agent that asks nobody saves its 3 MB

        async with httpx.AsyncClient(
            timeout=FETCH_SECONDS, follow_redirects=False, trust_env=False
        ) as client:
            started = False
            while True:
                await self._attempt(lambda: _fetch(client, str(self._place)))
                if not started:
                    started = True
                    task_status.started()
                await trio.sleep(SPACING)
                with trio.move_on_after(max(self._refresh - SPACING, 0)):
                    await self._wanted.wait()
                self._wanted = trio.Event()

    async def _run_file(self, path: Path, task_status: trio.TaskStatus[None]) -> None:
        await self._attempt(lambda: trio.to_thread.run_sync(_read, path))
        task_status.started()
        while True:
            await trio.sleep(FILE_SECONDS)
            await self._attempt(lambda: trio.to_thread.run_sync(_read, path))

    async def _attempt(self, load: Callable[[], Awaitable[bytes]]) -> None:
        try:
            document = await load()
            if document != self._document:
                self._keys = read_keys(document)
                self._document = document
            self._as_of = trio.current_time()
        except BaseException as error:
            if not is_fault(error):
                raise
            # Whatever a document does to its reader, the keys that are there go on. The text of
            # an error that is not ours may hold anything.
            self._failed(str(error) if type(error) is ValueError else type(error).__name__)

    def _failed(self, what: str) -> None:
        self.failures += 1
        self._told(self.issuer, what)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        document = file.read(MAX_DOCUMENT + 1)
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"larger than {MAX_DOCUMENT} bytes")
    return document


async def _fetch(client: httpx.AsyncClient, url: str) -> bytes:
    document = bytearray()
    with trio.move_on_after(FETCH_SECONDS) as scope:
        async with client.stream("GET", url, headers=_PLAIN) as reply:
            if reply.status_code != 200:
                raise ValueError(f"status {reply.status_code}")
            if reply.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("compressed, which was not asked for")  # a little may be very much
            async for piece in reply.aiter_raw():
                # What is too much is read away, for as long as the time lasts, and not kept.
                document += piece[: MAX_DOCUMENT + 1 - len(document)]
    if scope.cancelled_caught:
        raise ValueError("no answer in time")
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"larger than {MAX_DOCUMENT} bytes")
    return bytes(document)
