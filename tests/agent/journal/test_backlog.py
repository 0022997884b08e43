"""What waits for the journal's next transaction: given again until it is durable, and once only."""

from __future__ import annotations

from agent.journal.backlog import BATCH_LIMIT, Backlog
from agent.journal.turn import Mark, Row

BOOT = b"b" * 16


def rows(first: int, count: int) -> list[Row]:
    return [(place, 0, bytes(32), b"record") for place in range(first, first + count)]


def test_a_turn_that_did_not_commit_is_given_again_without_what_came_since() -> None:
    backlog = Backlog()
    backlog.queue.extend(rows(1, 3))
    assert list(backlog.take().rows) == rows(1, 3)
    backlog.queue.extend(rows(4, 2))
    again = backlog.take()
    assert list(again.rows) == rows(1, 3)
    assert len(backlog) == 5
    backlog.written(again)
    assert list(backlog.take().rows) == rows(4, 2)


def test_a_turn_has_a_limit() -> None:
    backlog = Backlog()
    backlog.queue.extend(rows(1, BATCH_LIMIT + 1))
    turn = backlog.take()
    assert len(turn.rows) == BATCH_LIMIT
    backlog.written(turn)
    assert list(backlog.take().rows) == rows(BATCH_LIMIT + 1, 1)


def test_what_is_told_during_a_commit_goes_with_the_next() -> None:
    backlog = Backlog()
    backlog.acknowledge(BOOT, Mark(seq=1, head=b"1"))
    backlog.checkpoint_delivered(BOOT, 1)
    backlog.passport, backlog.unrecorded = b"old", 2
    turn = backlog.take()
    backlog.acknowledge(BOOT, Mark(seq=2, head=b"2"))
    backlog.checkpoint_delivered(BOOT, 2)
    backlog.passport, backlog.unrecorded = b"new", 5
    backlog.written(turn)
    left = backlog.take()
    assert left.acknowledged == {BOOT: Mark(seq=2, head=b"2")}
    assert left.signed == {BOOT: 2}
    assert (left.passport, left.unrecorded) == (b"new", 3)


def test_what_was_written_is_not_written_again() -> None:
    backlog = Backlog()
    backlog.queue.extend(rows(1, 1))
    backlog.acknowledge(BOOT, Mark(seq=1, head=b"1"))
    backlog.checkpoint_delivered(BOOT, 1)
    backlog.passport, backlog.unrecorded = b"passport", 1
    backlog.written(backlog.take())
    assert not backlog.take()


def test_an_older_acknowledgement_changes_nothing() -> None:
    backlog = Backlog()
    backlog.acknowledge(BOOT, Mark(seq=7, head=b"7"))
    backlog.acknowledge(BOOT, Mark(seq=3, head=b"3"))
    backlog.checkpoint_delivered(BOOT, 7)
    backlog.checkpoint_delivered(BOOT, 3)
    turn = backlog.take()
    assert turn.acknowledged[BOOT].seq == 7
    assert turn.signed[BOOT] == 7
