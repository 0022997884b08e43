"""Where a change of the life cycle is told: the log and the service manager. Nowhere else."""

from __future__ import annotations

import gc
from collections.abc import Callable

from agent import logs
from agent.api import health
from agent.boottime import Clock
from agent.life.lifecycle import Standing, State
from agent.life.notify import Notifier

_LOG = logs.get("daemon")


class Announcer:
    """Told by the life cycle what changed.

    Args:
        serving: what the log says of an agent that is ready for the first time.

    Attributes:
        said_ready: READY=1 was sent.
    """

    def __init__(
        self, notifier: Notifier, *, clock: Clock, serving: Callable[[], dict[str, str]]
    ) -> None:
        self._notifier = notifier
        self._clock = clock
        self._serving = serving
        self.said_ready = False

    def changed(self, standing: Standing, before: State) -> None:
        """Say it."""
        level = _LOG.info if standing.ready else _LOG.warning
        level(
            "state.changed",
            state=standing.state.value,
            before=before.value,
            reason=standing.reason,
            next=standing.next,
        )
        first = standing.ready and not self.said_ready
        lines = [f"STATUS={health.status_line(standing, self._clock)}"]
        if first:
            self.said_ready = True
            _settle_memory()
            _LOG.info("serving", **self._serving())
            lines.insert(0, "READY=1")
        self._notifier.send(*lines, must=first)

    def stopping(self) -> None:
        """The end has begun."""
        self._notifier.send("STOPPING=1", must=True)


def _settle_memory() -> None:
    """What start-up made stays to the end: collections need not walk through it again. One that
    does stops every exchange for 35 ms, as measured.
    """
    gc.collect()
    gc.freeze()
