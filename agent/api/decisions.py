"""Decisions out of the journal, for operators. Blocking; a connection of its own, read-only.

Every statement is read to its end at once: an open one would keep the writer from emptying the WAL.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from attestation.records import PLATFORM_FIELDS, Placed, decode_record

MAX_LAST: Final = 10_000
_ID: Final = re.compile(r"dec-[0-9a-f]{24}")


def last_decisions(path: Path, count: int) -> list[Placed]:
    """The newest durable decisions, oldest first.

    Raises:
        OSError: the journal cannot be read.
    """
    rows = _select(
        path,
        "SELECT record FROM records ORDER BY place DESC LIMIT ?",
        (min(max(count, 0), MAX_LAST),),
    )
    return [decode_record(record) for record in reversed(rows)]


def find_decision(path: Path, decision_id: str) -> Placed | None:
    """A durable decision by its id; None where it is not, or no longer, in the journal.

    Reads through the whole journal: about a second for a million decisions.

    Raises:
        OSError: the journal cannot be read.
    """
    if not _ID.fullmatch(decision_id):  # less would be in every record, and all of them read
        return None
    for record in _select(
        path,
        "SELECT record FROM records WHERE instr(record, ?) ORDER BY place DESC LIMIT 100",
        (decision_id.encode(),),
    ):
        placed = decode_record(record)
        if placed.record.decision_id == decision_id:
            return placed
    return None


def as_json(placed: Placed) -> dict[str, Any]:
    """A decision, JSON-ready."""
    record = placed.record
    name, version, digest = record.bundle
    return {
        "decision_id": record.decision_id,
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "time": datetime.fromtimestamp(placed.wall_ns / 1e9, UTC).isoformat(),
        "boot": placed.boot.hex(),
        "seq": placed.seq,
        "phase": record.phase,
        "route": record.route,
        "model": record.model,
        "principal": list(record.principal),
        "action": record.action,
        "resource": list(record.resource),
        "outcome": record.outcome,
        "reasons": list(record.reasons),
        "obligations": {name: list(values) for name, values in record.obligations.items()},
        "claims": {
            name: list(value) if isinstance(value, tuple | list) else value
            for name, value in record.claims.items()
        },
        "bundle": {"name": name, "version": version, "digest": digest.hex()},
        "passport": record.passport,
        "auditors": dict(record.auditors),
        "shadow": record.shadow,
        "groups": None if record.groups is None else list(record.groups),
        "platform": None
        if record.platform is None
        else dict(zip(PLATFORM_FIELDS, record.platform, strict=True)),
    }


def _select(path: Path, statement: str, values: tuple[object, ...]) -> list[bytes]:
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as db:
            return [bytes(row[0]) for row in db.execute(statement, values).fetchall()]
    except sqlite3.Error as error:
        raise OSError(f"the journal {path} cannot be read: {error}") from None
