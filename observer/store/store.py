"""The database of one Observer: opened, written, and read for the receiver.

One writer at a time, one transaction per write. A write that has begun runs to its end even when
the stream that asked for it is cut off: a half-cancelled commit would leave nobody knowing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from sqlalchemy import func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from observer.boots import Before, Position, StoredBoot
from observer.config import ConfigError
from observer.effects import Alarm, Begin, Commit, SaveCheckpoint, SavePassport
from observer.store.alarms import record_alarm
from observer.store.boots import (
    before,
    begin_stream,
    newest_boots,
    save_passport,
    save_seen,
    stored_boot,
)
from observer.store.checkpoints import save_checkpoint
from observer.store.database import StoreError, connect, reason
from observer.store.records import record_row, save_records
from observer.store.schema import SCHEMA_VERSION, boots, meta, records
from observer.store.schema import metadata as tables

Result = TypeVar("Result")
Row = dict[str, Any]

LOOKS: Final = 6  # queries for people at once: those of agents and the writer have the rest


class Superseded(Exception):  # noqa: N818 - a ruling, named after its Nack
    """A newer stream of the same agent has taken over."""


class Store:
    """The database of one Observer. Use `Store.open`, and `close` at the end."""

    def __init__(
        self, engine: AsyncEngine, lock_file: int | None, clock: Callable[[], int]
    ) -> None:
        self.engine = engine
        self._lock_file = lock_file
        self._clock = clock
        self._writing = asyncio.Lock()
        self._looking = asyncio.Semaphore(LOOKS)
        self._writes: set[asyncio.Task[Any]] = set()
        self._next_record = 1
        self.healthy = True

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], int] = time.time_ns) -> Store:
        """Connect, make the tables where there are none.

        Raises:
            ConfigError: the URL is no usable database, another Observer has it, or its tables
                are of another version.
        """
        engine, lock_file = connect(url)
        store = cls(engine, lock_file, clock)
        try:
            await store._prepare()
        except (SQLAlchemyError, OSError) as error:
            await store.close()
            raise ConfigError(f"the database cannot be opened: {reason(error)}") from error
        except ConfigError:
            await store.close()
            raise
        return store

    async def _prepare(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(tables.create_all)
            version = await connection.scalar(
                select(meta.c.value).where(meta.c.name == "schema_version")
            )
            if version is None:
                await connection.execute(
                    insert(meta), {"name": "schema_version", "value": str(SCHEMA_VERSION)}
                )
            elif version != str(SCHEMA_VERSION):
                raise ConfigError(
                    f"the database has tables of version {version}; this Observer needs"
                    f" version {SCHEMA_VERSION}. Use the Observer that made it, or a new database."
                )
            newest = await connection.scalar(select(func.max(records.c.id)))
            self._next_record = (newest or 0) + 1

    async def close(self) -> None:
        """Finish what is being written, let go of the database."""
        if self._writes:
            await asyncio.gather(*self._writes, return_exceptions=True)
        await self.engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    # -- writing ---------------------------------------------------------------------------

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction; a seam where tests let a commit fail."""
        return self.engine.begin()

    async def _write(
        self,
        work: Callable[[AsyncConnection], Awaitable[Result]],
        *,
        allowed: Callable[[], bool] = lambda: True,
        done: Callable[[], None] = lambda: None,
    ) -> Result:
        """Run `work` in a transaction, to its end. `allowed` is asked once the lock is held;
        `done` is called after the commit, before the lock is let go."""

        async def run() -> Result:
            async with self._writing:
                if not allowed():
                    raise Superseded
                try:
                    async with self.transaction() as connection:
                        result = await work(connection)
                except (SQLAlchemyError, OSError) as error:
                    self.healthy = False
                    raise StoreError(reason(error)) from error
                self.healthy = True
                done()
                return result

        task = asyncio.ensure_future(run())
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where the stream that asked is gone

    async def begin(self, begin: Begin, *, allowed: Callable[[], bool]) -> dict[bytes, Position]:
        """Store agent and boots of a stream that has proven itself; the stored end of each boot.

        Raises:
            StoreError, Superseded.
        """
        return await self._write(
            lambda connection: begin_stream(connection, begin, self._clock()), allowed=allowed
        )

    async def commit(self, commit: Commit, *, allowed: Callable[[], bool]) -> list[Row]:
        """Store records durably, all or none; the rows as stored, in order.

        Raises:
            StoreError, Superseded.
        """
        now = self._clock()

        async def work(connection: AsyncConnection) -> list[Row]:
            rows = [
                record_row(record, row_id=self._next_record + offset, received_ns=now)
                for offset, record in enumerate(commit.records)
            ]
            await save_records(connection, commit, rows)
            return rows

        def advance() -> None:
            self._next_record += len(commit.records)

        return await self._write(work, allowed=allowed, done=advance)

    async def save_checkpoint(self, save: SaveCheckpoint) -> None:
        """Keep a verified checkpoint. Of those before it, one a minute is kept.

        Raises:
            StoreError.
        """
        await self._write(lambda connection: save_checkpoint(connection, save, self._clock()))

    async def save_passport(self, save: SavePassport) -> None:
        """Replace the passport of a boot by a newer one that verified.

        Raises:
            StoreError.
        """
        await self._write(lambda connection: save_passport(connection, save.boot_id, save.attested))

    async def save_alarm(self, alarm: Alarm) -> None:
        """Keep an alarm; repetitions are counted, evidence and rows are bounded.

        Raises:
            StoreError.
        """
        await self._write(lambda connection: record_alarm(connection, alarm, self._clock()))

    async def save_seen(self, seen: Sequence[Row]) -> None:
        """Keep when agents were last heard, and what they said.

        Args:
            seen: rows with agent_id, state, durable_seq, last_seen_ns.

        Raises:
            StoreError.
        """
        await self._write(lambda connection: save_seen(connection, seen))

    # -- reading for the receiver ----------------------------------------------------------

    async def load_boots(self, boot_ids: Sequence[bytes]) -> dict[bytes, StoredBoot]:
        """Those of these boots that are stored.

        Raises:
            StoreError.
        """
        rows = await self.read(select(boots).where(boots.c.boot_id.in_(boot_ids)))
        return {row.boot_id: stored_boot(row) for row in rows}

    async def load_before(self, agent_id: str, offered: Collection[bytes]) -> Before:
        """What is known of the newest boots of an agent.

        Args:
            offered: boots whose missing records may come yet.

        Raises:
            StoreError.
        """
        return before(await self.read(newest_boots(agent_id)), offered)

    async def load_heads(self, boot_id: bytes, first_seq: int, last_seq: int) -> dict[int, bytes]:
        """Stored chain heads of a boot, first and last included.

        Raises:
            StoreError.
        """
        rows = await self.read(
            select(records.c.seq, records.c.head).where(
                records.c.boot_id == boot_id, records.c.seq.between(first_seq, last_seq)
            )
        )
        return {row.seq: row.head for row in rows}

    async def ping(self) -> None:
        """Ask the database for nothing.

        Raises:
            StoreError.
        """
        await self.read(select(func.count()).select_from(meta))

    async def look(self, query: Any) -> Sequence[Any]:
        """The same for people, a few at once: a search takes a while, and nobody's search may keep
        an agent's records from being stored.

        Raises:
            StoreError.
        """
        async with self._looking:
            return await self.read(query)

    async def read(self, query: Any) -> Sequence[Any]:
        """All rows of one query.

        Raises:
            StoreError.
        """
        try:
            async with self.engine.connect() as connection:
                return (await connection.execute(query)).all()
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(reason(error)) from error
