"""The journal's file, the writer's side. Blocking; used by one thread at a time.

Everything of one turn (records, acknowledgements, checkpoints, the newest passport) is one
transaction: it is durable as a whole or not there at all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from agent.journal import pruning
from agent.journal.file import (
    Connect,
    JournalError,
    connect,
    move_wal,
    no_room,
    open_writer,
    prepare,
    take,
    unusable,
)
from agent.journal.turn import Checkpoint, Mark, Row, Turn
from agent.journal.verify import Progress, verify_chains, verify_signed
from attestation import chain

_MOST_ROWS: Final = 64  # in one statement; each size is a statement that SQLite keeps prepared


@cache
def _insert_of(rows: int) -> str:
    return "INSERT INTO records VALUES " + ",".join(["(?, ?, ?, ?)"] * rows)  # noqa: S608 - no input


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


class JournalStore:
    """One boot's way to the file.

    Attributes:
        base: the place of this boot's seq 0.
        epoch: counts the boots of this file, from 1.
        older: records of earlier boots that were not acknowledged when it was opened.
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
        self._inode = _inode_of(path)
        try:
            self._db = open_writer(path, connect)
            try:
                prepare(self._db, path)
                verify_chains(self._db, path, progress)
                verify_signed(self._db, path)
                self._begin_boot(boot_seed, started_ns)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            os.close(self._lock)
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise no_room(path) from None
            raise unusable(path, str(error)) from None
        except BaseException:
            os.close(self._lock)
            raise

    def _begin_boot(self, seed: bytes, started_ns: int) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            # An agent that starts over and over must not fill the file with boots without records.
            # Who signed the end of an earlier one stays: its passport has the key.
            db.execute(
                "DELETE FROM boots"  # noqa: S608 - no input
                " WHERE number IN (SELECT number FROM ends WHERE last_seq = 0)"
                f" AND boot_id NOT IN ({pruning.SIGNERS})"
            )
            cursor = db.execute(
                "INSERT INTO boots(boot_id, seed, started_ns, acked_head) VALUES (?, ?, ?, ?)"
                " RETURNING base",
                (self.boot_id, seed, started_ns, self._last.head),
            )
            (self.base,) = cursor.fetchone()
            db.execute("UPDATE counters SET value = value + 1 WHERE name = 'epoch'")
            self.epoch = self._counter("epoch")
            (self.older,) = db.execute(
                "SELECT coalesce(sum(last_seq - acked_seq), 0) FROM ends"
            ).fetchone()
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
        if _inode_of(self.path) != self._inode:  # a file that was removed takes everything
            raise self._another()
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
            raise self._another()
        self._suspect = False
        written = bool(rows) and found == after
        self._last = found
        return written

    def _another(self) -> JournalError:
        return JournalError(
            "it is no longer the file that was opened; put it back, or start the agent again"
        )

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
        """Delete records, oldest first; gives how many. See `pruning.prune`."""
        try:
            return pruning.prune(
                self._db, self.boot_id, before_ns=before_ns, limit=limit, acked_only=acked_only
            )
        except BaseException:
            self._rollback()
            raise

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
