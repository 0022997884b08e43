"""A daemon that has nothing to do wakes seldom."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.agent.daemons import daemon_inside

SECONDS = 6.0
# Twice a second for the loop's lag; every second the journal's and the life cycle's look; every two
# the bundle's, which takes a thread and comes back. Each of these is up to three turns of the loop.
MOST_WAKES = 4.0  # a second


class Sleeps(trio.abc.Instrument):
    """Counts how often the loop really slept."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += timeout > 0


async def test_an_idle_daemon_wakes_a_few_times_a_second(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        await inside.until(lambda: inside.daemon.parts.renewal.valid)
        await trio.sleep(1)
        sleeps = Sleeps()
        trio.lowlevel.add_instrument(sleeps)
        await trio.sleep(SECONDS)
        trio.lowlevel.remove_instrument(sleeps)
    assert sleeps.count <= MOST_WAKES * SECONDS
