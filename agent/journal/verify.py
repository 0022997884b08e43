"""The chains in the journal's file, checked when it is opened.

Checked is everything that the Observer has not acknowledged: from the last acknowledged head on,
record by record. What was acknowledged is the Observer's to check; it is kept here only for people.
Rows are streamed: memory does not grow with the file. A million records take some seconds.

Who can write the file can make another chain that hashes as well. So its end is also held against
what the boot's own key signed: the newest checkpoint, and what the passport says of the chain. Who
takes these away as well is found out by the Observer, which has had them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.journal.file import BOOT_SPAN, JournalError, unusable
from attestation import chain
from attestation.checkpoint import verify_checkpoint
from attestation.errors import AttestationError, MalformedError
from attestation.passport import Passport

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


def verify_signed(db: sqlite3.Connection, path: Path) -> None:
    """Hold the boots that are not delivered against what their own keys signed.

    Raises:
        JournalError: one was cut or rewritten; names the boot and the record.
    """
    for base, boot_id, seed, passport, acked_seq, acked_head, pruned_seq, end in db.execute(
        "SELECT base, boot_id, seed, passport, acked_seq, acked_head, pruned_seq, last_seq"
        " FROM ends WHERE last_seq > acked_seq OR last_seq > signed_seq ORDER BY number"
    ).fetchall():
        heads = {0: chain.genesis(seed), acked_seq: acked_head}
        for seq, head in _signed(db, path, base, boot_id, passport):
            if seq > end:
                raise _cut(path, boot_id, end, seq)
            row = db.execute("SELECT head FROM records WHERE place = ?", (base + seq,)).fetchone()
            stored = row[0] if row else heads.get(seq)
            if stored != head and (stored is not None or seq > pruned_seq):
                raise _broken(path, boot_id, seq)


def _signed(
    db: sqlite3.Connection, path: Path, base: int, boot_id: bytes, token: bytes
) -> Iterator[tuple[int, bytes]]:
    """Places in a boot's chain, and the heads that its key signed there."""
    try:
        passport = Passport.parse(token)
    except MalformedError:
        return  # none was issued, or it is of another version of the agent: nothing to compare with
    yield passport.claims.journal_seq, passport.claims.journal_head
    newest = db.execute(
        "SELECT place, cose FROM checkpoints WHERE place > ? AND place < ? AND recovered_by = x''"
        " ORDER BY place DESC LIMIT 1",
        (base, base + BOOT_SPAN),
    ).fetchone()
    if newest is None:
        return
    place, cose = newest
    try:
        checkpoint = verify_checkpoint(cose, passport.key)
    except AttestationError:
        checkpoint = None
    if checkpoint is None or (checkpoint.boot_id, checkpoint.seq) != (boot_id, place - base):
        raise _broken(path, boot_id, place - base)
    yield checkpoint.seq, checkpoint.head


def _cut(path: Path, boot_id: bytes, end: int, signed: int) -> JournalError:
    return unusable(
        path,
        f"boot {boot_id.hex()} ends at record {end}, and its own key signed it to record {signed}",
    )


def _broken(path: Path, boot_id: bytes, seq: int) -> JournalError:
    return unusable(path, f"the chain of boot {boot_id.hex()} is broken at record {seq}")
