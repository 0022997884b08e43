"""Tasks of one loop look together."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from agent.life.ticks import next_tick


async def test_periods_that_divide_each_other_fall_together(autojump_clock: MockClock) -> None:
    times: dict[float, list[float]] = {0.5: [], 1.0: [], 2.0: []}

    async def look(seconds: float) -> None:
        await trio.sleep(seconds / 7)  # each began at another time
        while True:
            await trio.sleep_until(next_tick(seconds))
            times[seconds].append(trio.current_time())

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for seconds in times:
                nursery.start_soon(look, seconds)
    assert set(times[2.0]) <= set(times[1.0]) <= set(times[0.5])
    assert len(times[0.5]) == pytest.approx(120, abs=1)
    assert len(times[2.0]) == pytest.approx(30, abs=1)


@given(st.floats(0, 1e7), st.sampled_from([0.02, 0.25, 0.5, 1.0, 2.0, 3.7, 60.0, 86_400.0]))
def test_an_instant_is_ahead_and_never_further_than_the_period(now: float, seconds: float) -> None:
    async def main() -> None:
        clock.jump(now)
        ahead = next_tick(seconds) - trio.current_time()
        assert 0 < ahead <= seconds + 0.001 + 1e-6

    clock = MockClock()
    trio.run(main, clock=clock)
