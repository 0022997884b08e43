"""`[gateway]`: the door in front of the model server, and its limits."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

import msgspec

from agent.config.address import address_problems
from agent.config.base import Places, Seconds, Table
from agent.config.tls import TlsTable


class LimitsTable(Table, frozen=True):
    """`[gateway.limits]`: sizes in bytes, times in seconds."""

    head_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024)] = 32 * 1024
    header_count: Annotated[int, msgspec.Meta(ge=8, le=1000)] = 100
    body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=256 * 1024 * 1024)] = 8 * 1024 * 1024
    reply_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024 * 1024)] = 64 * 1024 * 1024
    connections: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 1024
    head_seconds: Seconds = 10.0
    body_seconds: Seconds = 60.0
    handshake_seconds: Seconds = 10.0
    idle_seconds: Seconds = 75.0
    connect_seconds: Seconds = 5.0
    first_byte_seconds: Seconds = 120.0
    upstream_idle_seconds: Seconds = 60.0
    send_seconds: Seconds = 60.0


class GatewayTable(Table, frozen=True):
    """`[gateway]`: the door in front of the model server."""

    listen: str = "127.0.0.1:8080"
    upstream: str = "http://127.0.0.1:8000"
    require_valid_passport: bool = True
    limits: LimitsTable = LimitsTable()
    tls: TlsTable = TlsTable()

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(self, tls=self.tls.placed(places))

    def problems(self) -> list[str]:
        """What cannot be listened on or reached, and what does not fit together."""
        found = address_problems("gateway.listen", self.listen)
        upstream = urlsplit(self.upstream)
        if upstream.scheme != "http" or not upstream.hostname or upstream.path not in ("", "/"):
            found.append(
                "gateway.upstream: must be http://ADDRESS:PORT without a path"
                " (the model server stands beside the agent, inside the confidential VM)"
            )
        return found + self.tls.problems()
