"""The chains in the journal's file, checked when it is opened.

Checked is everything that the Observer has not acknowledged: from the last acknowledged head on,
record by record. What was acknowledged is the Observer's to check; it is kept here only for people.
Rows are streamed: memory does not grow with the file. A million records take some seconds.

Who can write the file can make another chain that hashes as well. So its end is also held against
what was signed of it: the newest checkpoint by the boot's own key, what the passport says of the
chain, and, for a boot that crashed, the end that the next boot signed. Who takes these away as well
is found out by the Observer, which has had them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.journal.file import JournalError, unusable
from attestation import chain
from attestation.errors import AttestationError, MalformedError, VerificationError
from attestation.history import Signed, Walk, verify_head
from attestation.journal_format import BOOT_SPAN
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
        walk = Walk(acked_seq, acked_head)
        genesis = chain.genesis(seed)
        if chain.boot_id(seed) != boot_id or (acked_seq == 0 and acked_head != genesis):
            raise _broken(path, boot_id, 0)
        if acked_seq > pruned_seq and _head(db, base + acked_seq) != acked_head:
            raise _broken(path, boot_id, acked_seq)
        for place, stored, record in db.execute(
            "SELECT place, head, record FROM records WHERE place > ? AND place < ? ORDER BY place",
            (base + acked_seq, base + BOOT_SPAN),
        ):
            try:
                walk.step(place - base, stored, record)
            except VerificationError:
                raise _broken(path, boot_id, walk.seq + 1) from None
            count += 1
            if count % REPORT_EVERY == 0:
                progress(count)


def verify_signed(db: sqlite3.Connection, path: Path) -> None:
    """Hold the boots that are not delivered against what was signed of them.

    Raises:
        JournalError: one was cut, rewritten or continued; names the boot and the record.
    """
    for base, boot_id, seed, passport, acked_seq, acked_head, pruned_seq, end in db.execute(
        "SELECT base, boot_id, seed, passport, acked_seq, acked_head, pruned_seq, last_seq"
        " FROM ends WHERE last_seq > acked_seq OR last_seq > signed_seq ORDER BY number"
    ).fetchall():
        heads = {0: chain.genesis(seed), acked_seq: acked_head}
        recovered = _recovered(db, path, base, boot_id)
        if recovered is not None and recovered.seq < end:
            raise unusable(
                path,
                f"boot {boot_id.hex()} goes on to record {end}, and {recovered.by} signed that it"
                f" ended at record {recovered.seq}",
            )
        for signed in (*_signed(db, path, base, boot_id, passport), *filter(None, [recovered])):
            if signed.seq > end:
                raise unusable(
                    path,
                    f"boot {boot_id.hex()} ends at record {end}, and {signed.by} signed it to"
                    f" record {signed.seq}",
                )
            stored = _head(db, base + signed.seq) or heads.get(signed.seq)
            if stored != signed.head and (stored is not None or signed.seq > pruned_seq):
                raise _broken(path, boot_id, signed.seq)


def _signed(
    db: sqlite3.Connection, path: Path, base: int, boot_id: bytes, token: bytes
) -> Iterator[Signed]:
    """What a boot's own key signed of its chain."""
    passport, by = _read(token), "its own key"
    if passport is None:
        return
    claims = passport.claims
    yield Signed(seq=claims.journal_seq, head=claims.journal_head, by=by)
    newest = db.execute(
        "SELECT place, cose FROM checkpoints WHERE place > ? AND place < ? AND recovered_by = x''"
        " ORDER BY place DESC LIMIT 1",
        (base, base + BOOT_SPAN),
    ).fetchone()
    if newest is not None:
        place, cose = newest
        head = _verified(path, passport, boot_id, place - base, cose)
        yield Signed(seq=place - base, head=head, by=by)


def _recovered(db: sqlite3.Connection, path: Path, base: int, boot_id: bytes) -> Signed | None:
    """The end of a boot that crashed, as a later boot signed it; None where none did, or where it
    is not known any more."""
    newest = db.execute(
        "SELECT place, cose, recovered_by FROM checkpoints WHERE place > ? AND place < ?"
        " ORDER BY place DESC LIMIT 1",
        (base, base + BOOT_SPAN),
    ).fetchone()
    if newest is None or not newest[2]:
        return None
    place, cose, signer = newest
    row = db.execute("SELECT passport FROM boots WHERE boot_id = ?", (signer,)).fetchone()
    passport = _read(row[0]) if row else None
    if passport is None:
        return None
    head = _verified(path, passport, boot_id, place - base, cose)
    return Signed(seq=place - base, head=head, by=f"boot {signer.hex()}")


def _read(token: bytes) -> Passport | None:
    """None: none was issued, or it is of another version of the agent: nothing to compare with."""
    try:
        return Passport.parse(token)
    except MalformedError:
        return None


def _verified(path: Path, passport: Passport, boot_id: bytes, seq: int, cose: bytes) -> bytes:
    """The head in a checkpoint."""
    try:
        return verify_head(cose, passport.key, boot_id=boot_id, seq=seq).head
    except AttestationError:
        raise _broken(path, boot_id, seq) from None


def _head(db: sqlite3.Connection, place: int) -> bytes | None:
    row = db.execute("SELECT head FROM records WHERE place = ?", (place,)).fetchone()
    return None if row is None else row[0]


def _broken(path: Path, boot_id: bytes, seq: int) -> JournalError:
    return unusable(path, f"the chain of boot {boot_id.hex()} is broken at record {seq}")
