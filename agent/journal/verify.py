"""The chains in the journal's file, checked when it is opened.

Checked is everything that the Observer has not acknowledged: from the last acknowledged head on,
record by record. What was acknowledged is the Observer's to check; it is kept here only for people.
Rows are streamed: memory does not grow with the file. A million records take some seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.journal.file import BOOT_SPAN, JournalError, unusable
from attestation import chain

REPORT_EVERY: Final = 100_000  # records

Progress = Callable[[int], None]


def verify_chains(db: sqlite3.Connection, path: Path, progress: Progress) -> None:
    """Check every boot; `progress` gets the count of checked records now and then.

    Raises:
        JournalError: a chain is broken; names the boot and the record.
    """
    count = 0
    for base, boot_id, seed, acked_seq, acked_head, pruned_seq in db.execute(
        "SELECT base, boot_id, seed, acked_seq, acked_head, pruned_seq FROM boots ORDER BY number"
    ).fetchall():
        seq, head = acked_seq, acked_head
        if chain.boot_id(seed) != boot_id or (seq == 0 and head != chain.genesis(seed)):
            raise _broken(path, boot_id, 0)
        if acked_seq > pruned_seq:
            kept = db.execute("SELECT head FROM records WHERE place = ?", (base + seq,)).fetchone()
            if kept != (head,):
                raise _broken(path, boot_id, seq)
        for place, stored, record in db.execute(
            "SELECT place, head, record FROM records WHERE place > ? AND place < ? ORDER BY place",
            (base + seq, base + BOOT_SPAN),
        ):
            seq += 1
            head = chain.advance(head, record)
            if place - base != seq or stored != head:
                raise _broken(path, boot_id, seq)
            count += 1
            if count % REPORT_EVERY == 0:
                progress(count)


def _broken(path: Path, boot_id: bytes, seq: int) -> JournalError:
    return unusable(path, f"the chain of boot {boot_id.hex()} is broken at record {seq}")
