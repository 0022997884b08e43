"""Records that were checked, as rows: decoded copies, cut to bounded texts."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from observer.batches import NewRecord
from observer.effects import Commit
from observer.store.schema import MAX_REASONS, MAX_TEXT, boots, reasons, records


def clip(text: str, length: int = MAX_TEXT) -> str:
    """At most `length` characters, the last one `…` where some are gone; no NUL (PostgreSQL)."""
    text = text.replace("\x00", "\ufffd")
    return text if len(text) <= length else text[: length - 1] + "…"


def entity(pair: tuple[str, str]) -> str:
    """A Cedar entity as people write it: `User::"alice"`."""
    return clip(f'{pair[0]}::"{pair[1]}"')


def record_row(record: NewRecord, *, row_id: int, received_ns: int) -> dict[str, Any]:
    """The row of `records`."""
    placed, decision = record.placed, record.placed.record
    return {
        "id": row_id,
        "agent_id": placed.agent,
        "boot_id": placed.boot,
        "seq": placed.seq,
        "record": record.data,
        "head": record.head,
        "wall_ns": placed.wall_ns,
        "received_ns": received_ns,
        "decision_id": clip(decision.decision_id),
        "request_id": clip(decision.request_id),
        "trace_id": clip(decision.trace_id),
        "phase": decision.phase,
        "route": clip(decision.route),
        "model": clip(decision.model),
        "principal": entity(decision.principal),
        "action": clip(decision.action),
        "resource": entity(decision.resource),
        "outcome": decision.outcome,
        "reasons": json.dumps(
            [clip(reason) for reason in decision.reasons[:MAX_REASONS]], ensure_ascii=False
        ),
        "complete": decision.coverage.complete,
    }


def reason_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `reasons` for a row of `records`."""
    if row["reasons"] == "[]":
        return []
    return [
        {"reason": reason, "record_id": row["id"]}
        for reason in dict.fromkeys(json.loads(row["reasons"]))
    ]


async def save_records(
    connection: AsyncConnection, commit: Commit, rows: list[dict[str, Any]]
) -> None:
    """Insert the rows of a commit, and move the stored end of its boot."""
    await connection.execute(insert(records), rows)
    if named := [item for row in rows for item in reason_rows(row)]:
        await connection.execute(insert(reasons), named)
    await connection.execute(
        update(boots)
        .where(boots.c.boot_id == commit.boot_id)
        .values(last_seq=commit.position.last_seq, head=commit.position.head)
    )
