"""The streams that live now: at most one per agent, some per peer, some in all.

Held in memory by the one process that serves; every method runs to its end without waiting.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from observer.config import Limits
from observer.store import Superseded


class Busy(Exception):  # noqa: N818 - a ruling, named after what the peer is told
    """No place for another stream; the peer may try again later."""


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """One stream that has proven itself."""

    agent_id: str
    boot_id: bytes
    epoch: int
    peer: str
    last_seen_ns: int
    durable_seq: int
    state: str = ""
    stored_seq: int = 0  # of the running boot
    superseded: asyncio.Event = field(default_factory=asyncio.Event)


class Registry:
    """Who is connected."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._peers: Counter[str] = Counter()
        self._live: dict[str, Live] = {}

    @contextmanager
    def admit(self, peer: str) -> Iterator[None]:
        """A place for one stream while the block runs.

        Raises:
            Busy: too many streams in all, or from this peer.
        """
        if self._peers.total() >= self._limits.streams:
            raise Busy("the Observer has as many streams as it takes")
        if self._peers[peer] >= self._limits.streams_per_peer:
            raise Busy("there are too many streams from this address")
        self._peers[peer] += 1
        try:
            yield
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def take_over(self, live: Live) -> None:
        """Make this the stream of its agent; an older one is told to go.

        A higher epoch wins. With the same epoch the newcomer wins if it is the same boot (it has
        just proven the boot's key): that is a reconnect beside a half-dead connection.

        Raises:
            Superseded: the stream that is there is newer.
        """
        there = self._live.get(live.agent_id)
        if there is not None:
            newer = live.epoch > there.epoch or (
                live.epoch == there.epoch and live.boot_id == there.boot_id
            )
            if not newer:
                raise Superseded
            there.superseded.set()
        self._live[live.agent_id] = live

    def is_current(self, live: Live) -> bool:
        """False once a newer stream has taken over, or this one has left."""
        return self._live.get(live.agent_id) is live

    def leave(self, live: Live) -> None:
        """The stream has ended."""
        if self.is_current(live):
            del self._live[live.agent_id]

    def find(self, agent_id: str) -> Live | None:
        """The live stream of an agent."""
        return self._live.get(agent_id)

    def all(self) -> list[Live]:
        """Every live stream."""
        return list(self._live.values())

    @property
    def streams(self) -> int:
        """Connections, proven or not."""
        return self._peers.total()
