"""Which checkpoints are kept: all that narrow something down, one a minute of those before."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from observer.effects import SaveCheckpoint
from observer.store.schema import boots, checkpoints

MINUTE_NS: Final = 60 * 10**9


async def save_checkpoint(connection: AsyncConnection, save: SaveCheckpoint, now_ns: int) -> None:
    """Keep a verified checkpoint. The newest covers all records before it; the others only narrow
    down when something happened."""
    checkpoint = save.checkpoint
    boot = checkpoint.boot_id
    known = await connection.scalar(
        select(checkpoints.c.seq).where(
            checkpoints.c.boot_id == boot, checkpoints.c.seq == checkpoint.seq
        )
    )
    if known is not None:
        return
    newest = (
        await connection.execute(
            select(checkpoints.c.seq, checkpoints.c.wall_ns)
            .where(checkpoints.c.boot_id == boot)
            .order_by(checkpoints.c.seq.desc())
            .limit(1)
        )
    ).first()
    if newest and newest.wall_ns // MINUTE_NS == checkpoint.wall_ns // MINUTE_NS:
        await connection.execute(
            delete(checkpoints).where(
                checkpoints.c.boot_id == boot, checkpoints.c.seq == newest.seq
            )
        )
    await connection.execute(
        insert(checkpoints),
        {
            "boot_id": boot,
            "seq": checkpoint.seq,
            "head": checkpoint.head,
            "wall_ns": checkpoint.wall_ns,
            "received_ns": now_ns,
            "cose": save.cose,
            "recovered_by": save.recovered_by,
        },
    )
    if newest is None or newest.seq < checkpoint.seq:
        await connection.execute(
            update(boots)
            .where(boots.c.boot_id == boot)
            .values(checkpoint_seq=checkpoint.seq, checkpoint_ns=checkpoint.wall_ns)
        )
