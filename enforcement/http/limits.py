"""What the door bears: sizes in bytes, counts, times in seconds. Every limit has its own error."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The door's limits. All are positive; times may be fractions.

    Times are kept by a sweep four times a second, so a limit is never cut short and may last
    up to half a second longer than it says.

    Attributes:
        head_bytes: start line and headers of a request or of a reply, with the empty line.
        header_count: header fields in one head.
        target_bytes: the request target.
        body_bytes: one request body, after any chunking is undone.
        chunks: chunks in one request body; each costs time whatever its size.
        reply_bytes: one whole reply that is not an event stream.
        buffered_bytes: bodies held in memory at one moment, over all connections. What is read of
            a body takes up to four times as much besides, while it is looked at.
        connections: open client connections.
        idle_upstreams: unused connections to the model server that are kept.
        head_seconds: from the first byte of a request (or from the connection's start) to the
            end of its head.
        body_seconds: from the end of the head to the end of the request's body.
        handshake_seconds: of TLS, from the connection's start to the keys.
        idle_seconds: between two requests of one connection.
        connect_seconds: to connect to the model server.
        first_byte_seconds: from the end of the request to the end of the reply's head.
        upstream_idle_seconds: between two pieces of a reply.
        send_seconds: one side takes no byte at all of what is sent to it.
        pool_seconds: an unused connection to the model server is kept this long.
        linger_seconds: after a refusal that closes, what still arrives is read away this long,
            so that the client gets to read the refusal.
    """

    head_bytes: int = 32 * 1024
    header_count: int = 100
    target_bytes: int = 8 * 1024
    body_bytes: int = 8 * 1024 * 1024
    chunks: int = 16 * 1024
    reply_bytes: int = 64 * 1024 * 1024
    buffered_bytes: int = 160 * 1024 * 1024
    connections: int = 1024
    idle_upstreams: int = 256
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    handshake_seconds: float = 10.0
    idle_seconds: float = 75.0
    connect_seconds: float = 5.0
    first_byte_seconds: float = 120.0
    upstream_idle_seconds: float = 60.0
    send_seconds: float = 60.0
    pool_seconds: float = 30.0
    linger_seconds: float = 2.0

    def __post_init__(self) -> None:
        """Raises ValueError: a limit that is not a positive number."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {field.name} must be positive and finite, not {value}")
