"""Moves what was committed from the WAL into the journal's file, beside the writer.

SQLite would do this inside of a commit now and then, and everybody who waits for that commit would
wait for it too: 5 to 15 ms where a commit takes 0.3. Here a second connection moves nearly
all of it without holding up the writer; only the small rest is left to it, so that it can begin
the WAL anew. Its thread has no lower priority: it would hold locks of the file system that the
writer's fsync waits for.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from agent import logs
from agent.journal.file import WAL_PAGES, Connect, move_wal
from agent.life.ticks import next_tick
from agent.worker import Worker, open_worker

WAL_SECONDS: Final = 0.25
_LOG = logs.get("journal")


class WalKeeper:
    """A second connection to the journal's file, opened when it is first needed. Blocking; used
    by one thread at a time."""

    def __init__(self, path: Path, connect: Connect) -> None:
        self._path = path
        self._connect = connect
        self._db: sqlite3.Connection | None = None

    def move(self) -> int:
        """Move what can be moved without making anybody wait; gives how many pages the WAL has.

        Raises:
            sqlite3.Error: it could not; the next call tries on a new connection.
        """
        try:
            if self._db is None:
                self._db = self._connect(self._path)
            return move_wal(self._db)
        except (sqlite3.Error, MemoryError):  # SQLite's own word for memory that ran out
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None


async def tend_wal(
    keeper: WalKeeper,
    *,
    commits: Callable[[], int | None],
    committed: Callable[[], Awaitable[None]],
    move_rest: Callable[[], Awaitable[None]],
) -> None:
    """Keep the WAL short, until cancelled; then the keeper's connection is closed.

    Args:
        commits: how many there were; None while they fail.
        committed: waits for the next one; it may return for less.
        move_rest: lets the writer move what is left, between two commits.
    """
    seen: int | None = 0
    async with open_worker("journal-wal") as worker:
        try:
            while True:
                await trio.sleep_until(next_tick(WAL_SECONDS))
                count = commits()
                if count in (None, seen):
                    await committed()
                else:
                    seen = count
                    await _move(worker, keeper, move_rest)
        finally:
            with trio.CancelScope(shield=True):
                await worker.run(keeper.close)


async def _move(
    worker: Worker, keeper: WalKeeper, move_rest: Callable[[], Awaitable[None]]
) -> None:
    try:
        if await worker.run(keeper.move) >= WAL_PAGES:
            await move_rest()
    except (sqlite3.Error, MemoryError) as error:
        # A commit does it then, and fails if it can't: that is what counts.
        _LOG.warning("journal.wal", error=str(error) or type(error).__name__)
