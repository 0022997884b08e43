"""The streams that live now: at most one per agent, some per peer, some in all.

Held in memory by the one process that serves; every method runs to its end without waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from observer.config import Limits
from observer.peers import Full, Places
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


class Admission:
    """One stream's place, and its place among those that have proven nothing yet."""

    def __init__(self, unproven: Places, peer: str) -> None:
        self._unproven = unproven
        self._peer = peer
        self._waiting = False

    def wait(self) -> None:
        """Take a place among the unproven.

        Raises:
            Full: there is none.
        """
        self._unproven.take(self._peer)
        self._waiting = True

    def proven(self) -> None:
        """The stream has shown its key, or has ended: that place is free. May be said twice."""
        if self._waiting:
            self._waiting = False
            self._unproven.leave(self._peer)


class Registry:
    """Who is connected.

    Args:
        shared: addresses that many agents come from: the bounds on one address do not hold there.
    """

    def __init__(self, limits: Limits, *, shared: Iterable[str] = ()) -> None:
        shared = tuple(shared)
        self._streams = Places(limits.streams, limits.streams_per_peer, shared=shared)
        self._unproven = Places(limits.unproven, limits.unproven_per_peer, shared=shared)
        self._live: dict[str, Live] = {}

    @contextmanager
    def admit(self, peer: str) -> Iterator[Admission]:
        """A place for one stream of a peer (as `observer.peers` names it) while the block runs.

        Raises:
            Busy: too many streams in all or from this peer, or too many that proved nothing yet.
        """
        try:
            self._streams.take(peer)
        except Full as full:
            raise Busy(
                "the Observer has as many streams as it takes"
                if full.why == "all"
                else "there are too many streams from this address"
            ) from full
        admission = Admission(self._unproven, peer)
        try:
            try:
                admission.wait()
            except Full as full:
                whose = "" if full.why == "all" else " from this address"
                raise Busy(f"too many streams{whose} have yet to prove themselves") from full
            yield admission
        finally:
            admission.proven()
            self._streams.leave(peer)

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
        """Streams, proven or not."""
        return self._streams.taken

    @property
    def unproven(self) -> int:
        """Streams that have not shown their key yet."""
        return self._unproven.taken
