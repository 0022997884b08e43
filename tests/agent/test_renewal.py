"""Passports are renewed at half life, retried within bounds, and expire on time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio

from agent.attester import Issued
from agent.errors import ExitCode, FatalError
from agent.lifecycle import Event, Lifecycle, State
from agent.renewal import Renewal
from attestation.errors import AttestationError, QuoteError, VerificationError
from enforcement.outcome import Platform

SECOND = 1_000_000_000
LIFETIME = 900


def clock() -> int:
    """Boot time that runs with trio's (virtual) clock."""
    return int(trio.current_time() * SECOND)


class Issuer:
    """Issues at once, or fails as scripted."""

    def __init__(self, script: list[AttestationError | None] | None = None) -> None:
        self.script = script or []
        self.times: list[float] = []

    async def __call__(self) -> Issued:
        self.times.append(trio.current_time())
        step = self.script.pop(0) if self.script else None
        if step is not None:
            raise step
        now = clock()
        return Issued(
            token=b"",
            passport_id=f"pass-{len(self.times)}",
            platform=Platform(
                tee_type="simulated", hardware_attested=False, tcb_status="", simulated=True
            ),
            appraisal=None,  # type: ignore[arg-type]  # nothing here reads it
            issued_ns=now,
            expires_ns=now + LIFETIME * SECOND,
        )


async def run_for(
    seconds: float, issuer: Issuer, then: Callable[[Renewal], None] | None = None
) -> Renewal:
    lifecycle = Lifecycle(clock=clock)
    lifecycle.happen(Event.BEGIN, "")
    renewal = Renewal(issue=issuer, lifecycle=lifecycle, clock=clock, rng=random.Random(7))
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            if then is not None:
                await trio.testing.wait_all_tasks_blocked()
                then(renewal)
    return renewal


def failing(count: int) -> list[AttestationError | None]:
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
    assert renewal.failures == 5


async def test_a_failed_renewal_degrades_and_the_end_expires(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([None, *failing(10_000)])
    renewal = await run_for(LIFETIME * 0.9, issuer)
    assert renewal._lifecycle.state is State.DEGRADED
    assert renewal.valid
    issuer = Issuer([None, *failing(10_000)])
    renewal = await run_for(LIFETIME * 1.1, issuer)
    assert renewal._lifecycle.state is State.EXPIRED
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
    assert renewal._lifecycle.state is State.SERVING


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
    issuer = Issuer([None, *(QuoteError("quote.dead", "dead key", final=True) for _ in range(99))])
    renewal = await run_for(LIFETIME * 0.7, issuer)
    assert renewal._lifecycle.state is State.DEGRADED


async def test_own_evidence_that_does_not_verify_gives_no_passport(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer([VerificationError("snp.report.signature", "bad") for _ in range(99)])
    renewal = await run_for(30, issuer)
    assert renewal.current is None
    assert not renewal.valid
    assert "snp.report.signature" in renewal._lifecycle.reason


async def test_a_wish_to_renew_is_heard_at_once(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer()
    await run_for(5, issuer, lambda renewal: renewal.renew_now())
    assert len(issuer.times) == 2
