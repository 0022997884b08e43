"""One batch against what is stored, as a pure function: examples and properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import chain
from attestation.records import encode_record
from observer.batches import BatchFork, BatchGap, BatchInvalid, NewRecord, RawBatch, check_batch
from observer.boots import Position
from tests.observer.fake_agent import A_RECORD, FakeBoot

COUNT = 12


def make() -> FakeBoot:
    boot = FakeBoot(seed=bytes(32))
    boot.decide(COUNT)
    return boot


BOOT = make()


def judge(batch: RawBatch, stored: int) -> list[NewRecord]:
    """Check a batch while the first `stored` records are stored."""
    return check_batch(
        batch,
        Position(last_seq=stored, head=BOOT.heads[stored]),
        agent_id=BOOT.agent_id,
        genesis=BOOT.heads[0],
        known={seq: BOOT.heads[seq] for seq in range(1, stored + 1)},
    )


def raw(first: int, last: int, records: list[bytes] | None = None) -> RawBatch:
    """A batch that is sound in itself."""
    records = BOOT.records[first - 1 : last] if records is None else records
    previous = BOOT.heads[first - 1]
    return RawBatch(
        boot_id=BOOT.boot_id,
        first_seq=first,
        last_seq=last,
        previous_head=previous,
        head=chain.advance_all(previous, records),
        records=records,
    )


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int, int]:
    first = draw(st.integers(1, COUNT))
    return first, draw(st.integers(first, COUNT)), draw(st.integers(0, COUNT))


@given(spans())
@settings(max_examples=60, deadline=None)
def test_any_part_of_the_true_history_adds_exactly_what_is_missing(
    span: tuple[int, int, int],
) -> None:
    first, last, stored = span
    if first > stored + 1:
        with pytest.raises(BatchGap) as caught:
            judge(raw(first, last), stored)
        assert caught.value.want_seq == stored + 1
        return
    new = judge(raw(first, last), stored)
    assert [record.placed.seq for record in new] == list(range(max(first, stored + 1), last + 1))
    assert [record.data for record in new] == BOOT.records[max(first - 1, stored) : last]
    assert all(record.head == BOOT.heads[record.placed.seq] for record in new)


@given(spans(), st.data())
@settings(max_examples=80, deadline=None)
def test_one_changed_bit_is_never_taken(span: tuple[int, int, int], data: st.DataObject) -> None:
    """With the old head it is invalid; with a head to match, a fork, or a record that is not one,
    or (a new record of a boot that may write what it likes) another sound record."""
    first, last, stored = span
    if first > stored + 1:
        return
    records = BOOT.records[first - 1 : last]
    index = data.draw(st.integers(0, len(records) - 1))
    bit = data.draw(st.integers(0, len(records[index]) * 8 - 1))
    changed = bytearray(records[index])
    changed[bit // 8] ^= 1 << (bit % 8)
    records[index] = bytes(changed)
    honest = raw(first, last)
    with pytest.raises(BatchInvalid, match="do not hash"):
        judge(
            RawBatch(
                boot_id=honest.boot_id,
                first_seq=first,
                last_seq=last,
                previous_head=honest.previous_head,
                head=honest.head,
                records=records,
            ),
            stored,
        )
    seq = first + index
    if seq <= stored:
        with pytest.raises(BatchFork) as caught:
            judge(raw(first, last, records), stored)
        assert (caught.value.seq, caught.value.evidence) == (seq, bytes(changed))


@given(st.permutations(range(COUNT)))
@settings(max_examples=30, deadline=None)
def test_reordered_records_are_refused(order: list[int]) -> None:
    records = [BOOT.records[index] for index in order]
    if order == sorted(order):
        assert len(judge(raw(1, COUNT), 0)) == COUNT
        return
    with pytest.raises(BatchInvalid):
        judge(raw(1, COUNT, records), 0)


def test_a_chain_that_does_not_start_at_the_seed_is_refused() -> None:
    batch = RawBatch(
        boot_id=BOOT.boot_id,
        first_seq=1,
        last_seq=1,
        previous_head=bytes(32),
        head=chain.advance(bytes(32), BOOT.records[0]),
        records=BOOT.records[:1],
    )
    with pytest.raises(BatchInvalid, match="boot seed") as caught:
        judge(batch, 0)
    assert caught.value.code == "chain.genesis"


@pytest.mark.parametrize("wall_ns", [-1, 2**63])
def test_a_time_that_no_database_holds_is_refused(wall_ns: int) -> None:
    record = encode_record(
        A_RECORD, agent=BOOT.agent_id, boot=BOOT.boot_id, seq=1, wall_ns=wall_ns, boot_ns=0
    )
    with pytest.raises(BatchInvalid):
        judge(raw(1, 1, [record]), 0)
