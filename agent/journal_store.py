"""The journal's file, the writer's side. Blocking; used by one thread at a time.

Everything of one turn (records, acknowledgements, checkpoints, the newest passport) is one
transaction: it is durable as a whole or not there at all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from agent.journal_file import (
    Connect,
    JournalError,
    connect,
    move_wal,
    open_writer,
    prepare,
    take,
    unusable,
)
from agent.journal_verify import Progress, verify_chains
from attestation import chain

Row = tuple[int, int, bytes, bytes]  # place, wall ns, head, record


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in a boot's chain and the head there."""

    seq: int
    head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A signed checkpoint of a boot; `recovered_by` is empty where its own key signed."""

    boot_id: bytes
    seq: int
    cose: bytes
    recovered_by: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one transaction writes.

    Attributes:
        acknowledged: by boot, how far the Observer has committed.
        signed: by boot, where the Observer has a checkpoint.
        unrecorded: decisions that got no place since the last turn.
    """

    rows: Sequence[Row] = ()
    acknowledged: Mapping[bytes, Mark] = field(default_factory=dict)
    signed: Mapping[bytes, int] = field(default_factory=dict)
    passport: bytes | None = None
    unrecorded: int = 0

    @property
    def only_rows(self) -> bool:
        """Whether there is nothing to write but records."""
        return not (self.acknowledged or self.signed or self.passport or self.unrecorded)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.rows) or not self.only_rows


_MOST_ROWS: Final = 64  # in one statement; each size is a statement that SQLite keeps prepared


@cache
def _insert_of(rows: int) -> str:
    return "INSERT INTO records VALUES " + ",".join(["(?, ?, ?, ?)"] * rows)  # noqa: S608 - no input


