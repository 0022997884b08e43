"""The service manager's watchdog: fed while every part keeps its promise, and no longer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from agent.boottime import ClockWatch, boot_ns
from agent.errors import FatalError
from agent.journal import Journal
from agent.journal.group_commit import WRITER_SECONDS
from agent.life import hang
from agent.life.lifecycle import Lifecycle
from agent.life.notify import Notifier
from agent.life.pulse import PULSE_SECONDS, Pulse
from agent.life.watchdog import REST, Freshness
from tests.agent.daemons import daemon_inside

WATCHDOG = 30.0


class Manager(Notifier):
    """Keeps when it was fed; `dead` as the service manager would judge it."""

    def __init__(self) -> None:
        super().__init__(None, watchdog_seconds=WATCHDOG)
        self.fed: list[float] = []

    def send(self, *lines: str, must: bool = False) -> bool:
        if "WATCHDOG=1" in lines:
            self.fed.append(trio.current_time())
        return True

    @property
    def longest(self) -> float:
        times = [*self.fed, trio.current_time()]
        return max(after - before for before, after in pairwise(times))


def pulse(manager: Manager, freshness: Freshness) -> Pulse:
    return Pulse(
        lifecycle=Lifecycle(clock=boot_ns, require_passport=True),
        clocks=ClockWatch(),
        notifier=manager,
        jumped=lambda _why: None,
        line=lambda: "",
        started=lambda: True,
        late=freshness.late,
    )


@pytest.fixture
def freshness() -> Freshness:
    return Freshness(clock=trio.current_time)


async def test_it_is_fed_in_time_while_every_part_keeps_its_promise(
    freshness: Freshness, autojump_clock: MockClock
) -> None:
    manager, promise = Manager(), freshness.part("journal")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse(manager, freshness).run)
        for _ in range(300):
            promise(60)
            await trio.sleep(1)
        assert manager.longest <= WATCHDOG / 2 + 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["journal", "renewal", "stream"])
async def test_one_part_that_hangs_ends_the_feeding_of_all(
    freshness: Freshness, autojump_clock: MockClock, name: str
) -> None:
    manager = Manager()
    promises = {part: freshness.part(part) for part in ("journal", "renewal", "stream")}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse(manager, freshness).run)
        for _ in range(120):
            for part, promise in promises.items():
                if part != name or trio.current_time() < 20:
                    promise(10)
            await trio.sleep(1)
        assert max(manager.fed) <= 30 + 1  # the last promise, made at 19 s, held until 29 s
        assert manager.longest > WATCHDOG
        assert list(freshness.late()) == [name]
        nursery.cancel_scope.cancel()


async def test_a_part_that_is_back_feeds_it_at_once(
    freshness: Freshness, autojump_clock: MockClock
) -> None:
    manager, promise = Manager(), freshness.part("journal")
    promise(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse(manager, freshness).run)
        await trio.sleep(20)
        promise(60)
        await trio.sleep(PULSE_SECONDS + 1)
        assert trio.current_time() - max(manager.fed) <= PULSE_SECONDS + 1
        nursery.cancel_scope.cancel()


async def test_a_part_at_rest_is_not_missed(
    freshness: Freshness, autojump_clock: MockClock
) -> None:
    promise = freshness.part("stream")
    await trio.sleep(80_000)
    assert freshness.late() == {}
    promise(REST)
    await trio.sleep(80_000)
    assert freshness.late() == {}


async def test_the_journals_writer_keeps_its_promise_when_nothing_happens(tmp_path: Path) -> None:
    made: list[float] = []
    thrice = trio.Event()

    def promise(seconds: float) -> None:
        made.append(seconds)
        if len(made) == 3:
            thrice.set()

    journal = Journal.open(tmp_path / "j", agent_id="a", boot_seed=bytes(32))
    journal.promise = promise
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        with trio.fail_after(20):
            await thrice.wait()
        nursery.cancel_scope.cancel()
    await journal.close()
    assert set(made) == {WRITER_SECONDS}


# -- the hang for tests ---------------------------------------------------------------------------


def test_without_the_variable_nothing_hangs() -> None:
    assert not hang.wanted({}, simulated=True)
    assert not hang.wanted({}, simulated=False)


def test_an_agent_on_hardware_does_not_start_with_it() -> None:
    with pytest.raises(FatalError, match="not simulated") as caught:
        hang.wanted({hang.VARIABLE: ""}, simulated=False)
    assert caught.value.code == 2


def test_with_a_simulated_tee_it_is_taken() -> None:
    assert hang.wanted({hang.VARIABLE: "1"}, simulated=True)


# -- those who probe instead ---------------------------------------------------------------------


async def test_liveness_and_the_metric_say_what_the_watchdog_is_told(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        assert inside.api("/healthz") == (200, {"status": "alive"})
        assert 'lucid_part_late_seconds{part="journal"} 0.0' in inside.api("/metrics")[1]
        daemon.parts.freshness.part("journal")(-12.4)  # its promise ended so long ago
        code, answer = inside.api("/healthz")
        assert (code, answer["status"]) == (503, "hangs")
        assert answer["reason"] == "hangs: journal for 12 s"
        assert 'lucid_part_late_seconds{part="journal"} 12' in inside.api("/metrics")[1]
        daemon.parts.freshness.part("journal")(10)
        assert inside.api("/healthz")[0] == 200, "nothing is latched"
