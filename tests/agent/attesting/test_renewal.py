"""Passports are renewed at half life, retried within bounds, and expire on time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
import trio

from agent.attesting.attester import Issued
from agent.attesting.renewal import Renewal
from agent.errors import ExitCode, FatalError
from agent.life.lifecycle import Lifecycle, Standing, State
from agent.life.watchdog import REST
from attestation.checks import skipped
from attestation.errors import QuoteError, UncheckableError, VerificationError
from enforcement.outcome import Platform
from tests.panics import Panic

SECOND = 1_000_000_000
LIFETIME = 900


def clock() -> int:
    """Boot time that runs with trio's (virtual) clock."""
    return int(trio.current_time() * SECOND)


class Issuer:
    """Issues at once, or fails as scripted."""

    def __init__(
        self, script: Sequence[BaseException | None] = (), *, takes: Sequence[float] = ()
    ) -> None:
        self.script = list(script)
        self.takes = list(takes)
        self.lifetime = LIFETIME
        self.clock = clock
        self.times: list[float] = []
        self.dead: QuoteError | None = None  # what the platform's quotes ended with

    async def __call__(self) -> Issued:
        self.times.append(trio.current_time())
        if self.takes:
            await trio.sleep(self.takes.pop(0))
        step = self.script.pop(0) if self.script else None
        if isinstance(step, QuoteError) and step.needs_reboot:
            self.dead = step
        if step is not None:
            raise step
        now = self.clock()
        return Issued(
            token=b"",
            passport_id=f"pass-{len(self.times)}",
            platform=Platform(
                tee_type="simulated", hardware_attested=False, tcb_status="", simulated=True
            ),
            appraisal=None,  # type: ignore[arg-type]  # nothing here reads it
            issued_ns=now,
            expires_ns=now + self.lifetime * SECOND,
            collateral_begins=datetime(2026, 1, 1, tzinfo=UTC),
            collateral_ends=datetime(2030, 1, 1, tzinfo=UTC),
            list_window=None,
            revocation=skipped("test", ""),
            cut_short=self.lifetime < LIFETIME,
        )


async def run_for(
    seconds: float, issuer: Issuer, then: Callable[[Renewal], None] | None = None
) -> Renewal:
    lifecycle = Lifecycle(clock=clock)
    lifecycle.begin()
    renewal = Renewal(
        issue=issuer,
        lifecycle=lifecycle,
        clock=clock,
        rng=random.Random(7),
        dead=lambda: issuer.dead,
    )
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            if then is not None:
                await trio.testing.wait_all_tasks_blocked()
                then(renewal)
    return renewal


def standing(renewal: Renewal) -> Standing:
    return renewal._lifecycle.look()


def failing(count: int) -> list[Exception | None]:
    return [QuoteError("quote.busy", "busy") for _ in range(count)]


