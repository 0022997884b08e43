"""The daemon's pulse: every second it looks whether the facts have changed by themselves.

It notices what no event tells: a passport that has ended, a clock that jumped, a loop that was held
up. What it finds it says to the life cycle, the renewal and the service manager. It decides
nothing: whoever asks for the state gets it fresh, with or without a pulse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from agent import logs
from agent.boottime import ClockWatch
from agent.life.lifecycle import Lifecycle
from agent.life.notify import Notifier
from agent.life.ticks import next_tick
from agent.metrics.histogram import QUICK, Histogram

PULSE_SECONDS: Final = 1.0
LAG_SAMPLES: Final = 2  # of the loop's lag for each beat
STATUS_SECONDS: Final = 5.0  # what the service manager shows is this old at most
EXTEND_SECONDS: Final = 10.0  # while starting: how often more time is asked for
EXTENSION_SECONDS: Final = 60
_LOG = logs.get("pulse")


class Pulse:
    """`run` until cancelled.

    Args:
        jumped: told why, when a clock did what it does not do by itself.
        line: what the service manager shows.
        started: whether READY=1 has been sent; until then a start is given more time, because a
            journal may be long, and the first quote may have to wait for a vendor's service.
        late: the parts that hang, and for how long; while there are any, the watchdog is not fed,
            and a start not given more time.

    Attributes:
        loop_lag: how late the loop came back to this task, in seconds.
        jumps: of the clocks, by (kind,).
    """

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        clocks: ClockWatch,
        notifier: Notifier,
        jumped: Callable[[str], None],
        line: Callable[[], str],
        started: Callable[[], bool],
        late: Callable[[], dict[str, float]] = dict,
        seconds: float = PULSE_SECONDS,
    ) -> None:
        self._lifecycle = lifecycle
        self._clocks = clocks
        self._notifier = notifier
        self._jumped = jumped
        self._line = line
        self._started = started
        self._late = late
        self._said_late: set[str] = set()
        self._seconds = seconds
        self._said, self._next_status, self._next_extension = "", 0.0, 0.0
        self._next_watchdog = 0.0
        self.loop_lag = Histogram(QUICK)
        self.jumps: dict[tuple[str, ...], int] = {}

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            for _ in range(LAG_SAMPLES):
                due = next_tick(self._seconds / LAG_SAMPLES)
                await trio.sleep_until(due)
                self.loop_lag.observe(max(trio.current_time() - due, 0.0))
            self.beat()

    def beat(self) -> None:
        """One look at everything."""
        for kind, seconds in self._clocks.look().items():
            self.jumps[(kind,)] = self.jumps.get((kind,), 0) + 1
            _LOG.warning("clock.jumped", kind=kind, seconds=round(seconds, 3))
            self._jumped(
                f"the machine was suspended for {seconds:.0f} s"
                if kind == "suspend"
                else f"the wall clock was set by {seconds:+.0f} s"
            )
        self._lifecycle.beat()
        self._tell(trio.current_time())

    def _tell(self, now: float) -> None:
        notifier = self._notifier
        late = self._late()
        if notifier.watchdog_seconds is not None and now >= self._next_watchdog:
            if not late:
                if notifier.send("WATCHDOG=1"):
                    self._next_watchdog = now + notifier.watchdog_seconds / 2
            elif late.keys() != self._said_late:
                _LOG.error("watchdog.withheld", late={k: round(v, 1) for k, v in late.items()})
            self._said_late = set(late)
        extend = now >= self._next_extension and not (self._started() or late)
        if extend and notifier.send(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}"):
            self._next_extension = now + EXTEND_SECONDS
        if now >= self._next_status:
            line = self._line()
            if line == self._said or notifier.send(f"STATUS={line}"):
                self._said, self._next_status = line, now + STATUS_SECONDS
