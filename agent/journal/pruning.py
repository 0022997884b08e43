"""Which records may go from the journal's file, and their going. Blocking; in the writer's thread.

The last record of what may go stays: its head is where the chain goes on.
"""

from __future__ import annotations

import sqlite3
from typing import Final

# The boots that signed the end of an earlier one. What they signed is always of its last record.
SIGNERS: Final = (
    "SELECT c.recovered_by FROM ends e JOIN checkpoints c ON c.place = e.base + e.last_seq"
)


def prune(
    db: sqlite3.Connection, running: bytes, *, before_ns: int | None, limit: int, acked_only: bool
) -> int:
    """Delete records, oldest first; gives how many.

    Args:
        running: the boot id that is never forgotten.
        before_ns: only those made before this wall time; None: of any age.
        limit: at most this many, so that the writer is never held for long.
        acked_only: only what the Observer has committed.

    Raises:
        sqlite3.Error: a transaction may still be open; the caller rolls it back.
    """
    removed = 0
    for number, base, pruned, end in db.execute(
        "SELECT number, base, pruned_seq, iif(?, acked_seq, last_seq) AS may_go FROM ends"
        " WHERE may_go > pruned_seq + 1 ORDER BY number",
        (acked_only,),
    ).fetchall():
        top = min(end - 1, pruned + limit - removed)
        if before_ns is not None:
            (keep,) = db.execute(
                "SELECT min(place) FROM records WHERE place > ? AND place <= ? AND wall_ns >= ?",
                (base + pruned, base + top, before_ns),
            ).fetchone()
            top = top if keep is None else keep - base - 1
        if top > pruned:
            _delete(db, number, base, top)
            removed += top - pruned
        if removed >= limit:
            break
    if before_ns is not None and not removed:
        _forget_delivered(db, running, before_ns)
    return removed


def _delete(
    db: sqlite3.Connection, number: int, base: int, through: int, *, boot_too: bool = False
) -> None:
    db.execute("BEGIN IMMEDIATE")
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


def _forget_delivered(db: sqlite3.Connection, running: bytes, before_ns: int) -> None:
    """Earlier boots of which nothing but the old, delivered end is left."""
    for number, base, last in db.execute(
        "SELECT e.number, e.base, e.last_seq FROM ends e"  # noqa: S608 - no input
        " JOIN records r ON r.place = e.base + e.last_seq"
        " WHERE e.pruned_seq = e.last_seq - 1 AND e.acked_seq = e.last_seq"
        " AND e.signed_seq >= e.last_seq AND r.wall_ns < ? AND e.boot_id <> ?"
        f" AND e.boot_id NOT IN ({SIGNERS})",
        (before_ns, running),
    ).fetchall():
        _delete(db, number, base, last, boot_too=True)
