"""The renewal has its quote before all challenges; challenges are bounded and told so."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from agent.api.api import Api
from agent.api.local_api import Request
from agent.attesting.attester import Issued
from agent.attesting.renewal import Renewal
from agent.life.lifecycle import Lifecycle
from agent.quotes.limit import BURST, PER_SECOND
from agent.quotes.line import OUTCOMES, Bounds, ChallengeRefusedError, QuoteLine
from tests.agent.attesting.test_renewal import LIFETIME, Issuer, clock
from tests.agent.daemons import daemon_inside, no_policy
from tests.panics import Panic

UNBOUNDED = Bounds(waiting=10_000, seconds=1e9, burst=1e9, per_second=1e9)


class Platform:
    """Makes one quote after another, each in so many seconds; knows if two ask at once."""

    def __init__(self, line: QuoteLine, seconds: float) -> None:
        self.line, self.seconds = line, seconds
        self.busy = False
        self.made = 0
        self.issuer = Issuer()

    async def quote(self) -> None:
        assert not self.busy, "one at a time"
        self.busy = True
        try:
            await trio.sleep(self.seconds)
        finally:
            self.busy = False
        self.made += 1

    async def issue(self) -> Issued:
        async with self.line.renewal():
            await self.quote()
            return await self.issuer()

    async def challenge(self) -> None:
        async with self.line.challenge():
            await self.quote()


def renewing(platform: Platform) -> Renewal:
    lifecycle = Lifecycle(clock=clock)
    lifecycle.begin()
    return Renewal(issue=platform.issue, lifecycle=lifecycle, clock=clock, rng=random.Random(7))


# -- the renewal keeps its time ------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 7.0, 55.0])
async def test_a_renewal_keeps_its_time_with_a_thousand_challenges_waiting(
    autojump_clock: MockClock, seconds: float
) -> None:
    line = QuoteLine(UNBOUNDED)
    platform = Platform(line, seconds)
    renewal = renewing(platform)

    async def again_and_again() -> None:
        while True:
            await platform.challenge()

    least = 1000
    with trio.move_on_after(LIFETIME * 6):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            for _ in range(1000):
                nursery.start_soon(again_and_again)
            while True:
                await trio.sleep(LIFETIME / 10)
                least = min(least, line.waiting)
                assert renewal.valid or renewal.current is None
    times = platform.issuer.times
    gaps = [after - before for before, after in pairwise(times)]
    assert least >= 998, "all but the one whose quote is made, and one that the renewal is before"
    assert len(gaps) >= 9
    # Half a life ± 10 %, the look of the sleeping clock, the quote under way, and its own.
    assert max(gaps) <= LIFETIME * 0.55 + 2 + 2 * seconds
    assert platform.made > len(times) * 3, "challenges are answered between renewals"


async def test_a_flood_within_the_bounds_neither_delays_a_renewal_nor_uses_up_the_quotes(
    autojump_clock: MockClock,
) -> None:
    line = QuoteLine()
    platform = Platform(line, 5.0)  # a slow TDX guest
    renewal = renewing(platform)
    retries: set[float] = set()

    async def flood() -> None:
        while True:
            try:
                await platform.challenge()
            except ChallengeRefusedError as error:
                retries.add(error.retry_seconds)
                await trio.sleep(5.0)

    with trio.move_on_after(LIFETIME * 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            for _ in range(100):
                nursery.start_soon(flood)
            while True:
                await trio.sleep(3.7)
                assert line.waiting <= Bounds().waiting
                assert renewal.valid or renewal.current is None
    times = platform.issuer.times
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) <= LIFETIME * 0.55 + 2 + 2 * 5.0
    assert min(retries) > 0
    assert max(retries) <= 30
    assert {outcome for (outcome,), count in line.outcomes.items() if count} == {
        *("answered", "full", "late", "limited")
    }


async def test_the_rate_leaves_the_renewal_half_of_what_the_helper_gives(
    autojump_clock: MockClock,
) -> None:
    assert Bounds().burst <= BURST / 2
    assert Bounds().per_second <= PER_SECOND / 2
    line = QuoteLine()
    answered, refusals = 0, set()
    with trio.move_on_after(100):
        while True:
            try:
                async with line.challenge():
                    await trio.sleep(0.001)
                answered += 1
            except ChallengeRefusedError as error:
                refusals.add(error.outcome)
                await trio.sleep(0.01)
    assert refusals == {"limited"}
    assert 55 <= answered <= Bounds().burst + 100 * Bounds().per_second


# -- order, and who leaves early -----------------------------------------------------------------


async def test_challenges_have_their_turns_as_they_came_and_renewals_before_them(
    autojump_clock: MockClock,
) -> None:
    line = QuoteLine(UNBOUNDED)
    order: list[str] = []

    async def one(name: str) -> None:
        async with line.renewal() if name.startswith("r") else line.challenge():
            order.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for name in ("c1", "c2", "c3", "r1", "c4", "r2"):
            nursery.start_soon(one, name)
            await wait_all_tasks_blocked()
        assert line.waiting == 3
    assert order == ["c1", "r1", "r2", "c2", "c3", "c4"]
    assert line.waiting == 0


async def test_whoever_is_cancelled_while_waiting_takes_no_turn_with_him(
    autojump_clock: MockClock,
) -> None:
    line = QuoteLine(UNBOUNDED)
    scopes = []

    async def one() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            async with line.challenge():
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(one)
        await wait_all_tasks_blocked()
        scopes[0].cancel()  # has the turn
        scopes[1].cancel()  # is the next
        scopes[3].cancel()
    async with line.renewal():
        assert line.waiting == 0
    assert line.outcomes["answered",] == 3


async def test_a_caller_that_is_cancelled_before_it_comes_leaves_the_turn_free() -> None:
    line = QuoteLine(UNBOUNDED)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with line.renewal():
            raise AssertionError("cancelled")
    with trio.fail_after(1):
        async with line.renewal():
            pass


async def test_the_turn_is_free_after_a_failure() -> None:
    line = QuoteLine(UNBOUNDED)
    for error in (ValueError("no"), KeyError("no"), Panic("no")):
        with pytest.raises(type(error), match="no"):
            async with line.challenge():
                raise error
    assert line.outcomes["failed",] == 3
    with trio.fail_after(1):
        async with line.renewal():
            pass


async def test_a_challenge_that_waits_too_long_is_refused_and_the_next_has_its_turn(
    autojump_clock: MockClock,
) -> None:
    line = QuoteLine(Bounds(seconds=10))
    done = []

    async def one() -> None:
        async with line.challenge():
            done.append(trio.current_time())

    async with line.renewal():
        async with trio.open_nursery() as nursery:
            began = trio.current_time()

            async def late() -> None:
                with pytest.raises(ChallengeRefusedError) as caught:
                    await one()
                assert caught.value.outcome == "late"
                assert trio.current_time() - began == pytest.approx(10)

            nursery.start_soon(late)
            nursery.start_soon(late)
        assert line.waiting == 0
    await one()
    assert line.outcomes == {(outcome,): 0 for outcome in OUTCOMES} | {
        ("late",): 2,
        ("answered",): 1,
    }


# -- the local API -------------------------------------------------------------------------------


async def test_a_flood_on_the_local_api_is_refused_at_once_and_told_when_to_come_again(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        answers: list[tuple[int, str, str]] = []
        api = Api(daemon.parts, daemon.parts.in_force.challenge, no_policy, no_policy)

        async def challenge(number: int) -> None:
            body = json.dumps({"nonce": f"{number:032x}"}).encode()
            answer = await api(Request(method="POST", path="/v1/passport", body=body))
            code = "" if answer.status == 200 else json.loads(answer.body)["error"]["code"]
            answers.append((answer.status, code, dict(answer.headers).get("retry-after", "")))

        renewals = daemon.parts.renewal.renewals
        async with trio.open_nursery() as nursery:
            async with daemon.parts.quote_line.renewal():
                for number in range(1000):
                    nursery.start_soon(challenge, number)
                await inside.until(lambda: len(answers) == 990)
                assert set(answers) == {(429, "challenges_limited", "2")}
                assert inside.api("/readyz")[0] == 200
                assert "lucid_challenges_waiting 10.0" in inside.api("/metrics")[1]
                daemon.parts.renewal.renew_now("test")
                await wait_all_tasks_blocked(0.05)
            await inside.until(lambda: len(answers) > 990)
            assert daemon.parts.renewal.renewals > renewals, "the renewal was before them"
        assert [status for status, _, _ in answers].count(200) == 10
        metrics = inside.api("/metrics")[1]
        assert 'lucid_challenges_total{outcome="answered"} 10' in metrics
        assert 'lucid_challenges_total{outcome="limited"} 990' in metrics
