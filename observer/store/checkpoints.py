"""Which checkpoints are kept: all that narrow something down, one a minute of those before."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from observer.effects import SaveCheckpoint
from observer.store.schema import boots, checkpoints

MINUTE_NS: Final = 60 * 10**9


async def save_checkpoint(connection: AsyncConnection, save: SaveCheckpoint, now_ns: int) -> None:
    """Keep a verified checkpoint. The newest covers all records before it; the others only narrow
    down when something happened. What a later boot signed never takes the place of what the boot's
    own key signed: that one saw the records being made, the other found them on a disk.
    """
    checkpoint = save.checkpoint
    boot = checkpoints.c.boot_id == checkpoint.boot_id
    values = {
        "boot_id": checkpoint.boot_id,
        "seq": checkpoint.seq,
        "head": checkpoint.head,
        "wall_ns": checkpoint.wall_ns,
        "received_ns": now_ns,
        "cose": save.cose,
        "recovered_by": save.recovered_by,
    }
    here = boot & (checkpoints.c.seq == checkpoint.seq)
    known = (await connection.execute(select(checkpoints.c.recovered_by).where(here))).first()
    if known is not None:
        if save.recovered_by is None and known.recovered_by is not None:
            await connection.execute(update(checkpoints).where(here).values(**values))
        return
    newest = (
        await connection.execute(
            select(checkpoints.c.seq, checkpoints.c.wall_ns)
            .where(boot, checkpoints.c.recovered_by.is_not_distinct_from(save.recovered_by))
            .order_by(checkpoints.c.seq.desc())
            .limit(1)
        )
    ).first()
    if newest and newest.wall_ns // MINUTE_NS == checkpoint.wall_ns // MINUTE_NS:
        if newest.seq > checkpoint.seq:
            return  # sent again, or late: a newer one of its minute is kept
        await connection.execute(delete(checkpoints).where(boot, checkpoints.c.seq == newest.seq))
    await connection.execute(insert(checkpoints), values)
    await connection.execute(
        update(boots)
        .where(
            boots.c.boot_id == checkpoint.boot_id,
            func.coalesce(boots.c.checkpoint_seq, -1) < checkpoint.seq,
        )
        .values(checkpoint_seq=checkpoint.seq, checkpoint_ns=checkpoint.wall_ns)
    )
