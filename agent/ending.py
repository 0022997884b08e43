"""A stop, step by step: open requests finish, then the journal is delivered. Each has its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agent import logs
from agent.journal import Journal
from agent.life.lifecycle import Lifecycle
from enforcement.gateway.gateway import Gateway

if TYPE_CHECKING:
    from agent.stream.stream import ObserverStream

_LOG = logs.get("daemon")


async def drain(gateway: Gateway, *, seconds: float) -> None:
    """No new connections; those that are open finish, for so long."""
    gateway.stop_accepting()
    with trio.move_on_after(seconds) as scope:
        await gateway.drained()
    if scope.cancelled_caught:
        _LOG.warning("gateway.cut", connections=gateway.metrics.connections)


async def deliver(
    journal: Journal, stream: ObserverStream | None, lifecycle: Lifecycle, *, seconds: float
) -> None:
    """Sign the end of the journal, and let the Observer take what it has not, for so long.

    What is left then stays in the journal: the next start delivers it. That is said in the state
    while it is tried, and in the log when it is over.
    """
    await journal.checkpoint()
    if stream is None:
        return
    lifecycle.ending(
        f"the journal is delivered, for {seconds:g} s at most; what the Observer does not take"
        " stays in the journal, and the next start delivers it"
    )
    with trio.move_on_after(seconds):
        await stream.delivered()
    if stream.status.lag:
        _LOG.warning(
            "stream.undelivered",
            lag=stream.status.lag,
            error=stream.status.problem,
            kept=str(journal.path),
            next="the next start delivers them",
        )
