"""The stream's supervision: nothing but a cancellation ends it, and what it says is true."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from agent.life.lifecycle import Trouble
from agent.life.supervise import Faults, keep_alive, place_of
from agent.stream.protocol import StreamClosedError
from agent.stream.status import Target
from agent.stream.stream import AWAY_SECONDS, LONGEST_RETRY_SECONDS, STEADY_SECONDS, ObserverStream
from tests.agent.life.soaking import JournalStub
from tests.panics import Panic

Step = Callable[["Scripted"], Awaitable[None]]


class Scripted(ObserverStream):
    """Streams as a test wants them; the last step stays."""

    def __init__(self, *steps: Step) -> None:
        self.faults = Faults()
        super().__init__(
            JournalStub(),  # type: ignore[arg-type]  # all that is asked of it
            target=Target(address="nowhere"),
            agent_id="test",
            version="0",
            key=_KEY,
            passport=lambda: b"x",
            state=lambda: "",
            faults=self.faults,
            rng=random.Random(3),
        )
        self.steps = list(steps)
        self.times: list[float] = []

    async def _stream(self) -> None:
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        await (self.steps.pop(0) if len(self.steps) > 1 else self.steps[0])(self)


_KEY: Final = ec.generate_private_key(ec.SECP256R1())


def fails(error: BaseException) -> Step:
    async def step(stream: Scripted) -> None:
        raise error

    return step


async def lives(stream: Scripted) -> None:
    stream.status.connected_now(trio.current_time())
    await trio.sleep_forever()


def lives_for(seconds: float) -> Step:
    async def step(stream: Scripted) -> None:
        stream.status.connected_now(trio.current_time())
        await trio.sleep(seconds)
        stream.problem("the Observer is away")

    return step


async def run_for(seconds: float, *steps: Step) -> Scripted:
    stream = Scripted(*steps)
    with trio.move_on_after(seconds):
        await stream.run()
    return stream


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("secret text"),
        KeyError("secret text"),
        ExceptionGroup("g", [ValueError("x"), TypeError("secret text")]),
        MemoryError(),
        AssertionError("secret text"),
        Panic("secret text"),
        BaseExceptionGroup("g", [Panic("secret text")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_fault_of_the_stream_ends_the_daemon(
    autojump_clock: trio.testing.MockClock, error: BaseException
) -> None:
    stream = await run_for(900, fails(error))
    gaps = [b - a for a, b in itertools.pairwise(stream.times)]
    assert len(gaps) >= 10, "it is tried again and again"
    assert max(gaps) <= LONGEST_RETRY_SECONDS
    assert min(gaps[3:]) >= 2, "and ever more seldom"
    assert stream.faults.counts == {("stream",): len(stream.times)}
    assert "a fault of the agent itself" in stream.status.problem
    assert "secret text" not in stream.status.problem
    assert not stream.status.connected


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(2, "No such file", "ca.pem"), "cannot connect: [Errno 2] No such file: 'ca.pem'"),
        (ValueError("bad address"), "cannot connect: bad address"),
        (sqlite3.OperationalError("disk I/O error"), "the journal cannot be read: disk I/O error"),
    ],
)
async def test_what_is_expected_to_fail_is_named_and_no_fault(
    autojump_clock: trio.testing.MockClock, error: Exception, words: str
) -> None:
    stream = await run_for(60, fails(error))
    assert stream.status.problem == words
    assert stream.faults.counts == {}


async def test_an_observer_that_stays_away_is_a_concern_and_one_that_restarts_is_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    away = fails(ConnectionRefusedError("refused"))
    stream = Scripted(lives_for(60), away, away, lives_for(60), away)
    seen: list[tuple[float, Trouble | None]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        for _ in range(400):
            seen.append((trio.current_time(), stream.trouble()))
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    first = next(at for at, trouble in seen if trouble is not None)
    ended = stream.status.away_since
    assert ended > 120, "two streams lived before"
    assert AWAY_SECONDS <= first - ended <= AWAY_SECONDS + 1
    last = seen[-1][1]
    assert last is not None
    assert last.code == "observer.away"
    assert "is tried again in" in last.next


async def test_a_refusal_is_a_concern_at_once_and_until_a_stream_is_steady(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refused = fails(StreamClosedError("untrusted", "unknown agent", alarm=True))
    stream = Scripted(refused, lives)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        await trio.sleep(1)
        trouble = stream.trouble()
        assert trouble is not None
        assert (trouble.code, trouble.reason) == ("observer.untrusted", "unknown agent")
        assert stream.status.alarms == 1
        while not stream.status.connected:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.1)
        assert stream.trouble() is not None, "it may be refused again at once"
        await trio.sleep(STEADY_SECONDS)
        assert stream.trouble() is None
        nursery.cancel_scope.cancel()


async def test_the_observer_says_when_it_wants_to_be_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wait = fails(StreamClosedError("retry_after", "busy", alarm=False, retry_after=37))
    stream = await run_for(100, wait)
    assert [round(b - a) for a, b in itertools.pairwise(stream.times)] == [37, 37]
    assert stream.status.alarms == 0


async def test_a_stream_that_was_steady_begins_the_back_off_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    away = fails(ConnectionRefusedError("refused"))
    stream = await run_for(400, away, away, away, away, away, lives_for(100), away)
    gaps = [b - a for a, b in itertools.pairwise(stream.times)]
    assert gaps[4] > 3
    assert gaps[5] - 100 < 1


async def test_a_cancellation_ends_it_even_with_a_fault_at_the_same_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def both(stream: Scripted) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("while it was cancelled")

    stream = Scripted(both)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()


# -- the end ---------------------------------------------------------------------------------------


async def ended(stream: Scripted, *, after: float, within: float = 10) -> float:
    """The seconds that a stop takes which comes after so many."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        await trio.sleep(after)
        began = trio.current_time()
        stream.times.clear()
        with trio.move_on_after(within):
            await stream.delivered()
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return took


