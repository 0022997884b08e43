"""The pulse notices what no event tells."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.attesting.renewal import Renewal
from agent.boottime import ClockWatch
from agent.life.lifecycle import Lifecycle, State
from agent.life.notify import Notifier
from agent.life.pulse import Pulse
from tests.agent.attesting.test_renewal import LIFETIME, Issuer
from tests.agent.life.soaking import Machine


class Bench:
    """Life cycle, renewal and pulse on a machine whose clocks can be moved."""

    def __init__(self, notifier: Notifier | None = None) -> None:
        self.machine = Machine()
        self.notifier = notifier or Notifier(None)
        self.issuer = Issuer()
        self.issuer.clock = self.machine.boot
        self.lifecycle = Lifecycle(clock=self.machine.boot)
        self.lifecycle.begin()
        self.renewal = Renewal(
            issue=self.issuer,
            lifecycle=self.lifecycle,
            clock=self.machine.boot,
            rng=random.Random(7),
        )
        self.pulse = Pulse(
            lifecycle=self.lifecycle,
            clocks=ClockWatch(
                boot=self.machine.boot, monotonic=self.machine.monotonic, wall=self.machine.wall
            ),
            notifier=self.notifier,
            jumped=self.renewal.renew_now,
            line=lambda: self.lifecycle.look().line(),
            started=lambda: self.renewal.valid,
        )

    async def run(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.renewal.run)
        nursery.start_soon(self.pulse.run)
        await trio.sleep(5)


@pytest.mark.parametrize(("kind", "seconds"), [("suspend", 120), ("step", 600), ("step", -600)])
async def test_a_clock_that_jumps_renews_at_once(
    autojump_clock: trio.testing.MockClock, kind: str, seconds: float
) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench()
        await bench.run(nursery)
        assert len(bench.issuer.times) == 1
        if kind == "suspend":
            bench.machine.slept += seconds
        else:
            bench.machine.stepped += seconds
        await trio.sleep(3)
        assert len(bench.issuer.times) == 2
        assert bench.pulse.jumps == {(kind,): 1}
        nursery.cancel_scope.cancel()


async def test_a_suspend_longer_than_the_passport_closes_the_gate_before_anybody_looks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench()
        await bench.run(nursery)
        bench.machine.slept += LIFETIME * 2
        assert bench.machine.boot() >= bench.lifecycle.open_until_ns
        assert bench.lifecycle.look().state is State.EXPIRED
        await trio.sleep(3)
        assert bench.lifecycle.look().state is State.SERVING
        nursery.cancel_scope.cancel()


async def test_an_ordinary_clock_is_no_jump(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench()
        await bench.run(nursery)
        for _ in range(20):
            await trio.sleep(60)
            bench.machine.stepped += 0.03  # what slewing does in a minute
        assert bench.pulse.jumps == {}
        nursery.cancel_scope.cancel()


async def test_what_the_service_manager_is_told(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.setblocking(False)
        bench = Bench(Notifier(str(tmp_path / "s"), watchdog_seconds=10))
        bench.issuer.script = [OSError("x\ny")] * 4  # the first quote takes some tries
        async with trio.open_nursery() as nursery:
            await bench.run(nursery)
            messages: list[str] = []
            for _ in range(120):
                await trio.sleep(0.5)
                with suppress(BlockingIOError):  # the kernel keeps ten for who is slow
                    while True:
                        messages.append(listening.recv(65_536).decode())
            nursery.cancel_scope.cancel()
        bench.notifier.close()
    assert messages.count("WATCHDOG=1") in (12, 13, 14)
    assert "EXTEND_TIMEOUT_USEC=60000000" in messages
    assert not [m for m in messages if "EXTEND" in m][4:], "not after the start"
    statuses = [m for m in messages if m.startswith("STATUS=")]
    assert statuses[0].startswith("STATUS=attesting: passport: no new passport: x y")
    assert statuses[-1].startswith("STATUS=serving")
    assert len(statuses) < 20


class Full(Notifier):
    """A service manager whose queue is full until `full` is unset; keeps what it got."""

    def __init__(self) -> None:
        super().__init__(None, watchdog_seconds=30)
        self.full = True
        self.got: list[tuple[float, str]] = []

    def send(self, *lines: str, must: bool = False) -> bool:
        del must
        if not self.full:
            self.got += [(trio.current_time(), line) for line in lines]
        return not self.full


async def test_what_a_full_queue_did_not_take_is_said_at_the_next_beat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    notifier = Full()
    async with trio.open_nursery() as nursery:
        await Bench(notifier).run(nursery)
        await trio.sleep(15)
        began = trio.current_time()
        notifier.full = False
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    said = {line.partition("=")[0]: when - began for when, line in notifier.got}
    assert said["WATCHDOG"] <= 2, "not half a watchdog's time later"
    assert said["STATUS"] <= 2


async def test_a_loop_that_is_held_up_shows_in_the_lag(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench()
        await bench.run(nursery)
        counted = sum(bench.pulse.loop_lag.counts)
        assert counted >= 8
        autojump_clock.jump(2.0)  # nobody came to run for two seconds
        await trio.sleep(0.3)
        assert bench.pulse.loop_lag.counts[-1] == 1
        nursery.cancel_scope.cancel()


def test_the_clocks_are_those_of_the_machine() -> None:
    watch = ClockWatch()
    assert watch.look() == {}


async def test_a_start_that_hangs_is_not_given_more_time(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.setblocking(False)
        bench = Bench(Notifier(str(tmp_path / "s")))
        bench.pulse._started = lambda: False
        bench.pulse._late = lambda: {"start": 1.0} if trio.current_time() > 100 else {}
        times: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.pulse.run)
            for _ in range(600):
                await trio.sleep(0.5)
                with suppress(BlockingIOError):
                    while True:
                        if b"EXTEND" in listening.recv(65_536):
                            times.append(trio.current_time())
            nursery.cancel_scope.cancel()
        bench.notifier.close()
    assert len(times) in (9, 10, 11)
    assert max(times) <= 101
