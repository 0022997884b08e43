"""Plain counters of the door. Nothing is exported here: whoever wants them reads them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayMetrics:
    """What the door counts, since its start unless said otherwise.

    Attributes:
        connections: open client connections now.
        accepted: client connections.
        requests: request heads understood.
        decisions: by (phase, outcome), counted when the record is appended.
        refusals: requests refused by the door itself, without a policy's decision, by (code,).
        upstream_errors: failures of the model server, by (code,).
        upstream_connections: connections opened to the model server.
        streams: replies that were event streams.
        client_gone: exchanges whose client went before their end.
        internal_errors: faults of the agent itself; each ended one exchange.
        request_bytes, reply_bytes: body bytes of requests received, and all bytes sent to clients.
        buffered_bytes: bodies held in memory now, where they did not come in one piece.
    """

    connections: int = 0
    accepted: int = 0
    requests: int = 0
    decisions: dict[tuple[str, ...], int] = field(default_factory=dict)
    refusals: dict[tuple[str, ...], int] = field(default_factory=dict)
    upstream_errors: dict[tuple[str, ...], int] = field(default_factory=dict)
    upstream_connections: int = 0
    streams: int = 0
    client_gone: int = 0
    internal_errors: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0
    buffered_bytes: int = 0

    def by_outcome(self) -> dict[str, int]:
        """Decisions by outcome, both phases together."""
        sums: dict[str, int] = {}
        for (_, outcome), count in self.decisions.items():
            sums[outcome] = sums.get(outcome, 0) + count
        return sums


def count(table: dict[tuple[str, ...], int], *labels: str) -> None:
    """Add one."""
    table[labels] = table.get(labels, 0) + 1