async def refuses(stream: Scripted) -> None:
    stream.status.connected_now(trio.current_time())
    raise StreamClosedError("untrusted", "no", alarm=True)


@pytest.mark.parametrize(
    ("step", "lag", "passport"),
    [
        (fails(ConnectionRefusedError()), 0, b"x"),
        (fails(Panic()), 0, b"x"),
        (refuses, 7, b"x"),
        (lives, 7, None),
    ],
    ids=["nothing is left", "nothing is left, faults", "it is refused", "nothing to show"],
)
async def test_the_end_comes_at_once_where_a_try_delivers_nothing(
    autojump_clock: trio.testing.MockClock, step: Step, lag: int, passport: bytes | None
) -> None:
    stream = Scripted(step)
    stream.status.older = lag
    stream.passport = lambda: passport
    assert await ended(stream, after=1000) == 0
    assert stream.times == []


async def test_what_is_left_is_tried_at_once_and_again_until_the_time_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = Scripted(fails(ConnectionRefusedError("refused")))
    stream.status.older = 7
    assert await ended(stream, after=1000) == 10
    assert len(stream.times) >= 4, "whatever the back-off was"
    assert stream.times[0] == 1000
    trouble = stream.trouble()
    assert trouble is not None
    assert "the 7 decisions that are not delivered stay in the journal" in trouble.next
    assert "the next start delivers them" in trouble.next


async def test_an_observer_that_comes_back_in_time_is_delivered_to(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def takes(stream: Scripted) -> None:
        await trio.sleep(0.1)
        stream.status.older = 0
        stream.finished.set()

    away = fails(ConnectionRefusedError("refused"))
    stream = Scripted(*[away] * 12, takes)
    stream.status.older = 7
    assert 0 < await ended(stream, after=200) < 10
    assert stream.status.lag == 0


async def test_an_observer_that_goes_when_nothing_is_left_keeps_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await ended(Scripted(lives_for(101), lives), after=100) == 1


# -- the same for other tasks --------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KeyError("x"), Panic("x"), BaseExceptionGroup("g", [Panic("x"), KeyError("x")])]
)
async def test_a_task_is_kept_alive_with_a_bounded_back_off(
    autojump_clock: trio.testing.MockClock, error: BaseException
) -> None:
    faults, times = Faults(), []

    async def task() -> None:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise error

    with trio.move_on_after(1000):
        await keep_alive("pulse", task, faults, rng=random.Random(1))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= 60
    assert len(times) > 15
    assert faults.counts == {("pulse",): len(times)}


async def test_a_task_that_returns_is_not_begun_again() -> None:
    ran = []

    async def task() -> None:
        await trio.lowlevel.checkpoint()
        ran.append(1)

    await keep_alive("x", task, Faults(), rng=random.Random(1))
    assert ran == [1]


def test_a_place_is_a_file_and_a_line_and_no_text() -> None:
    never = ExceptionGroup("secret", [ValueError("secret")])
    assert place_of(never) == "nowhere", "it was never raised"
    with pytest.raises(ValueError, match="secret") as caught:
        int("secret")
    assert place_of(caught.value).startswith("test_stream.py:")
