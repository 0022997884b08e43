"""The journal's file: SQLite in WAL mode, `synchronous=FULL`. Blocking; one thread at a time.

A record's row id is (boot number << 40 | seq), so that inserts always append. The stored head
beside each record makes any place of the chain checkable without the records before it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation import chain
from attestation.records import DecisionRecord, encode_record

SCHEMA_VERSION: Final = 1
SEQ_BITS: Final = 40
PRUNE_ROWS: Final = 5_000  # per turn, so that pruning never holds the writer for long

_SCHEMA: Final = """
CREATE TABLE boots (
  number INTEGER PRIMARY KEY,
  boot_id BLOB NOT NULL UNIQUE,
  seed BLOB NOT NULL,
  started_ns INTEGER NOT NULL,
  passport BLOB NOT NULL DEFAULT x'',
  acked_seq INTEGER NOT NULL DEFAULT 0,
  acked_head BLOB NOT NULL,
  last_seq INTEGER NOT NULL DEFAULT 0,
  pruned_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE records (
  place INTEGER PRIMARY KEY,
  wall_ns INTEGER NOT NULL,
  head BLOB NOT NULL,
  record BLOB NOT NULL
) STRICT;
CREATE TABLE checkpoints (
  place INTEGER PRIMARY KEY,
  cose BLOB NOT NULL,
  recovered_by BLOB NOT NULL
) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


class JournalError(Exception):
    """The journal's file cannot be used. The message names it and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One boot in the journal, as the stream needs it."""

    boot_id: bytes
    seed: bytes
    passport: bytes
    acked_seq: int
    acked_head: bytes
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive records of one boot with the heads around them."""

    boot_id: bytes
    first_seq: int
    previous_head: bytes
    head: bytes
    records: tuple[bytes, ...]

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record."""
        return self.first_seq + len(self.records) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A decision with its place, not yet written."""

    seq: int
    wall_ns: int
    boot_ns: int
    record: DecisionRecord


class JournalStore:
    """The writer's side. Opened and used by one thread at a time."""

    def __init__(self, path: Path, *, agent_id: str, boot_seed: bytes, started_ns: int) -> None:
        """Open or create the file and add this boot.

        Raises:
            JournalError: unusable, of another version, or its chain is broken.
        """
        self.path = path
        self._agent_id = agent_id
        self.boot_id = chain.boot_id(boot_seed)
        try:
            _make_private(path)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._configure()
            self._verify_chains()
            self.head = chain.genesis(boot_seed)
            self._begin_boot(boot_seed, started_ns)
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"the journal {path} cannot be used: {error}; if it is damaged, move it aside"
                " (it is evidence: do not delete it) and start again"
            ) from None
        except OSError as error:
            raise JournalError(
                f"the journal {path} cannot be opened: {error.strerror};"
                " make its directory writable for the agent's user"
            ) from None

    def _configure(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA busy_timeout=5000")
        db.execute("PRAGMA wal_autocheckpoint=2000")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self.path} has version {version}; this agent knows {SCHEMA_VERSION}"
            )

    def _begin_boot(self, seed: bytes, started_ns: int) -> None:
        cursor = self._db.execute(
            "INSERT INTO boots(boot_id, seed, started_ns, acked_head) VALUES (?, ?, ?, ?)",
            (self.boot_id, seed, started_ns, self.head),
        )
        assert cursor.lastrowid is not None
        self._number = cursor.lastrowid
        self._db.execute(
            "INSERT INTO counters VALUES ('epoch', 1)"
            " ON CONFLICT(name) DO UPDATE SET value = value + 1"
        )
        (self.epoch,) = self._db.execute(
            "SELECT value FROM counters WHERE name = 'epoch'"
        ).fetchone()

    def _verify_chains(self) -> None:
        """Every kept record of every boot hashes to its stored head, without a gap."""
        for number, boot_id, seed, last_seq, pruned in self._db.execute(
            "SELECT number, boot_id, seed, last_seq, pruned_seq FROM boots ORDER BY number"
        ).fetchall():
            base = number << SEQ_BITS
            head, seq = (chain.genesis(seed) if pruned == 0 else b""), pruned
            rows = self._db.execute(
                "SELECT place, head, record FROM records WHERE place > ? AND place <= ?"
                " ORDER BY place",
                (base, base + (1 << SEQ_BITS) - 1),
            )
            for place, stored, record in rows:
                seq += 1
                # The first record after pruning starts from its own stored head.
                good = stored if head == b"" else chain.advance(head, record)
                if place - base != seq or good != stored:
                    self._broken(boot_id, seq)
                head = stored
            if seq != last_seq:
                self._broken(boot_id, seq + 1)

    def _broken(self, boot_id: bytes, seq: int) -> None:
        raise JournalError(
            f"the journal {self.path} was changed: the chain of boot {boot_id.hex()} breaks at"
            f" record {seq}; move the file aside (it is evidence: do not delete it) and start again"
        )

    def commit(self, batch: Sequence[Waiting]) -> bytes:
        """Write a batch and make it durable; gives the new head.

        Raises:
            sqlite3.Error, OSError: nothing of the batch is durable; it may be tried again.
        """
        head, rows, base = self.head, [], self._number << SEQ_BITS
        for item in batch:
            data = encode_record(
                item.record,
                agent=self._agent_id,
                boot=self.boot_id,
                seq=item.seq,
                wall_ns=item.wall_ns,
                boot_ns=item.boot_ns,
            )
            head = chain.advance(head, data)
            rows.append((base + item.seq, item.wall_ns, head, data))
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
            db.execute(
                "UPDATE boots SET last_seq = ? WHERE number = ?", (batch[-1].seq, self._number)
            )
            db.execute("COMMIT")
        except sqlite3.IntegrityError:
            # The place is taken: an earlier try was durable although its commit reported an error.
            self._rollback()
            last = db.execute("SELECT head FROM records WHERE place = ?", (rows[-1][0],)).fetchone()
            if last != (head,):
                raise
        except BaseException:
            self._rollback()
            raise
        self.head = head
        return head

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def add_checkpoint(self, *, boot_id: bytes, seq: int, cose: bytes, recovered_by: bytes) -> None:
        """Keep a signed checkpoint for the stream."""
        self._db.execute(
            "INSERT OR REPLACE INTO checkpoints"
            " SELECT (number << 40) + ?, ?, ? FROM boots WHERE boot_id = ?",
            (seq, cose, recovered_by, boot_id),
        )

    def set_passport(self, passport: bytes) -> None:
        """Keep the newest passport of this boot."""
        self._db.execute("UPDATE boots SET passport = ? WHERE number = ?", (passport, self._number))

    def uncovered_boots(self) -> list[tuple[bytes, int, bytes]]:
        """Earlier boots (id, last seq, head) whose last record has no checkpoint."""
        return self._db.execute(
            "SELECT b.boot_id, b.last_seq, r.head FROM boots b"
            " JOIN records r ON r.place = (b.number << 40) + b.last_seq"
            " WHERE b.number < ? AND NOT EXISTS ("
            "   SELECT 1 FROM checkpoints c WHERE c.place = (b.number << 40) + b.last_seq)"
            " ORDER BY b.number",
            (self._number,),
        ).fetchall()

    def acknowledge(self, boot_id: bytes, through_seq: int) -> None:
        """The Observer has committed everything up to here."""
        self._db.execute(
            "UPDATE boots SET acked_seq = ?, acked_head ="
            " (SELECT head FROM records WHERE place = (boots.number << 40) + ?)"
            " WHERE boot_id = ? AND acked_seq < ? AND last_seq >= ?",
            (through_seq, through_seq, boot_id, through_seq, through_seq),
        )

    def size(self) -> int:
        """Bytes in use inside the file (free pages not counted)."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (page_size,) = self._db.execute("PRAGMA page_size").fetchone()
        return int((pages - free) * page_size)

    def prune(self, *, before_ns: int, everything_acked: bool) -> int:
        """Delete acknowledged records older than `before_ns`, or any acknowledged ones, oldest
        first, at most PRUNE_ROWS; gives how many. The last acknowledged record of a boot stays: its
        head is where the chain goes on.
        """
        removed = 0
        for number, pruned, acked in self._db.execute(
            "SELECT number, pruned_seq, acked_seq FROM boots WHERE acked_seq > pruned_seq + 1"
            " ORDER BY number"
        ).fetchall():
            base = number << SEQ_BITS
            top = min(acked - 1, pruned + PRUNE_ROWS - removed)
            if not everything_acked:
                (keep,) = self._db.execute(
                    "SELECT min(place) FROM records"
                    " WHERE place > ? AND place <= ? AND wall_ns >= ?",
                    (base, base + top, before_ns),
                ).fetchone()
                top = top if keep is None else keep - base - 1
            if top <= pruned:
                continue
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "DELETE FROM records WHERE place > ? AND place <= ?", (base, base + top)
                )
                self._db.execute(
                    "DELETE FROM checkpoints WHERE place > ? AND place <= ?", (base, base + top)
                )
                self._db.execute("UPDATE boots SET pruned_seq = ? WHERE number = ?", (top, number))
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            removed += top - pruned
            if removed >= PRUNE_ROWS:
                break
        return removed

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class JournalReader:
    """The stream's side: a read-only connection of its own. Blocking; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )

    def boots(self, running: bytes) -> list[Boot]:
        """Every boot with something to deliver, oldest first, and the running one last.

        That is: unacknowledged records, or an end that only the running boot has signed.
        """
        rows = self._db.execute(
            "SELECT boot_id, seed, passport, acked_seq, acked_head, last_seq FROM boots b"
            " WHERE last_seq > acked_seq OR boot_id = ?1 OR (last_seq > 0 AND NOT EXISTS ("
            "   SELECT 1 FROM checkpoints c WHERE c.place = (b.number << 40) + b.last_seq"
            "   AND c.recovered_by <> ?1)) ORDER BY number",
            (running,),
        )
        return [
            Boot(
                boot_id=boot_id,
                seed=seed,
                passport=passport,
                acked_seq=acked_seq,
                acked_head=acked_head,
                last_seq=last_seq,
            )
            for boot_id, seed, passport, acked_seq, acked_head, last_seq in rows
        ]

    def segment(self, boot_id: bytes, first_seq: int, *, records: int, size: int) -> Segment | None:
        """Up to `records` records and about `size` bytes from `first_seq` on; None if none yet."""
        number, seed = self._db.execute(
            "SELECT number, seed FROM boots WHERE boot_id = ?", (boot_id,)
        ).fetchone()
        base = number << SEQ_BITS
        previous = self._head(base, first_seq - 1) if first_seq > 1 else chain.genesis(seed)
        if previous is None:
            return None
        taken: list[bytes] = []
        head, total = previous, 0
        for stored, record in self._rows(base, first_seq, records):
            if taken and total + len(record) > size:
                break
            taken.append(record)
            head, total = stored, total + len(record)
        if not taken:
            return None
        return Segment(
            boot_id=boot_id,
            first_seq=first_seq,
            previous_head=previous,
            head=head,
            records=tuple(taken),
        )

    def _rows(self, base: int, first: int, count: int) -> Iterator[tuple[bytes, bytes]]:
        yield from self._db.execute(
            "SELECT head, record FROM records WHERE place >= ? AND place < ? ORDER BY place",
            (base + first, base + first + count),
        )

    def _head(self, base: int, seq: int) -> bytes | None:
        row = self._db.execute("SELECT head FROM records WHERE place = ?", (base + seq,)).fetchone()
        return row[0] if row is not None else None

    def head_at(self, boot_id: bytes, seq: int) -> bytes | None:
        """The chain head after `seq`; None where it is not (or no longer) stored."""
        row = self._db.execute(
            "SELECT number, seed FROM boots WHERE boot_id = ?", (boot_id,)
        ).fetchone()
        if row is None:
            return None
        return chain.genesis(row[1]) if seq == 0 else self._head(row[0] << SEQ_BITS, seq)

    def checkpoints(self, boot_id: bytes, after_seq: int) -> list[tuple[int, bytes, bytes]]:
        """Checkpoints (seq, COSE, recovered_by) of a boot after a seq; at most 64, newest last."""
        rows = self._db.execute(
            "SELECT c.place - (b.number << 40), c.cose, c.recovered_by FROM checkpoints c"
            " JOIN boots b ON c.place >> 40 = b.number"
            " WHERE b.boot_id = ? AND c.place > (b.number << 40) + ? ORDER BY c.place LIMIT 64",
            (boot_id, after_seq),
        )
        return rows.fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def _make_private(path: Path) -> None:
    """The file exists with mode 0600 before SQLite opens it; wider permissions are refused."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o077:
            raise JournalError(f"others may read the journal {path}; chmod 0600 it")
    finally:
        os.close(fd)
