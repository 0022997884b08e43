"""Who may ask: the configured keys, and the issuers whose tokens are believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trio

from agent.config import IdentityTable
from enforcement.identity.callers import Certificates, Identifier, Key, read_keys

if TYPE_CHECKING:
    from agent.gateway.issuers import Issuers
    from enforcement.identity.tokens import TokenVerifier


class Identities:
    """Made from the configuration; `run` must run where tokens are believed.

    Attributes:
        identifier: what the gateway asks.
    """

    def __init__(self, table: IdentityTable, certificates: Certificates = "certificate") -> None:
        """Blocking: reads the file of keys. `certificates`: what one means beside a key or token.

        Raises:
            ValueError: that file cannot be used, or keys cannot be meant.
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
        self._issuers: Issuers | None = None
        if table.tokens:
            from agent.gateway.issuers import Issuers  # noqa: PLC0415 - see there

            self._issuers = Issuers(table.tokens)
        self.identifier = Identifier(
            keys, tokens=self.tokens, anonymous=table.anonymous, certificates=certificates
        )

    @property
    def tokens(self) -> TokenVerifier | None:
        """What judges tokens; None where none are believed."""
        return None if self._issuers is None else self._issuers.tokens

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the issuers' keys fresh until cancelled; started when each was tried once."""
        if self._issuers is None:
            task_status.started()
        else:
            await self._issuers.run(task_status=task_status)