class JournalStore:
    """One boot's way to the file.

    Attributes:
        base: the place of this boot's seq 0.
        epoch: counts the boots of this file, from 1.
    """

    def __init__(
        self,
        path: Path,
        *,
        boot_seed: bytes,
        started_ns: int,
        connect: Connect = connect,
        progress: Progress = lambda _count: None,
    ) -> None:
        """Open or create the file, verify what is not yet delivered, and add this boot.

        Raises:
            JournalError: unusable, in use, of another version, or changed by somebody.
        """
        self.path = path
        self.boot_id = chain.boot_id(boot_seed)
        self._connect = connect
        self._suspect = False
        self._last = Mark(seq=0, head=chain.genesis(boot_seed))
        self._lock = take(path)
        try:
            self._db = open_writer(path, connect)
            try:
                prepare(self._db, path)
                verify_chains(self._db, path, progress)
                self._begin_boot(boot_seed, started_ns)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            os.close(self._lock)
            raise unusable(path, str(error)) from None
        except BaseException:
            os.close(self._lock)
            raise

    def _begin_boot(self, seed: bytes, started_ns: int) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            # An agent that starts over and over must not fill the file with boots without records.
            db.execute(
                "DELETE FROM boots WHERE number IN (SELECT number FROM ends WHERE last_seq = 0)"
            )
            cursor = db.execute(
                "INSERT INTO boots(boot_id, seed, started_ns, acked_head) VALUES (?, ?, ?, ?)"
                " RETURNING base",
                (self.boot_id, seed, started_ns, self._last.head),
            )
            (self.base,) = cursor.fetchone()
            db.execute("UPDATE counters SET value = value + 1 WHERE name = 'epoch'")
            self.epoch = self._counter("epoch")
            db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _counter(self, name: str) -> int:
        (value,) = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(value)

    # -- writing ----------------------------------------------------------------------------------

    def commit(self, turn: Turn, checkpoints: Sequence[Checkpoint] = ()) -> None:
        """Write a turn and make it durable.

        Raises:
            sqlite3.Error: nothing of it is durable; it may be tried again as it is.
            JournalError: the file is no longer the one that was opened.
        """
        rows = turn.rows
        if self._suspect and self._reconnect(rows):
            rows = ()
        db = self._db
        try:
            if turn.only_rows and not checkpoints and len(rows) <= _MOST_ROWS:
                self._insert(rows)  # one statement is a transaction of its own
            else:
                db.execute("BEGIN IMMEDIATE")
                self._insert(rows)
                self._write_rest(turn, checkpoints)
                db.execute("COMMIT")
        except BaseException:
            self._suspect = True
            self._rollback()
            raise
        if rows:
            self._last = self._end(rows)

    def _insert(self, rows: Sequence[Row]) -> None:
        """Many rows a statement. Each statement gives the interpreter away and has to wait to get
        it back, which beside a busy event loop costs far more than a row.
        """
        for start in range(0, len(rows), _MOST_ROWS):
            part = rows[start : start + _MOST_ROWS]
            self._db.execute(_insert_of(len(part)), [value for row in part for value in row])

    def _write_rest(self, turn: Turn, checkpoints: Sequence[Checkpoint]) -> None:
        db = self._db
        for boot_id, mark in turn.acknowledged.items():
            db.execute(
                "UPDATE boots SET acked_seq = ?1, acked_head = ?2"
                " WHERE boot_id = ?3 AND acked_seq < ?1",
                (mark.seq, mark.head, boot_id),
            )
        for boot_id, seq in turn.signed.items():
            db.execute(
                "UPDATE boots SET signed_seq = ?1 WHERE boot_id = ?2 AND signed_seq < ?1",
                (seq, boot_id),
            )
        for made in checkpoints:
            db.execute(
                "INSERT OR REPLACE INTO checkpoints"
                " SELECT base + ?, ?, ? FROM boots WHERE boot_id = ?",
                (made.seq, made.cose, made.recovered_by, made.boot_id),
            )
        if turn.passport:
            db.execute(
                "UPDATE boots SET passport = ? WHERE boot_id = ?", (turn.passport, self.boot_id)
            )
        if turn.unrecorded:
            db.execute(
                "UPDATE counters SET value = value + ? WHERE name = 'unrecorded'",
                (turn.unrecorded,),
            )

    def _end(self, rows: Sequence[Row]) -> Mark:
        place, _, head, _ = rows[-1]
        return Mark(seq=place - self.base, head=head)

    def _reconnect(self, rows: Sequence[Row]) -> bool:
        """After a failed commit: a new connection, and a look at what is really in the file.

        A commit may have become durable although it reported an error. Gives True where that is
        so and the rows must not be written again.
        """
        self._db.close()
        self._db = open_writer(self.path, self._connect)
        boot = self._db.execute(
            "SELECT last_seq FROM ends WHERE boot_id = ?", (self.boot_id,)
        ).fetchone()
        found = None
        if boot is not None:
            kept = self._db.execute(
                "SELECT head FROM records WHERE place = ?", (self.base + boot[0],)
            ).fetchone()
            found = Mark(seq=boot[0], head=kept[0] if kept else self._last.head)
        after = self._end(rows) if rows else self._last
        if found not in (self._last, after):
            raise JournalError(
                f"the journal {self.path} is no longer the file that was opened; put it back, or"
                " start the agent again"
            )
        self._suspect = False
        written = bool(rows) and found == after
        self._last = found
        return written

    def _rollback(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._suspect = True  # the connection is replaced before the next commit

    # -- looking after the file -------------------------------------------------------------------

    def unsigned_boots(self) -> list[tuple[bytes, Mark]]:
        """Earlier boots whose end the Observer has no checkpoint of and their own key did not
        sign: the running boot signs it."""
        rows = self._db.execute(
            "SELECT e.boot_id, e.last_seq, r.head FROM ends e"
            " JOIN records r ON r.place = e.base + e.last_seq"
            " LEFT JOIN checkpoints c ON c.place = r.place AND c.recovered_by = x''"
            " WHERE e.boot_id <> ? AND e.signed_seq < e.last_seq AND c.place IS NULL"
            " ORDER BY e.number",
            (self.boot_id,),
        ).fetchall()
        return [(boot_id, Mark(seq=seq, head=head)) for boot_id, seq, head in rows]

    def size(self) -> int:
        """Bytes in use inside the file (free pages not counted)."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (page_size,) = self._db.execute("PRAGMA page_size").fetchone()
        return int((pages - free) * page_size)

    def unrecorded(self) -> int:
        """Decisions of all boots that were let pass without a record."""
        return self._counter("unrecorded")

    def prune(self, *, before_ns: int | None, limit: int, acked_only: bool = True) -> int:
        """Delete records, oldest first; gives how many.

        Args:
            before_ns: only those made before this wall time; None: of any age.
            limit: at most this many, so that the writer is never held for long.
            acked_only: only what the Observer has committed.

        The last record of what may go stays: its head is where the chain goes on.
        """
        removed = 0
        for number, base, pruned, end in self._db.execute(
            "SELECT number, base, pruned_seq, iif(?, acked_seq, last_seq) AS may_go FROM ends"
            " WHERE may_go > pruned_seq + 1 ORDER BY number",
            (acked_only,),
        ).fetchall():
            top = min(end - 1, pruned + limit - removed)
            if before_ns is not None:
                (keep,) = self._db.execute(
                    "SELECT min(place) FROM records"
                    " WHERE place > ? AND place <= ? AND wall_ns >= ?",
                    (base + pruned, base + top, before_ns),
                ).fetchone()
                top = top if keep is None else keep - base - 1
            if top > pruned:
                self._delete(number, base, top)
                removed += top - pruned
            if removed >= limit:
                break
        if before_ns is not None and not removed:
            self._forget_delivered(before_ns)
        return removed

    def _delete(self, number: int, base: int, through: int, *, boot_too: bool = False) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            # What goes without an acknowledgement takes the mark along: the chain goes on from it.
            db.execute(
                "UPDATE boots SET acked_seq = ?1, acked_head ="
                " (SELECT head FROM records WHERE place = ?2)"
                " WHERE number = ?3 AND acked_seq < ?1",
                (through, base + through, number),
            )
            span = (base, base + through)
            db.execute("DELETE FROM records WHERE place > ? AND place <= ?", span)
            db.execute("DELETE FROM checkpoints WHERE place > ? AND place <= ?", span)
            db.execute("UPDATE boots SET pruned_seq = ? WHERE number = ?", (through, number))
            if boot_too:
                db.execute("DELETE FROM boots WHERE number = ?", (number,))
            db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _forget_delivered(self, before_ns: int) -> None:
        """Earlier boots of which nothing but the old, delivered end is left."""
        for number, base, last in self._db.execute(
            "SELECT e.number, e.base, e.last_seq FROM ends e"
            " JOIN records r ON r.place = e.base + e.last_seq"
            " WHERE e.pruned_seq = e.last_seq - 1 AND e.acked_seq = e.last_seq"
            " AND e.signed_seq >= e.last_seq AND r.wall_ns < ? AND e.boot_id <> ?",
            (before_ns, self.boot_id),
        ).fetchall():
            self._delete(number, base, last, boot_too=True)

    def move_wal(self) -> None:
        """Move the rest of the WAL to the file; the next commit begins it anew.

        Raises:
            sqlite3.Error: it failed; nothing is lost by that.
        """
        move_wal(self._db)

    def close(self) -> None:
        """Close the file and let go of it."""
        try:
            self._db.close()
        finally:
            os.close(self._lock)
