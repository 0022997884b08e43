"""How long the journal keeps records: what nobody has acknowledged fills it, and it recovers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.journal import Journal
from attestation.journal_format import BOOT_SPAN
from enforcement.recorder import RecordError
from tests.agent.journal.test_journal import record, running

DAY_NS = 86_400 * 10**9


def places(path: Path) -> list[int]:
    with closing(sqlite3.connect(path / "journal.sqlite")) as db:
        rows = db.execute("SELECT place FROM records ORDER BY place").fetchall()
    return [place % BOOT_SPAN for (place,) in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.02)


async def fill(journal: Journal) -> None:
    with trio.fail_after(60):
        while journal.healthy:
            for number in range(50):
                journal.append(record(number))
            await trio.sleep(1)


async def test_what_nobody_acknowledged_fills_it_and_an_acknowledgement_empties_it(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(path, max_bytes=200_000) as journal:
        await fill(journal)
        assert "journal.max_bytes" in journal.problem
        with pytest.raises(RecordError, match="Observer"):
            journal.append(record())
        journal.acknowledge(journal.boot_id, journal.durable_seq, journal.head)
        with trio.fail_after(60):
            while not journal.healthy:  # noqa: ASYNC110 - virtual time
                await trio.sleep(1)
        await journal.durable(journal.append(record()))


async def test_a_full_journal_lets_pass_and_counts_where_that_is_allowed(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(path, max_bytes=200_000, on_failure="allow") as journal:
        await fill(journal)
        last = journal.last_seq
        assert journal.append(record()) == last
        assert journal.unrecorded == 1
        await journal.durable(last)


async def test_without_an_observer_the_oldest_go_and_it_is_never_full(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(path, max_bytes=200_000, await_acks=False) as journal:
        for number in range(1_000):
            await journal.durable(journal.append(record(number)))
        assert journal.healthy
    kept = places(path)
    assert kept == list(range(kept[0], 1_001))
    assert kept[0] > 1


async def test_the_acknowledged_go_by_age_but_for_the_last(path: Path) -> None:
    now = [DAY_NS]
    async with running(path, keep_days=1, max_bytes=1_000_000, wall=lambda: now[0]) as journal:
        for number in range(100):
            journal.append(record(number))
        await journal.durable(100)
        ninetieth = journal.tail.read(journal.boot_id, 90, records=1, size=2**20)
        assert ninetieth is not None
        journal.acknowledge(journal.boot_id, 90, ninetieth.head)
        now[0] += 2 * DAY_NS
        for number in range(100, 200):  # enough for the writer to look at the file again
            await journal.durable(journal.append(record(number)))
    assert places(path) == list(range(90, 201))
