"""A machine and its surroundings over simulated time, with failures from a seeded schedule.

What runs is real: life cycle, renewal, pulse, and the stream's supervision. What is simulated is
the world: clocks that stop and jump, a platform and a vendor that fail in their ways, a disk, an
Observer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from agent.attesting.attester import Issued
from agent.attesting.renewal import Renewal
from agent.boottime import ClockWatch
from agent.life.lifecycle import Lifecycle, Part, Standing, State, Trouble, Weight
from agent.life.notify import Notifier
from agent.life.pulse import Pulse
from agent.life.supervise import Faults
from agent.stream.protocol import StreamClosedError
from agent.stream.status import Target
from agent.stream.stream import ObserverStream
from attestation.checks import skipped
from attestation.errors import QuoteError, UncheckableError, VerificationError
from enforcement.outcome import Platform

SECOND: Final = 1_000_000_000
LIFETIME: Final = 900
QUOTE_SECONDS: Final = 60.0
STEP: Final = 90.0
DAY: Final = 86_400.0
START: Final = datetime(2026, 6, 1, tzinfo=UTC)

# What hinders a passport, what hinders the recording, what only concerns; and clocks.
HINDER: Final = (
    *("busy", "empty", "slow", "no rights", "refused"),  # the platform
    *("vendor down", "vendor slow", "vendor lies", "collateral"),  # the vendor
    "fault",  # the agent itself
)
OTHERS: Final = (
    "disk",
    "observer away",
    "observer refuses",
    "stream fault",
    "bundle",
    "certificate",
)
MOMENTS: Final = ("suspend", "step")


@dataclass(frozen=True, slots=True)
class Window:
    """A cause, from when to when (seconds of trio's clock)."""

    kind: str
    begin: float
    end: float


def schedule(rng: random.Random, days: float) -> list[Window]:
    """Some causes a day, of every kind, mostly of minutes, some of hours; they overlap."""
    windows = []
    for kind in (*HINDER, *OTHERS, *MOMENTS):
        at = rng.expovariate(1 / (DAY / 2))
        while at < days * DAY:
            length = min(rng.choice((5, 60, 600, 3600)) * rng.expovariate(1), 6 * 3600)
            windows.append(Window(kind, at, at + length))
            at += length + rng.expovariate(1 / (DAY / 2))
    return sorted(windows, key=lambda window: window.begin)


@dataclass(slots=True)
class Machine:
    """Three clocks over trio's: boot time counts what was slept through, wall time can be set."""

    slept: float = 0.0
    stepped: float = 0.0

    def monotonic(self) -> int:
        return int(trio.current_time() * SECOND)

    def boot(self) -> int:
        return int((trio.current_time() + self.slept) * SECOND)

    def wall(self) -> int:
        return int(START.timestamp() * SECOND) + self.boot() + int(self.stepped * SECOND)


class JournalStub:
    """What the stream's supervision asks of a journal."""

    durable_seq = 0
    older = 0

    def announce(self) -> None:
        """Nobody listens."""

    @contextmanager
    def subscribed(self, callback: Callable[[], None]) -> Iterator[None]:
        del callback
        yield


class ScriptedStream(ObserverStream):
    """The real back-off and supervision around an Observer that does what the world says."""

    world: World

    async def _stream(self) -> None:
        world = self.world
        await trio.sleep(0.01)
        if world.has("stream fault"):
            raise RuntimeError("a fault")
        if world.has("observer refuses"):
            self.status.connected_now(trio.current_time())
            await trio.sleep(0.02)
            raise StreamClosedError("untrusted", "no", alarm=True)
        if world.has("observer away"):
            raise ConnectionRefusedError("refused")
        self.status.connected_now(trio.current_time())
        while not (world.has("observer away") or world.has("stream fault")):  # noqa: ASYNC110 - causes have no event
            await trio.sleep(world.step)
        self.problem("the Observer is away")


@dataclass
class World:
    """Everything together. `run` lives through the schedule."""

    seed: int
    days: float
    step: float = STEP  # seconds between two looks at clocks and causes
    dies: float = float("inf")  # when the guest's key for the firmware does
    dead: QuoteError | None = None
    machine: Machine = field(default_factory=Machine)
    told: list[tuple[int, State, State]] = field(default_factory=list)
    appeared: dict[Part, list[float]] = field(default_factory=dict)
    issues: int = 0
    checks: int = 0
    open_checks: int = 0
    _near_from: float = -1e9
    _nearby: list[Window] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.windows = schedule(rng, self.days)
        self.rng = rng
        self.faults = Faults()
        self.lifecycle = Lifecycle(clock=self.machine.boot, changed=self._changed)
        self.renewal = Renewal(
            issue=self._issue,
            lifecycle=self.lifecycle,
            clock=self.machine.boot,
            rng=random.Random(self.seed + 1),
            look_seconds=self.step,
            dead=lambda: self.dead,
        )
        self.stream = ScriptedStream(
            JournalStub(),  # type: ignore[arg-type]  # all that is asked of it
            target=Target(address="nowhere"),
            agent_id="soak",
            version="0",
            key=ec.generate_private_key(ec.SECP256R1()),
            passport=lambda: b"x",
            state=lambda: "",
            faults=self.faults,
            rng=random.Random(self.seed + 2),
        )
        self.stream.world = self
        self.lifecycle.watch(lambda: self._of("disk", Part.JOURNAL, Weight.BLOCKS))
        self.lifecycle.watch(lambda: self._of("bundle", Part.POLICY, Weight.CONCERN))
        self.lifecycle.watch(lambda: self._of("certificate", Part.TLS, Weight.CONCERN))
        self.lifecycle.watch(self.stream.trouble)

    # -- the world's side -------------------------------------------------------------------------

    def has(self, kind: str) -> bool:
        """Whether a cause of this kind is there now."""
        now = trio.current_time()
        return any(w.kind == kind and w.begin <= now < w.end for w in self._near(now))

    def _near(self, now: float) -> list[Window]:
        """The causes of now, with a margin; looked up once in a while."""
        if not self._near_from <= now < self._near_from + 600:
            self._near_from = now
            self._nearby = [w for w in self.windows if w.begin < now + 600 and w.end > now - 600]
        return self._nearby

    def hindered_since(self, seconds: float) -> bool:
        """Whether anything hindered passports within the last `seconds`. A suspend is a moment."""
        now = trio.current_time()
        return any(
            w.begin <= now
            and (w.end if w.kind in HINDER else w.begin) > now - seconds
            and (w.kind in HINDER or w.kind == "suspend")
            for w in self._near(now)
        )

    def _of(self, kind: str, part: Part, weight: Weight) -> Trouble | None:
        if not self.has(kind):
            return None
        return Trouble(part=part, weight=weight, code=kind, reason=kind, next="later")

    async def _issue(self) -> Issued:
        self.issues += 1
        if self.has("slow"):
            await trio.sleep(QUOTE_SECONDS)
            raise QuoteError("quote.timeout", "no quote in time")
        await trio.sleep(self.rng.uniform(0.01, 2.0))  # what a quote takes
        if self.has("busy"):
            raise QuoteError("quote.busy", "busy", errno=16)
        if self.has("empty"):
            raise QuoteError("quote.empty", "the quote is empty")
        if self.has("no rights") and self.renewal.current is not None:
            raise QuoteError("quote.permission", "not allowed", final=True)
        if trio.current_time() >= self.dies:
            assert self.dead is None, "a dead key is asked no more"
            self.dead = QuoteError("quote.key_disabled", "dead", remedy="reboot", final=True)
            raise self.dead.again()
        if self.has("refused"):
            raise OSError(5, "Input/output error")
        if self.has("vendor down"):
            raise UncheckableError("kds.unavailable", "KDS gave nothing")
        if self.has("vendor slow"):
            await trio.sleep(QUOTE_SECONDS)
            raise UncheckableError("passport.timeout", "not in time")
        if self.has("vendor lies"):
            raise VerificationError("snp.chain.signature", "not AMD's")
        if self.has("fault"):
            raise ValueError("a fault of the agent")
        return self._issued()

    def _issued(self) -> Issued:
        boot = self.machine.boot()
        life = float(LIFETIME)
        if self.has("collateral"):  # it ends with the window, and nothing newer is to be had
            now = trio.current_time()
            ends = max(w.end for w in self._near(now) if w.kind == "collateral" and w.begin <= now)
            life = min(life, ends - now)
        return Issued(
            token=b"",
            passport_id=f"pass-{self.issues}",
            platform=Platform(
                tee_type="simulated", hardware_attested=False, tcb_status="", simulated=True
            ),
            appraisal=None,  # type: ignore[arg-type]  # nothing here reads it
            issued_ns=boot,
            expires_ns=boot + int(life * SECOND),
            collateral_begins=START,
            collateral_ends=START + timedelta(days=365),
            list_window=None,
            revocation=skipped("test", ""),
            cut_short=life < LIFETIME,
        )

    # -- the observer's side ----------------------------------------------------------------------

    def _changed(self, standing: Standing, before: State) -> None:
        self.told.append((self.machine.boot(), before, standing.state))
        for trouble, since in standing.troubles:
            times = self.appeared.setdefault(trouble.part, [])
            if not times or times[-1] != since / SECOND:
                times.append(since / SECOND)

    async def run(self) -> None:
        """The simulated days, checked all along; the caller gives a virtual clock."""
        pulse = Pulse(
            lifecycle=self.lifecycle,
            clocks=ClockWatch(
                boot=self.machine.boot, monotonic=self.machine.monotonic, wall=self.machine.wall
            ),
            notifier=Notifier(None),
            jumped=self.renewal.renew_now,
            line=lambda: self.lifecycle.look().line(),
            started=lambda: True,
            seconds=self.step,
        )
        self.pulse = pulse
        self.lifecycle.begin()
        with trio.move_on_at(trio.current_time() + self.days * DAY):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.renewal.run)
                nursery.start_soon(pulse.run)
                nursery.start_soon(self.stream.run)
                nursery.start_soon(self._moments)
                nursery.start_soon(self._client)

    async def _moments(self) -> None:
        for window in [w for w in self.windows if w.kind in MOMENTS]:
            await trio.sleep_until(window.begin)
            if window.kind == "suspend":
                self.machine.slept += window.end - window.begin
            else:
                self.machine.stepped += self.rng.choice((-1, 1)) * (window.end - window.begin)

    async def _client(self) -> None:
        """Requests at any time: what the gate says is held against what is known otherwise."""
        rng = random.Random(self.seed + 3)
        while True:
            self.check()
            await trio.sleep(rng.expovariate(1 / STEP))

    def check(self) -> None:
        """The promises, at this moment."""
        boot, current = self.machine.boot(), self.renewal.current
        valid = current is not None and boot < current.expires_ns
        is_open = boot < self.lifecycle.open_until_ns
        self.checks += 1
        self.open_checks += is_open
        where = f"seed {self.seed}, second {trio.current_time():.0f}"
        assert is_open == valid, f"the gate and the passport disagree: {where}"
        standing = self.lifecycle.look()
        blocked = self.has("disk")
        assert standing.ready == (valid and not blocked), f"{standing.line()}: {where}"
        within = RECOVERY_SECONDS
        if self.dead is not None:
            assert "[quote.key_disabled]" in standing.reason, where
            assert blocked or standing.next.startswith("reboot"), where
            return
        if not valid and not self.hindered_since(within) and trio.current_time() > within:
            raise AssertionError(f"not serving {within:.0f} s after the cause was gone: {where}")


# One renewal is half a life. The back-off is shorter: its longest step, a quote under way when the
# cause ends, and one look at the clock.
RECOVERY_SECONDS: Final = 60 * 1.1 + QUOTE_SECONDS + 2 * STEP
assert RECOVERY_SECONDS < LIFETIME / 2


def lived_through(seed: int, days: float, *, dies: float = float("inf")) -> World:
    """Run a world on a virtual clock of its own."""
    world: Any = None

    async def main() -> None:
        nonlocal world
        world = World(seed=seed, days=days, dies=dies)
        await world.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert isinstance(world, World)
    return world
