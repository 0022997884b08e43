"""The issuers whose tokens are believed, and their keys kept fresh.

Only imported where tokens are configured: a JWT library costs 2 MB of memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import trio

from agent import logs
from agent.config import TokensTable
from enforcement.identity.jwks import KeySource
from enforcement.identity.tokens import Issuer, TokenVerifier

_LOG = logs.get("identity")


class Issuers:
    """Made from the configuration; `run` must run.

    Attributes:
        tokens: what judges tokens.
    """

    def __init__(self, tables: Sequence[TokensTable]) -> None:
        self._sources = {table.issuer: _source(table) for table in tables}
        self.tokens = TokenVerifier(
            [(_issuer(table), self._sources[table.issuer].keys) for table in tables],
            now=time.time,
            missed=lambda issuer: self._sources[issuer].want(),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the keys fresh until cancelled; started when each was tried once."""
        async with trio.open_nursery() as nursery:
            for source in self._sources.values():
                await nursery.start(source.run)
            task_status.started()


def _issuer(table: TokensTable) -> Issuer:
    return Issuer(
        issuer=table.issuer,
        audience=table.audience,
        algorithms=table.algorithms,
        kind=table.type,
        principal_claim=table.principal_claim,
        groups_claim=table.groups_claim,
        leeway=table.leeway_seconds,
    )


def _source(table: TokensTable) -> KeySource:
    place = table.keys if "://" in table.keys else Path(table.keys)
    return KeySource(table.issuer, place, refresh=table.refresh_seconds, told=_told)


def _told(issuer: str, problem: str) -> None:
    _LOG.warning("identity.keys_unavailable", issuer=issuer, problem=problem)
