"""The journal's file, the stream's side: a read-only connection of its own. Blocking.

Every method is one or two short statements that read to their end: an open statement would keep the
writer from emptying the WAL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.journal.turn import Checkpoint
from attestation import chain
from attestation.journal_format import BOOT_SPAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One boot in the journal, as the stream needs it.

    Attributes:
        passport: the newest one; empty for a boot that ended before its first.
        pruned_seq: records up to here are no longer kept.
        signed_seq: the Observer has a checkpoint at this seq.
    """

    boot_id: bytes
    seed: bytes
    passport: bytes
    acked_seq: int
    acked_head: bytes
    pruned_seq: int
    signed_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive records of one boot with the heads around them."""

    boot_id: bytes
    first_seq: int
    previous_head: bytes
    head: bytes
    records: tuple[bytes, ...]

    @classmethod
    def of(
        cls,
        boot_id: bytes,
        first_seq: int,
        previous_head: bytes,
        rows: Iterable[tuple[bytes, bytes]],
        *,
        size: int,
    ) -> Segment | None:
        """As many rows (head after the record, record) as `size` bytes hold, one at least; None
        where there is none."""
        taken: list[bytes] = []
        head, total = previous_head, 0
        for after, record in rows:
            total += len(record)
            if taken and total > size:
                break
            taken.append(record)
            head = after
        if not taken:
            return None
        return cls(
            boot_id=boot_id,
            first_seq=first_seq,
            previous_head=previous_head,
            head=head,
            records=tuple(taken),
        )

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record."""
        return self.first_seq + len(self.records) - 1


class JournalReader:
    """What is durable, for the stream. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )
        self._db.execute("PRAGMA busy_timeout=5000")

    def boots_unacked(self, running: bytes) -> list[Boot]:
        """Every boot with something to deliver, oldest first: the running one always, others while
        a record is not acknowledged or a checkpoint of their end is not delivered.
        """
        rows = self._db.execute(
            "SELECT boot_id, seed, passport, acked_seq, acked_head, pruned_seq, signed_seq,"
            " last_seq FROM ends WHERE boot_id = ? OR last_seq > acked_seq"
            " OR last_seq > signed_seq ORDER BY number",
            (running,),
        ).fetchall()
        return [
            Boot(
                boot_id=row[0],
                seed=row[1],
                passport=row[2],
                acked_seq=row[3],
                acked_head=row[4],
                pruned_seq=row[5],
                signed_seq=row[6],
                last_seq=row[7],
            )
            for row in rows
        ]

    def read(self, boot_id: bytes, first_seq: int, *, records: int, size: int) -> Segment | None:
        """Up to `records` records from `first_seq` on, of at most `size` bytes together unless one
        alone is larger; None where there is none yet or `first_seq` is no longer kept."""
        base = self._base(boot_id)
        previous = None if base is None else self.head_at(boot_id, first_seq - 1)
        if base is None or previous is None:
            return None
        cursor = self._db.execute(
            "SELECT head, record FROM records WHERE place >= ? AND place < ? ORDER BY place",
            (base + first_seq, base + first_seq + records),
        )
        segment = Segment.of(boot_id, first_seq, previous, cursor, size=size)
        cursor.close()
        return segment

    def _base(self, boot_id: bytes) -> int | None:
        row = self._db.execute("SELECT base FROM boots WHERE boot_id = ?", (boot_id,)).fetchone()
        return None if row is None else int(row[0])

    def head_at(self, boot_id: bytes, seq: int) -> bytes | None:
        """The chain head after `seq`; None where it is not (or no longer) stored."""
        row = self._db.execute(
            "SELECT base, seed, acked_seq, acked_head FROM boots WHERE boot_id = ?", (boot_id,)
        ).fetchone()
        if row is None:
            return None
        base, seed, acked_seq, acked_head = row
        if seq == 0:
            return chain.genesis(seed)
        kept = self._db.execute(
            "SELECT head FROM records WHERE place = ?", (base + seq,)
        ).fetchone()
        if kept is not None:
            return bytes(kept[0])
        return bytes(acked_head) if seq == acked_seq else None

    def checkpoints_since(self, boot_id: bytes, after_seq: int, *, limit: int) -> list[Checkpoint]:
        """Checkpoints of a boot after a seq, oldest first, at most `limit`."""
        rows = self._db.execute(
            "SELECT c.place - b.base, c.cose, c.recovered_by"
            " FROM boots b JOIN checkpoints c ON c.place > b.base + ?1 AND c.place < b.base + ?2"
            " WHERE b.boot_id = ?3 ORDER BY c.place LIMIT ?4",
            (after_seq, BOOT_SPAN, boot_id, limit),
        ).fetchall()
        return [
            Checkpoint(boot_id=boot_id, seq=seq, cose=cose, recovered_by=recovered_by)
            for seq, cose, recovered_by in rows
        ]

    def close(self) -> None:
        """Close the connection."""
        self._db.close()
