"""Who may ask: the configured keys and tokens, and the issuers' keys kept fresh."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from agent import logs
from agent.config import IdentityTable, TokensTable
from enforcement.identity import Identifier, Key, read_keys
from enforcement.jwks import KeySource
from enforcement.tokens import Issuer, TokenVerifier

_LOG = logs.get("identity")


class Identities:
    """Made from the configuration; `run` must run where tokens are believed.

    Attributes:
        identifier: what the gateway asks.
        tokens: what judges tokens; None where none are believed.
    """

    def __init__(self, table: IdentityTable) -> None:
        """Blocking: reads the file of keys.

        Raises:
            ValueError: that file cannot be used.
        """
        keys = [
            Key(
                name=key.name,
                sha256=bytes.fromhex(key.sha256),
                kind=key.type,
                groups=key.groups,
            )
            for key in table.keys
        ]
        if table.keys_file:
            keys += read_keys(Path(table.keys_file))
        self._sources = {of_one.issuer: _source(of_one) for of_one in table.tokens}
        self.tokens = (
            TokenVerifier(
                [(_issuer(of_one), self._sources[of_one.issuer].keys) for of_one in table.tokens],
                now=time.time,
                missed=lambda issuer: self._sources[issuer].want(),
            )
            if table.tokens
            else None
        )
        self.identifier = Identifier(keys, tokens=self.tokens, anonymous=table.anonymous)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the issuers' keys fresh until cancelled; started when each was tried once."""
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