async def test_a_passport_is_renewed_at_half_its_life(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer()
    await run_for(LIFETIME * 3, issuer)
    gaps = [b - a for a, b in zip(issuer.times, issuer.times[1:], strict=False)]
    assert len(gaps) >= 5
    assert all(0.45 * LIFETIME <= gap <= 0.55 * LIFETIME + 2 for gap in gaps)


async def test_retries_back_off_and_then_succeed(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer(failing(5))
    renewal = await run_for(300, issuer)
    gaps = [b - a for a, b in zip(issuer.times, issuer.times[1:], strict=False)]
    assert gaps[0] < gaps[2] < gaps[4]
    assert renewal.valid
    assert renewal.failures == {("quote.busy",): 5}


async def test_a_failed_renewal_degrades_and_the_end_expires(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([None, *failing(10_000)])
    renewal = await run_for(LIFETIME * 0.9, issuer)
    assert standing(renewal).state is State.DEGRADED
    assert renewal.valid
    issuer = Issuer([None, *failing(10_000)])
    renewal = await run_for(LIFETIME * 1.1, issuer)
    assert standing(renewal).state is State.EXPIRED
    assert not renewal.valid


async def test_tries_become_denser_towards_the_end(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer([None, *failing(10_000)])
    await run_for(LIFETIME, issuer)
    assert LIFETIME - issuer.times[-1] < 10


async def test_after_an_expiry_a_new_passport_serves_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([None, *failing(60)])
    renewal = await run_for(LIFETIME * 6, issuer)
    assert standing(renewal).state is State.SERVING


async def test_at_the_first_start_a_final_failure_ends_the_daemon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([QuoteError("quote.no_provider", "no TEE", remedy="simulate", final=True)])
    expected = pytest.RaisesExc(
        FatalError, match="no TEE", check=lambda error: error.code is ExitCode.NO_TEE
    )
    with pytest.RaisesGroup(expected, flatten_subgroups=True):
        await run_for(10, issuer)


async def test_later_even_a_final_failure_only_degrades(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([None, *(QuoteError("quote.refused", "no", final=True) for _ in range(99))])
    renewal = await run_for(LIFETIME * 0.7, issuer)
    assert standing(renewal).state is State.DEGRADED


def dead_key() -> QuoteError:
    remedy = "reboot this guest; nothing else helps"
    return QuoteError("quote.key_disabled", "the key is disabled", remedy=remedy, final=True)


async def test_a_dead_key_is_asked_no_more_and_the_passport_serves_until_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([None, dead_key()])  # a third try would give a passport
    promised: list[float] = []

    def watch(renewal: Renewal) -> None:
        renewal.promise = promised.append

    renewal = await run_for(LIFETIME * 0.9, issuer, watch)
    now = standing(renewal)
    assert (now.state, now.ready) == (State.DEGRADED, True)
    assert "the key is disabled [quote.key_disabled]" in now.reason
    assert now.next.startswith("reboot this guest")
    assert "requests are refused in 90 s" in now.next
    assert "asked for again" not in now.next
    assert promised[-1] == REST, "the watchdog expects nothing more of it"
    assert renewal.next_seconds == float("inf")
    renewal = await run_for(LIFETIME * 9, issuer := Issuer([None, dead_key()]))
    now = standing(renewal)
    assert (now.state, now.ready) == (State.EXPIRED, False)
    assert "has ended" in now.reason
    assert "[quote.key_disabled]" in now.reason
    assert now.next.startswith("reboot this guest")
    assert len(issuer.times) == 2
    assert renewal.failures == {("quote.key_disabled",): 1}


async def test_a_try_is_promised_the_time_that_its_parts_may_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    promised: list[float] = []
    lifecycle = Lifecycle(clock=clock)
    lifecycle.begin()
    renewal = Renewal(
        issue=Issuer(),
        lifecycle=lifecycle,
        clock=clock,
        rng=random.Random(7),
        try_seconds=1230.0,
    )
    renewal.promise = promised.append
    with trio.move_on_after(1):
        await renewal.run()
    assert promised[0] == 1230.0


async def test_no_wish_wakes_a_dead_key(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer([None, dead_key()])
    lifecycle = Lifecycle(clock=clock)
    lifecycle.begin()
    renewal = Renewal(
        issue=issuer,
        lifecycle=lifecycle,
        clock=clock,
        rng=random.Random(7),
        dead=lambda: issuer.dead,
    )
    with trio.move_on_after(LIFETIME * 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            while True:
                await trio.sleep(7)
                renewal.renew_now("a new policy bundle")
    assert len(issuer.times) == 2


async def test_a_key_whose_death_a_challenge_found_is_known_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer()

    def found(renewal: Renewal) -> None:
        assert standing(renewal).state is State.SERVING
        issuer.dead = dead_key()
        now = standing(renewal)
        assert now.state is State.DEGRADED
        assert "[quote.key_disabled]" in now.reason
        assert renewal.next_seconds == float("inf")

    renewal = await run_for(LIFETIME * 2, issuer, found)
    assert len(issuer.times) == 1
    assert standing(renewal).state is State.EXPIRED


async def test_a_dead_key_at_the_first_start_ends_the_daemon_and_asks_for_a_reboot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    expected = pytest.RaisesExc(
        FatalError,
        match="the key is disabled",
        check=lambda error: error.code is ExitCode.NO_TEE and "reboot" in error.remedy,
    )
    with pytest.RaisesGroup(expected, flatten_subgroups=True):
        await run_for(10, Issuer([dead_key()]))


async def test_what_somebody_has_to_mend_says_so_and_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refused = QuoteError("quote.permission", "not allowed", remedy="run it as root", final=True)
    renewal = await run_for(LIFETIME * 0.9, Issuer([None, *[refused] * 10_000]))
    assert "run it as root" in standing(renewal).next
    assert "asked for again" in standing(renewal).next
    renewal = await run_for(LIFETIME * 0.9, Issuer([None, refused]))
    assert standing(renewal).state is State.SERVING


async def test_own_evidence_that_does_not_verify_gives_no_passport(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([VerificationError("snp.report.signature", "bad") for _ in range(99)])
    renewal = await run_for(30, issuer)
    assert renewal.current is None
    assert not renewal.valid
    assert "snp.report.signature" in standing(renewal).reason


async def test_a_wish_to_renew_is_heard_at_once(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer()
    await run_for(5, issuer, lambda renewal: renewal.renew_now("test"))
    assert len(issuer.times) == 2


async def wished_for_ever(issuer: Issuer, seconds: float, every: float = 0.01) -> list[float]:
    """How far apart tries begin where somebody always wishes for one."""
    lifecycle = Lifecycle(clock=clock)
    lifecycle.begin()
    renewal = Renewal(
        issue=issuer,
        lifecycle=lifecycle,
        clock=clock,
        rng=random.Random(7),
        look_seconds=every,
    )
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            while True:
                renewal.renew_now("test")
                await trio.sleep(every)
    return [b - a for a, b in zip(issuer.times, issuer.times[1:], strict=False)]


@pytest.mark.parametrize(
    ("quote", "gap"),
    [
        (0.0, 0.1),  # simulated: never closer than this
        (0.01, 0.1),
        (0.03, 0.3),  # SEV-SNP: a tenth of the time
        (0.08, 0.8),
        (0.4, 1.4),  # a second's rest at most
        (1.0, 2.0),  # TDX polls once a second: half of the time
        (6.0, 12.0),  # a host that throttles is not pressed
        (3600.0, 3610.0),  # a machine that slept meanwhile
    ],
)
async def test_the_pace_of_wishes_is_what_the_platform_can_do(
    autojump_clock: trio.testing.MockClock, quote: float, gap: float
) -> None:
    gaps = await wished_for_ever(Issuer(takes=[quote] * 1000), gap * 12, gap / 50)
    assert len(gaps) >= 8
    assert all(gap - 1e-6 <= found <= gap * 1.05 for found in gaps), gaps


async def test_a_platform_that_was_slow_once_is_not_pressed_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What a throttling host shows: a quote that took seconds among quick ones."""
    gaps = await wished_for_ever(Issuer(takes=[0.01, 4.0, *[0.01] * 1000]), 60)
    assert gaps[0] < 0.2
    assert gaps[1] >= 8.0 - 1e-6
    assert all(later <= before + 0.05 for before, later in itertools.pairwise(gaps[1:]))
    assert sum(gap > 0.5 for gap in gaps[2:]) >= 2
    assert gaps[-1] < 0.2


async def test_after_a_failure_no_wish_is_heard_within_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gaps = await wished_for_ever(Issuer([None, *failing(1000)]), 20)
    assert gaps[0] < 0.2
    assert min(gaps[1:]) >= 1.0 - 1e-6


async def test_a_failure_that_took_long_is_not_rested_after_as_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It failed by a time-out, or the machine slept: the passport may be over already."""
    gaps = await wished_for_ever(Issuer(failing(3), takes=[600.0] * 3), 2000, 1)
    assert len(gaps) >= 4
    assert max(gaps) <= 610


async def test_one_wish_is_one_try(autojump_clock: trio.testing.MockClock) -> None:
    """A wish while the last try is still too near is met by the next one; no other follows."""
    issuer = Issuer(takes=[0.05] * 10)

    async def wish(renewal: Renewal) -> None:
        await trio.sleep(10)
        renewal.renew_now("one")
        await trio.sleep(0.1)  # the try is over, the next may not begin yet
        renewal.renew_now("two")
        await trio.sleep(0.1)
        renewal.renew_now("three")

    lifecycle = Lifecycle(clock=clock)
    lifecycle.begin()
    renewal = Renewal(issue=issuer, lifecycle=lifecycle, clock=clock, rng=random.Random(7))
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            nursery.start_soon(wish, renewal)
    assert len(issuer.times) == 3


async def test_a_failure_says_when_it_is_tried_again_and_when_requests_are_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([None, *failing(10_000)])
    renewal = await run_for(LIFETIME * 0.6, issuer)
    now = standing(renewal)
    assert now.state is State.DEGRADED
    assert "quote.busy" in now.reason
    assert "a quote is asked for again in" in now.next
    assert "requests are refused in" in now.next


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret text"),
        ZeroDivisionError(),
        ExceptionGroup("g", [KeyError("secret text")]),
        MemoryError(),
        Panic("secret text"),
        OSError(28, "No space left on device"),
        FatalError(ExitCode.NO_TEE, "the kernel's provider is another one now"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_fault_of_a_renewal_ends_the_daemon_or_the_valid_passport(
    autojump_clock: trio.testing.MockClock, error: BaseException
) -> None:
    issuer = Issuer([None, error, error, None])
    renewal = await run_for(LIFETIME * 0.8, issuer)
    assert renewal.renewals == 2
    assert sum(renewal.failures.values()) == 2
    assert standing(renewal).state is State.SERVING
    issuer = Issuer([None, *[error] * 10_000])
    renewal = await run_for(LIFETIME * 0.8, issuer)
    assert standing(renewal).ready
    assert "secret text" not in standing(renewal).reason


async def test_a_passport_that_its_collateral_cuts_short_is_a_concern_and_renewed_the_sooner(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer()
    issuer.lifetime = 100
    renewal = await run_for(60, issuer)
    assert 45 <= issuer.times[1] - issuer.times[0] <= 57
    now = standing(renewal)
    assert now.state is State.DEGRADED
    assert now.reason.startswith("collateral: the vendor's documents")
    assert now.ready


async def test_a_passport_that_is_over_when_it_is_issued_is_a_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer()
    issuer.lifetime = 0
    renewal = await run_for(300, issuer)
    assert not renewal.valid
    assert standing(renewal).state is State.ATTESTING
    assert ("passport.over",) in renewal.failures
    assert len(issuer.times) < 15, "it backs off"


async def test_a_vendor_that_cannot_be_reached_at_the_first_start_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    away = UncheckableError("kds.unavailable", "KDS gave nothing")
    issuer = Issuer([away] * 20)
    renewal = await run_for(3600, issuer)
    assert standing(renewal).state is State.SERVING
    gaps = [b - a for a, b in zip(issuer.times, issuer.times[1:], strict=False)]
    assert max(gaps[:19]) <= 66, "the back-off is bounded"
