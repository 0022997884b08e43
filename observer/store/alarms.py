"""Keeping alarms without letting anyone fill the disk with them.

Repetitions of an alarm are counted on its row; what the row says, and its evidence, stay the first
ones. Per boot and code only some places are kept, and peers that proved nothing share a small ring
of rows: the oldest of them goes first. Two histories are proof, and are never removed to make room:
of an agent the first ones are kept.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from observer.effects import Alarm, AlarmCode
from observer.store.records import clip
from observer.store.schema import alarms

MAX_UNTRUSTED: Final = 200  # rows
MAX_PER_BOOT: Final = 16  # rows per (agent, boot, code)
MAX_ROWS: Final = 20_000  # without those that last
MAX_LASTING: Final = 64  # rows per agent
LASTING: Final = AlarmCode.FORK.value
MAX_EVIDENCE: Final = 64 * 1024  # bytes of one row
NO_SEQ: Final = -1


async def record_alarm(connection: AsyncConnection, alarm: Alarm, now_ns: int) -> None:
    """Insert or count one alarm, within the bounds above."""
    agent_id, boot_id = clip(alarm.agent_id), alarm.boot_id or b""
    seq = NO_SEQ if alarm.seq is None else alarm.seq
    same = (
        alarms.c.agent_id == agent_id,
        alarms.c.boot_id == boot_id,
        alarms.c.code == alarm.code.value,
    )
    rows = (
        await connection.execute(
            select(alarms.c.id, alarms.c.seq, alarms.c.reason).where(*same).order_by(alarms.c.id)
        )
    ).all()
    known = next((row for row in rows if row.seq == seq and row.reason == alarm.reason), None)
    if known is None and len(rows) >= MAX_PER_BOOT:
        known = rows[-1]
    if known is None and alarm.code.value == LASTING:
        known = await _last_of_many(connection, agent_id)
    if known is not None:
        await connection.execute(
            update(alarms)
            .where(alarms.c.id == known.id)
            .values(count=alarms.c.count + 1, last_ns=now_ns)
        )
        return
    newest = await connection.scalar(select(func.max(alarms.c.id)))
    await connection.execute(
        insert(alarms),
        {
            "id": (newest or 0) + 1,
            "code": alarm.code.value,
            "agent_id": agent_id,
            "boot_id": boot_id,
            "seq": seq,
            "reason": clip(alarm.reason),
            "detail": clip(alarm.detail, 1000),
            "evidence": alarm.evidence[:MAX_EVIDENCE],
            "first_ns": now_ns,
            "last_ns": now_ns,
            "count": 1,
        },
    )
    await _evict(connection, MAX_UNTRUSTED, alarms.c.code == AlarmCode.UNTRUSTED.value)
    await _evict(connection, MAX_ROWS, alarms.c.code != LASTING)


async def _last_of_many(connection: AsyncConnection, agent_id: str) -> Any:
    """The newest lasting row of an agent that has as many as are kept; None where it has fewer."""
    lasting = alarms.c.agent_id == agent_id, alarms.c.code == LASTING
    count = await connection.scalar(select(func.count()).select_from(alarms).where(*lasting))
    if (count or 0) < MAX_LASTING:
        return None
    newest = select(alarms.c.id).where(*lasting).order_by(alarms.c.id.desc()).limit(1)
    return (await connection.execute(newest)).one()


async def _evict(connection: AsyncConnection, keep: int, which: ColumnElement[bool]) -> None:
    query = select(alarms.c.id).where(which).order_by(alarms.c.id.desc()).offset(keep).limit(1)
    last = await connection.scalar(query)
    if last is not None:
        await connection.execute(delete(alarms).where(which, alarms.c.id <= last))
