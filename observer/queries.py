"""Reading for people: pages of decisions, one decision, agents, alarms, an export.

Pages go by `records.id` downwards (newest received first), never by offset. A filter that finds
little would read the whole table: it is looked through in slices of ids, at most `SLICES` per
request, and the answer says where to go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, func, select

from attestation import chain
from observer.effects import AlarmCode
from observer.filters import Filter
from observer.store import Store
from observer.store.alarms import LASTING
from observer.store.schema import agents, alarms, boots, checkpoints, records

Row = Mapping[str, Any]

SLICE: Final = 100_000  # ids
SLICES: Final = 10
LISTED: Final = tuple(column for column in records.c if column.name not in {"record", "head"})
EXPORT_PAGE: Final = 500
MAX_AGENTS: Final = 500
MAX_BOOTS: Final = 10  # per agent, the running one and the newest
MAX_AGENT_ALARMS: Final = 20
MAX_ALARMS: Final = 200  # of each kind

_LASTS: Final = alarms.c.code == LASTING


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows, newest first; `before` goes on (None: that was all)."""

    rows: Sequence[Row]
    before: int | None


async def decisions(
    store: Store, wanted: Filter, *, before: int | None, limit: int, columns: Sequence[Any] = LISTED
) -> Page:
    """One page of decisions.

    Raises:
        StoreError.
    """
    newest = (await store.look(select(func.max(records.c.id))))[0][0] or 0
    high = newest + 1 if before is None else min(before, newest + 1)
    condition = wanted.where()
    found: list[Row] = []
    for _ in range(SLICES):
        low = max(high - SLICE, 0)
        query = (
            select(*columns)
            .where(records.c.id >= low, records.c.id < high)
            .order_by(records.c.id.desc())
            .limit(limit - len(found))
        )
        rows = await store.look(query if condition is None else query.where(condition))
        found += [row._mapping for row in rows]  # noqa: SLF001 - SQLAlchemy's public mapping
        if len(found) >= limit:
            return Page(rows=found, before=found[-1]["id"] if found[-1]["id"] > 1 else None)
        high = low
        if high <= 1:
            return Page(rows=found, before=None)
    return Page(rows=found, before=high)


async def since(store: Store, wanted: Filter, *, after: int, limit: int) -> tuple[int, list[Row]]:
    """Decisions after an id, oldest first: the newest `limit` of them, and how many older ones were
    left out (at least; there may be more than were looked through).

    Raises:
        StoreError.
    """
    page = await decisions(store, wanted, before=None, limit=limit + 1)
    rows = [row for row in page.rows if row["id"] > after]
    missed = 1 if page.before is not None and page.before > after and len(rows) <= limit else 0
    if len(rows) > limit:
        rows = rows[:limit]
        condition, oldest = wanted.where(), rows[-1]["id"]
        low = max(after, oldest - SLICE * SLICES)  # no search goes further back at once
        query = select(func.count()).where(records.c.id > low, records.c.id < oldest)
        query = query.select_from(records)
        counted = await store.look(query if condition is None else query.where(condition))
        missed = max(counted[0][0], 1)
    return missed, rows[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A record with its place.

    Attributes:
        previous_head: the chain's head before it.
        checkpoint: the first one that is kept at its place or after it; None: none covers it.
    """

    record: Row
    previous_head: bytes
    boot: Row
    checkpoint: Row | None


async def one(store: Store, boot_id: bytes, seq: int) -> Found | None:
    """A record; None where it is not stored.

    Raises:
        StoreError.
    """
    found = await _first(
        store, select(records).where(records.c.boot_id == boot_id, records.c.seq == seq)
    )
    boot = await _first(store, select(boots).where(boots.c.boot_id == boot_id))
    if found is None or boot is None:
        return None
    previous_head = chain.genesis(boot["boot_seed"])
    if seq > 1:
        previous_head = (await store.load_heads(boot_id, seq - 1, seq - 1))[seq - 1]
    covering = checkpoints.c.boot_id == boot_id, checkpoints.c.seq >= seq
    # The boot's own signature goes before what a later boot found on the disk and signed.
    first = checkpoints.c.recovered_by.is_not(None), checkpoints.c.seq
    return Found(
        record=found,
        previous_head=previous_head,
        boot=boot,
        checkpoint=await _first(
            store, select(checkpoints).where(*covering).order_by(*first).limit(1)
        ),
    )


async def export(store: Store, wanted: Filter, *, before: int | None) -> AsyncIterator[Row]:
    """Every decision that passes, newest first, with its bytes; decisions that arrive meanwhile
    are not part of it.

    Raises:
        StoreError.
    """
    while True:
        page = await decisions(
            store, wanted, before=before, limit=EXPORT_PAGE, columns=tuple(records.c)
        )
        for row in page.rows:
            yield row
        if page.before is None:
            return
        before = page.before


async def agents_with_boots(store: Store) -> list[tuple[Row, list[Row], Sequence[Row]]]:
    """Every agent (last heard first) with its newest boots and its alarms.

    Raises:
        StoreError.
    """
    found = await _all(
        store, select(agents).order_by(agents.c.last_seen_ns.desc()).limit(MAX_AGENTS)
    )
    running = (boots.c.boot_id == agents.c.boot_id).desc()
    own = await _newest_per_agent(
        store,
        select(boots).join(agents, agents.c.agent_id == boots.c.agent_id),
        order=(running, boots.c.first_seen_ns.desc(), boots.c.boot_id),
        owner=boots.c.agent_id,
        most=MAX_BOOTS,
    )
    wrong = await _newest_per_agent(
        store,
        select(alarms).where(alarms.c.code != AlarmCode.UNTRUSTED.value),
        order=(_LASTS.desc(), alarms.c.last_ns.desc(), alarms.c.id.desc()),
        owner=alarms.c.agent_id,
        most=MAX_AGENT_ALARMS,
    )
    return [(agent, own[agent["agent_id"]], wrong.get(agent["agent_id"], [])) for agent in found]


async def _newest_per_agent(
    store: Store, query: Select[Any], *, order: Sequence[Any], owner: Any, most: int
) -> dict[str, list[Row]]:
    """The first `most` rows of each agent, in one query."""
    number = func.row_number().over(partition_by=owner, order_by=order).label("number")
    numbered = query.add_columns(number).subquery()
    rows = await _all(
        store, select(numbered).where(numbered.c.number <= most).order_by(numbered.c.number)
    )
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["agent_id"], []).append(row)
    return found


async def all_alarms(store: Store) -> Sequence[Row]:
    """Alarms of every kind: two histories first, those of peers that proved nothing last (anybody
    can raise them), each newest first. No kind can push another off the list.

    Raises:
        StoreError.
    """
    untrusted = alarms.c.code == AlarmCode.UNTRUSTED.value
    kinds = (_LASTS, ~_LASTS & ~untrusted, untrusted)
    found: list[Row] = []
    for kind in kinds:
        newest = select(alarms).where(kind).order_by(alarms.c.last_ns.desc(), alarms.c.id.desc())
        found += await _all(store, newest.limit(MAX_ALARMS))
    return found


async def one_alarm(store: Store, alarm_id: int) -> Row | None:
    """One alarm with its evidence; None where there is none.

    Raises:
        StoreError.
    """
    return await _first(store, select(alarms).where(alarms.c.id == alarm_id))


async def _all(store: Store, query: Select[Any]) -> list[Row]:
    return [row._mapping for row in await store.look(query)]  # noqa: SLF001


async def _first(store: Store, query: Select[Any]) -> Row | None:
    rows = await _all(store, query)
    return rows[0] if rows else None
