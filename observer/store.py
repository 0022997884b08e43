"""What the Observer keeps, in any database that SQLAlchemy's async drivers reach.

One writer at a time, one transaction per write. A write that has begun runs to its end even when
the stream that asked for it is cut off: a half-cancelled commit would leave nobody knowing.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from attestation import chain
from observer.alarms import record_alarm
from observer.boots import Attested, OfferedBoot, Position, StoredBoot
from observer.config import ConfigError
from observer.database import connect, reason
from observer.effects import Alarm, Begin, Commit, SaveCheckpoint, SavePassport
from observer.rows import reason_rows, record_row
from observer.schema import SCHEMA_VERSION, agents, boots, checkpoints, meta, reasons, records
from observer.schema import metadata as tables

Result = TypeVar("Result")
Row = dict[str, Any]

MINUTE_NS: Final = 60 * 10**9


class StoreError(Exception):
    """The database did not do what was asked; nothing of it was kept. Try again later."""


class Superseded(Exception):  # noqa: N818 - a ruling, named after its Nack
    """A newer stream of the same agent has taken over."""


def _passport_columns(attested: Attested) -> Row:
    info = {
        "passport_id": attested.passport_id,
        "subject": attested.subject,
        "tee": attested.tee,
        "tee_display": attested.tee_display,
        "simulated": attested.simulated,
        "hardware_attested": attested.hardware_attested,
        "issued_at": attested.issued_at,
        "expires_at": attested.expires_at,
        "bundle_name": attested.bundle_name,
        "bundle_version": attested.bundle_version,
        "bundle_digest": attested.bundle_digest.hex(),
        "answers": attested.answers,
    }
    return {
        "key": attested.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "thumbprint": attested.thumbprint,
        "passport": attested.token,
        "passport_info": json.dumps(info, ensure_ascii=False),
        "vouched_by": None,
    }


def _load_key(der: bytes | None) -> ec.EllipticCurvePublicKey | None:
    if der is None:
        return None
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StoreError(f"a stored key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StoreError("a stored key is not an elliptic-curve key")
    return key


class Store:
    """The database of one Observer. Use `Store.open`, and `close` at the end."""

    def __init__(
        self, engine: AsyncEngine, lock_file: int | None, clock: Callable[[], int]
    ) -> None:
        self.engine = engine
        self._lock_file = lock_file
        self._clock = clock
        self._writing = asyncio.Lock()
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

        async def work(connection: AsyncConnection) -> dict[bytes, Position]:
            await self._save_agent(connection, begin)
            ids = [boot.boot_id for boot in begin.boots]
            rows = await connection.execute(select(boots).where(boots.c.boot_id.in_(ids)))
            stored = {row.boot_id: row for row in rows}
            positions = {}
            for boot in begin.boots:
                row = stored.get(boot.boot_id)
                if row is None:
                    positions[boot.boot_id] = await self._add_boot(connection, begin, boot)
                    continue
                positions[boot.boot_id] = Position(last_seq=row.last_seq, head=row.head)
                if boot.attested is not None:
                    await connection.execute(
                        update(boots)
                        .where(boots.c.boot_id == boot.boot_id)
                        .values(**_passport_columns(boot.attested))
                    )
            return positions

        return await self._write(work, allowed=allowed)

    async def _save_agent(self, connection: AsyncConnection, begin: Begin) -> None:
        now = self._clock()
        values = {
            "version": begin.version,
            "boot_id": begin.running.boot_id,
            "epoch": begin.epoch,
            "state": "",
            "durable_seq": begin.running.last_seq,
            "last_seen_ns": now,
        }
        changed = await connection.execute(
            update(agents).where(agents.c.agent_id == begin.agent_id).values(**values)
        )
        if changed.rowcount == 0:
            await connection.execute(
                insert(agents), {"agent_id": begin.agent_id, "first_seen_ns": now, **values}
            )

    async def _add_boot(
        self, connection: AsyncConnection, begin: Begin, boot: OfferedBoot
    ) -> Position:
        position = Position(last_seq=0, head=chain.genesis(boot.boot_seed))
        values: Row = {
            "boot_id": boot.boot_id,
            "agent_id": begin.agent_id,
            "boot_seed": boot.boot_seed,
            "first_seen_ns": self._clock(),
            "last_seq": position.last_seq,
            "head": position.head,
            "vouched_by": begin.running.boot_id,
        }
        if boot.attested is not None:
            values |= _passport_columns(boot.attested)
        await connection.execute(insert(boots), values)
        return position

    async def commit(self, commit: Commit, *, allowed: Callable[[], bool]) -> list[Row]:
        """Store records durably, all or none; the rows as stored, in order.

        Raises:
            StoreError, Superseded.
        """
        now = self._clock()

        async def work(connection: AsyncConnection) -> list[Row]:
            first = self._next_record
            rows = [
                record_row(record, row_id=first + offset, received_ns=now)
                for offset, record in enumerate(commit.records)
            ]
            await connection.execute(insert(records), rows)
            if named := [item for row in rows for item in reason_rows(row)]:
                await connection.execute(insert(reasons), named)
            await connection.execute(
                update(boots)
                .where(boots.c.boot_id == commit.boot_id)
                .values(last_seq=commit.position.last_seq, head=commit.position.head)
            )
            return rows

        def advance() -> None:
            self._next_record += len(commit.records)

        return await self._write(work, allowed=allowed, done=advance)

    async def save_checkpoint(self, save: SaveCheckpoint) -> None:
        """Keep a verified checkpoint. Of those before it, one a minute is kept: the newest
        covers all records before it, the others only narrow down when something happened.

        Raises:
            StoreError.
        """
        checkpoint = save.checkpoint

        async def work(connection: AsyncConnection) -> None:
            boot = checkpoint.boot_id
            known = await connection.scalar(
                select(checkpoints.c.seq).where(
                    checkpoints.c.boot_id == boot, checkpoints.c.seq == checkpoint.seq
                )
            )
            if known is not None:
                return
            newest = (
                await connection.execute(
                    select(checkpoints.c.seq, checkpoints.c.wall_ns)
                    .where(checkpoints.c.boot_id == boot)
                    .order_by(checkpoints.c.seq.desc())
                    .limit(1)
                )
            ).first()
            if newest and newest.wall_ns // MINUTE_NS == checkpoint.wall_ns // MINUTE_NS:
                await connection.execute(
                    delete(checkpoints).where(
                        checkpoints.c.boot_id == boot, checkpoints.c.seq == newest.seq
                    )
                )
            await connection.execute(
                insert(checkpoints),
                {
                    "boot_id": boot,
                    "seq": checkpoint.seq,
                    "head": checkpoint.head,
                    "wall_ns": checkpoint.wall_ns,
                    "received_ns": self._clock(),
                    "cose": save.cose,
                    "recovered_by": save.recovered_by,
                },
            )
            if newest is None or newest.seq < checkpoint.seq:
                await connection.execute(
                    update(boots)
                    .where(boots.c.boot_id == boot)
                    .values(checkpoint_seq=checkpoint.seq, checkpoint_ns=checkpoint.wall_ns)
                )

        await self._write(work)

    async def save_passport(self, save: SavePassport) -> None:
        """Replace the passport of a boot by a newer one that verified.

        Raises:
            StoreError.
        """

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(boots)
                .where(boots.c.boot_id == save.boot_id)
                .values(**_passport_columns(save.attested))
            )

        await self._write(work)

    async def save_alarm(self, alarm: Alarm) -> None:
        """Keep an alarm; repetitions are counted, evidence and rows are bounded.

        Raises:
            StoreError.
        """

        async def work(connection: AsyncConnection) -> None:
            await record_alarm(connection, alarm, self._clock())

        await self._write(work)

    async def save_seen(self, seen: Sequence[Row]) -> None:
        """Keep when agents were last heard, and what they said.

        Args:
            seen: rows with agent_id, state, durable_seq, last_seen_ns.

        Raises:
            StoreError.
        """

        async def work(connection: AsyncConnection) -> None:
            for row in seen:
                values = {name: value for name, value in row.items() if name != "agent_id"}
                await connection.execute(
                    update(agents).where(agents.c.agent_id == row["agent_id"]).values(**values)
                )

        await self._write(work)

    # -- reading for the receiver ----------------------------------------------------------

    async def load_boots(self, boot_ids: Sequence[bytes]) -> dict[bytes, StoredBoot]:
        """Those of these boots that are stored.

        Raises:
            StoreError.
        """
        rows = await self.read(select(boots).where(boots.c.boot_id.in_(boot_ids)))
        return {
            row.boot_id: StoredBoot(
                boot_id=row.boot_id,
                agent_id=row.agent_id,
                boot_seed=row.boot_seed,
                thumbprint=row.thumbprint,
                key=_load_key(row.key),
                position=Position(last_seq=row.last_seq, head=row.head),
            )
            for row in rows
        }

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
