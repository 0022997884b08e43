"""Quotes off the event loop: one request at a time, a deadline, and counts that miss nothing."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from agent.quotes.quoting import Quotes
from attestation.configfs_tsm import fetch_quote
from attestation.errors import QuoteError
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor
from tests.attestation.tsm_semantics import DATA, REPORT_DATA

SECONDS = 30.0


@pytest.fixture
def tree(simulated_vendor: SimulatedVendor) -> SimulatedTree:
    return SimulatedTree(simulated_vendor)


class Host:
    """Answers only when it is told to; counts who waits for it."""

    def __init__(self, tree: SimulatedTree) -> None:
        self.asked, self.answers = threading.Semaphore(0), threading.Semaphore(0)
        self.waiting = self.most = 0
        self._lock = threading.Lock()
        tree.faults.before_read = self._before

    def _before(self, _entry: str, attribute: str) -> None:
        if attribute != "outblob":
            return
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        self.asked.release()
        assert self.answers.acquire(timeout=SECONDS)
        with self._lock:
            self.waiting -= 1


@pytest.fixture
def host(tree: SimulatedTree) -> Iterator[Host]:
    made = Host(tree)
    yield made
    made.answers.release(100)  # no thread is left waiting


async def ended(quotes: Quotes) -> None:
    """Wait until the abandoned thread has ended."""
    with trio.fail_after(SECONDS):
        async with quotes._place:
            pass


async def test_a_quote_is_counted_and_timed(tree: SimulatedTree) -> None:
    took: list[float] = []
    quotes = Quotes(partial(fetch_quote, tree), seconds=SECONDS, took=took.append)
    assert (await quotes.fetch(DATA)).outblob[REPORT_DATA] == DATA
    assert (quotes.fetched, len(took), quotes.failures) == (1, 1, {})
    assert took[0] > 0
    assert quotes.waiting_seconds == 0


async def test_every_failed_transaction_is_counted_by_what_the_kernel_said(
    tree: SimulatedTree,
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=SECONDS)
    tree.faults.errors["outblob"] = deque([errno.EBUSY, errno.ETIMEDOUT])
    tree.faults.empty = 1
    await quotes.fetch(DATA)
    tree.faults.errors["outblob"] = deque([errno.ENOTTY])
    with pytest.raises(QuoteError, match="disabled"):
        await quotes.fetch(DATA)
    assert quotes.fetched == 1
    assert quotes.failures == {
        ("quote.busy", "EBUSY"): 1,
        ("quote.busy", "ETIMEDOUT"): 1,
        ("quote.empty", "none"): 1,
        ("quote.key_disabled", "ENOTTY"): 1,
    }


async def test_a_dead_key_is_asked_no_more_by_whoever_waits_or_comes(tree: SimulatedTree) -> None:
    asked: list[str] = []
    tree.faults.before_read = lambda _entry, attribute: asked.append(attribute)
    tree.faults.errors["outblob"] = deque([errno.EBUSY, errno.ENOTTY])  # then it would answer again
    quotes = Quotes(partial(fetch_quote, tree), seconds=SECONDS)
    errors: list[QuoteError] = []

    async def ask() -> None:
        with pytest.raises(QuoteError, match="disabled") as caught:
            await quotes.fetch(DATA)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    await ask()
    assert asked.count("outblob") == 2
    assert quotes.failures == {("quote.busy", "EBUSY"): 1, ("quote.key_disabled", "ENOTTY"): 1}
    assert len({id(error) for error in errors}) == 6, "each caller has an error of its own"
    for error in errors:
        assert (error.code, error.final, error.errno) == ("quote.key_disabled", True, errno.ENOTTY)
        assert "reboot" in error.remedy
    assert quotes.dead is not None
    assert quotes.dead.needs_reboot


async def test_a_dead_key_is_known_though_nobody_waited_for_the_answer(
    tree: SimulatedTree, host: Host
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=0.05)
    tree.faults.errors["outblob"] = deque([errno.ENOTTY])
    with pytest.raises(QuoteError, match="no quote within"):
        await quotes.fetch(DATA)
    host.answers.release(1)
    await ended(quotes)
    assert quotes.dead is not None


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENXIO, errno.EIO])
async def test_what_somebody_may_mend_is_asked_again(tree: SimulatedTree, number: int) -> None:
    quotes = Quotes(partial(fetch_quote, tree, attempts=1), seconds=SECONDS)
    tree.faults.errors["outblob"] = deque([number])
    with pytest.raises(QuoteError):
        await quotes.fetch(DATA)
    assert quotes.dead is None
    assert (await quotes.fetch(DATA)).outblob[REPORT_DATA] == DATA


async def test_requests_of_many_tasks_reach_the_platform_one_by_one(
    tree: SimulatedTree, host: Host
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=SECONDS)
    host.answers.release(8)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(quotes.fetch, DATA)
    assert host.most == 1
    assert quotes.fetched == 8


async def test_a_host_that_does_not_answer_costs_a_deadline_and_one_thread(
    tree: SimulatedTree, host: Host
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=0.05)
    before = threading.active_count()
    for tries in range(1, 6):
        with pytest.raises(QuoteError) as caught:
            await quotes.fetch(DATA)
        assert (caught.value.code, caught.value.final) == ("quote.timeout", False)
        assert quotes.failures == {("quote.timeout", "none"): tries}
        assert threading.active_count() <= before + 1
    assert "the kernel has had a request of ours" in str(caught.value)
    assert host.most == 1
    assert quotes.waiting_seconds > 0


async def test_after_a_late_answer_the_next_request_is_served(
    tree: SimulatedTree, host: Host
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=0.05)
    with pytest.raises(QuoteError):
        await quotes.fetch(DATA)
    host.answers.release(2)
    await ended(quotes)
    quotes._seconds = SECONDS
    assert (await quotes.fetch(DATA)).outblob[REPORT_DATA] == DATA
    assert tree.entries() == []


async def test_nobody_is_asked_again_for_a_caller_that_has_gone(
    tree: SimulatedTree, host: Host
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=0.05)
    tree.faults.errors["outblob"] = deque([errno.EBUSY] * 9)
    with pytest.raises(QuoteError, match="no quote within"):
        await quotes.fetch(DATA)
    host.answers.release(9)
    await ended(quotes)
    assert len(tree.faults.errors["outblob"]) == 8  # one try, no second one
    assert tree.entries() == []


async def test_a_cancelled_caller_does_not_wait_for_the_kernel(
    tree: SimulatedTree, host: Host
) -> None:
    quotes = Quotes(partial(fetch_quote, tree), seconds=SECONDS)
    with trio.move_on_after(0.05) as scope:
        await quotes.fetch(DATA)
    assert scope.cancelled_caught
    assert quotes.failures == {}  # not the platform's failure
