"""Agents and their boots as rows: how far each chain is stored, and what attests its boot."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from attestation import chain
from observer.boots import Attested, Before, Lost, OfferedBoot, Position, Stated, StoredBoot
from observer.effects import Begin
from observer.store.database import StoreError
from observer.store.schema import agents, boots

LOOKED_BACK: Final = 64  # boots of an agent, the newest, that are looked through for lost records


async def begin_stream(
    connection: AsyncConnection, begin: Begin, now_ns: int
) -> dict[bytes, Position]:
    """Store agent and boots of a stream that has proven itself; the stored end of each boot."""
    await _save_agent(connection, begin, now_ns)
    ids = [boot.boot_id for boot in begin.boots]
    rows = await connection.execute(select(boots).where(boots.c.boot_id.in_(ids)))
    stored = {row.boot_id: row for row in rows}
    positions = {}
    for boot in begin.boots:
        row = stored.get(boot.boot_id)
        if row is None:
            positions[boot.boot_id] = await _add_boot(connection, begin, boot, now_ns)
            continue
        positions[boot.boot_id] = Position(last_seq=row.last_seq, head=row.head)
        if boot.attested is not None:
            await save_passport(connection, boot.boot_id, boot.attested)
    return positions


async def _save_agent(connection: AsyncConnection, begin: Begin, now_ns: int) -> None:
    values = {
        "version": begin.version,
        "boot_id": begin.running.boot_id,
        "epoch": begin.epoch,
        "state": "",
        "durable_seq": begin.running.last_seq,
        "last_seen_ns": now_ns,
    }
    changed = await connection.execute(
        update(agents).where(agents.c.agent_id == begin.agent_id).values(**values)
    )
    if changed.rowcount == 0:
        await connection.execute(
            insert(agents), {"agent_id": begin.agent_id, "first_seen_ns": now_ns, **values}
        )


async def _add_boot(
    connection: AsyncConnection, begin: Begin, boot: OfferedBoot, now_ns: int
) -> Position:
    position = Position(last_seq=0, head=chain.genesis(boot.boot_seed))
    values: dict[str, Any] = {
        "boot_id": boot.boot_id,
        "agent_id": begin.agent_id,
        "boot_seed": boot.boot_seed,
        "first_seen_ns": now_ns,
        "last_seq": position.last_seq,
        "head": position.head,
        "vouched_by": begin.running.boot_id,
    }
    if boot.attested is not None:
        values |= _passport_columns(boot.attested)
    await connection.execute(insert(boots), values)
    return position


async def save_passport(connection: AsyncConnection, boot_id: bytes, attested: Attested) -> None:
    """Replace the passport of a boot by a newer one that verified."""
    await connection.execute(
        update(boots).where(boots.c.boot_id == boot_id).values(**_passport_columns(attested))
    )


async def save_seen(connection: AsyncConnection, seen: Sequence[Mapping[str, Any]]) -> None:
    """When agents were last heard, and what they said. See `Store.save_seen`."""
    for row in seen:
        values = {name: value for name, value in row.items() if name != "agent_id"}
        await connection.execute(
            update(agents).where(agents.c.agent_id == row["agent_id"]).values(**values)
        )


def stored_boot(row: Any) -> StoredBoot:
    """A row of `boots`.

    Raises:
        StoreError: its key cannot be read.
    """
    return StoredBoot(
        boot_id=row.boot_id,
        agent_id=row.agent_id,
        boot_seed=row.boot_seed,
        thumbprint=row.thumbprint,
        key=_load_key(row.key),
        position=Position(last_seq=row.last_seq, head=row.head),
        stated=_stated(row.passport_info),
    )


def newest_boots(agent_id: str) -> Select[Any]:
    """The query whose rows `before` reads: the newest boots of an agent."""
    return (
        select(
            boots.c.boot_id,
            boots.c.last_seq,
            boots.c.passport_info,
            agents.c.boot_id.label("running"),
            agents.c.durable_seq,
        )
        .join(agents, agents.c.agent_id == boots.c.agent_id)
        .where(boots.c.agent_id == agent_id)
        .order_by(boots.c.first_seen_ns.desc())
        .limit(LOOKED_BACK)
    )


def before(rows: Sequence[Any], offered: Collection[bytes]) -> Before:
    """What rows of `newest_boots` say."""
    missed = (_lost(row) for row in rows if row.boot_id not in offered)
    infos = (json.loads(row.passport_info) for row in rows if row.passport_info)
    hardware = (info["tee_display"] for info in infos if info["hardware_attested"])
    return Before(
        lost=tuple(boot for boot in missed if boot is not None), hardware=next(hardware, "")
    )


def _lost(row: Any) -> Lost | None:
    """A boot of which less is stored than its passport proves, or than its agent said it had; None
    where nothing is known to be missing."""
    stated = _stated(row.passport_info)
    known, source = (stated.seq, f"{stated.passport_id} proves it") if stated else (0, "")
    if row.running == row.boot_id and row.durable_seq > known:
        known, source = row.durable_seq, "its last heartbeat said so"
    if known <= row.last_seq:
        return None
    return Lost(boot_id=row.boot_id, last_seq=row.last_seq, known_seq=known, source=source)


def _stated(passport_info: str | None) -> Stated | None:
    """What a stored passport says of the chain; None: there is none, or one from before this was
    kept."""
    info = json.loads(passport_info) if passport_info else {}
    if "journal_head" not in info:
        return None
    return Stated(
        passport_id=info["passport_id"],
        seq=info["journal_seq"],
        head=bytes.fromhex(info["journal_head"]),
    )


def _passport_columns(attested: Attested) -> dict[str, Any]:
    info = {
        "passport_id": attested.passport_id,
        "subject": attested.subject,
        "tee": attested.tee,
        "tee_display": attested.tee_display,
        "simulated": attested.simulated,
        "hardware_attested": attested.hardware_attested,
        "issued_at": attested.issued_at,
        "expires_at": attested.expires_at,
        "bundle_name": attested.bundle_name,
        "bundle_version": attested.bundle_version,
        "bundle_digest": attested.bundle_digest.hex(),
        "journal_seq": attested.journal_seq,
        "journal_head": attested.journal_head.hex(),
        "answers": attested.answers,
    }
    return {
        "key": attested.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "thumbprint": attested.thumbprint,
        "passport": attested.token,
        "passport_info": json.dumps(info, ensure_ascii=False),
        "vouched_by": None,
    }


def _load_key(der: bytes | None) -> ec.EllipticCurvePublicKey | None:
    if der is None:
        return None
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StoreError(f"a stored key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StoreError("a stored key is not an elliptic-curve key")
    return key
