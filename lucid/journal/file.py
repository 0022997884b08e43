"""The rows of a journal that somebody hands over: hostile, and never taken for what they say.

Nothing in the file runs: no trigger or view is asked, rows are read by table and checked for their
types, and a value larger than the format allows is an error before it is in memory. Rows are
streamed; memory does not grow with the file. `opening` gives the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from attestation.errors import (
    AttestationError,
    MalformedError,
    UncheckableError,
    VerificationError,
)
from attestation.journal_format import (
    APPLICATION_ID,
    BOOT_SPAN,
    SCHEMA_VERSION,
    journal_parts,
    parts_of,
)
from attestation.passport import MAX_SIZE as MAX_PASSPORT
from attestation.records import MAX_RECORD_SIZE

MAX_ROW: Final = MAX_PASSPORT + MAX_RECORD_SIZE  # bytes
_LAST_BOOT: Final = (1 << 63) // BOOT_SPAN - 1
_DAMAGED: Final = "use another copy; if this is the agent's own, it is evidence: keep it"


class NotAJournalError(MalformedError):
    """The file is something else, or of another version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRow:
    """One boot as the file has it; nothing of it is verified.

    Attributes:
        passport: the newest one; empty for a boot that ended before its first.
        acked_seq, acked_head: the agent's note of how far the Observer has committed.
        pruned_seq: records up to here are said to be no longer kept.
        signed_seq: the agent's note of the last checkpoint that the Observer has.
    """

    number: int
    boot_id: bytes
    seed: bytes
    passport: bytes
    acked_seq: int
    acked_head: bytes
    pruned_seq: int
    signed_seq: int


RecordRow = tuple[int, int, bytes, bytes]  # place, wall ns, head, record
CheckpointRow = tuple[int, bytes, bytes]  # place, COSE, recovered by


class JournalFile:
    """The rows of a journal's file. Every method may raise what `open_journal` says."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def check_format(self) -> None:
        """That it is a journal, of this version, whole, and with nothing added to it."""
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "mmap_size=0"):
            list(self._rows(f"PRAGMA {pragma}"))
        ((application,),) = self._rows("PRAGMA application_id")
        ((version,),) = self._rows("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise NotAJournalError("journal.format", "it is no journal of a Lucid agent")
        if version != SCHEMA_VERSION:
            raise NotAJournalError(
                "journal.format",
                f"a journal of version {version}; version {SCHEMA_VERSION} is understood here",
                remedy="use the lucid command of the agent that made it",
            )
        try:
            parts = parts_of(self._db)
        except sqlite3.Error as error:
            raise meaning_of(error) from None
        if parts != journal_parts():
            odd = sorted({name for _kind, name, _sql in parts ^ journal_parts()})
            raise VerificationError(
                "journal.schema",
                "it has other tables, views or triggers than an agent makes:"
                f" {', '.join(odd)[:200]}",
            )
        for (found,) in self._rows("PRAGMA integrity_check(1)"):
            if found != "ok":
                raise _damaged(" ".join(str(found).split()))

    def _rows(self, sql: str, *values: int) -> Iterator[Any]:
        try:
            cursor = self._db.execute(sql, values)
            while (row := cursor.fetchone()) is not None:
                yield row
        except sqlite3.Error as error:
            raise meaning_of(error) from None
        except UnicodeDecodeError:  # also where SQLite quotes what is no text in an error
            raise _damaged("bytes that are not text") from None

    def boots(self) -> Iterator[BootRow]:
        """All boots, oldest first."""
        before = 0
        for row in self._rows(
            "SELECT number, boot_id, seed, passport, acked_seq, acked_head, pruned_seq, signed_seq"
            " FROM boots NOT INDEXED ORDER BY number"
        ):
            match row:
                case (
                    int(number), bytes(boot_id), bytes(seed), bytes(passport),
                    int(acked_seq), bytes(acked_head), int(pruned_seq), int(signed_seq),
                ) if (
                    before < number <= _LAST_BOOT
                    and (len(boot_id), len(seed), len(acked_head)) == (16, 32, 32)
                    and all(0 <= seq < BOOT_SPAN for seq in (acked_seq, pruned_seq, signed_seq))
                ):  # fmt: skip
                    pass
                case _:
                    raise _damaged(f"boot {row[0]!s:.20} has an impossible row")
            before = number
            yield BootRow(
                number=number,
                boot_id=boot_id,
                seed=seed,
                passport=passport,
                acked_seq=acked_seq,
                acked_head=acked_head,
                pruned_seq=pruned_seq,
                signed_seq=signed_seq,
            )

    def records(self) -> Iterator[RecordRow]:
        """All records of all boots, in the order of their places."""
        before = 0
        # What is too large is not read: NULL comes instead.
        for row in self._rows(
            "SELECT place, wall_ns, iif(length(head) = 32, head, NULL),"
            " iif(length(record) <= ?, record, NULL) FROM records ORDER BY place",
            MAX_RECORD_SIZE,
        ):
            match row:
                case (int(place), int(), bytes(), bytes()) if place > before:
                    before = place
                    yield row
                case _:
                    raise _damaged(
                        f"the record after place {before} has an impossible row, or more than"
                        f" {MAX_RECORD_SIZE} bytes"
                    )

    def checkpoints(self) -> Iterator[CheckpointRow]:
        """All checkpoints of all boots, in the order of their places."""
        before = 0
        for row in self._rows("SELECT place, cose, recovered_by FROM checkpoints ORDER BY place"):
            match row:
                case (int(place), bytes(), bytes()) if place > before:
                    before = place
                    yield row
                case _:
                    raise _damaged(f"an impossible checkpoint after place {before}")

    def counters(self) -> dict[str, int]:
        """`epoch`: how many boots began; `unrecorded`: decisions without a record. Nobody signed
        these."""
        rows = list(self._rows("SELECT name, value FROM counters NOT INDEXED LIMIT 3"))
        match dict(rows):
            case {"epoch": int(epoch), "unrecorded": int(unrecorded)} if len(rows) == 2:
                return {"epoch": epoch, "unrecorded": unrecorded}
        raise _damaged("its counters are not the agent's")


def _damaged(what: str) -> VerificationError:
    return VerificationError("journal.damaged", f"the file is damaged: {what}", remedy=_DAMAGED)


def meaning_of(error: sqlite3.Error) -> AttestationError:
    """What an error of SQLite says of the file."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            return NotAJournalError("journal.format", "it is no SQLite database")
        case sqlite3.SQLITE_TOOBIG:
            return _damaged(f"a row of more than {MAX_ROW} bytes")
        case (
            sqlite3.SQLITE_CANTOPEN
            | sqlite3.SQLITE_PERM
            | sqlite3.SQLITE_IOERR
            | sqlite3.SQLITE_NOMEM
            | sqlite3.SQLITE_FULL
            | sqlite3.SQLITE_BUSY
            | sqlite3.SQLITE_LOCKED
        ):
            return UncheckableError("journal.unreadable", f"it cannot be read: {error}")
    return _damaged(str(error))
