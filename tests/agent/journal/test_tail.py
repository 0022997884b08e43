"""The newest records in memory say what the file would say, or nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.journal.tail import Tail

BOOT, START = b"b" * 16, b"head 0"


def rows(first: int, last: int) -> list[tuple[bytes, bytes]]:
    return [(b"head %d" % seq, b"record %d" % seq) for seq in range(first, last + 1)]


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 5), st.data())
def test_what_it_gives_is_consecutive_and_its_heads_fit(
    commits: list[int], kept: int, data: st.DataObject
) -> None:
    tail, last = Tail(BOOT, START, records=kept), 0
    for size in commits:
        tail.extend(rows(last + 1, last + size))
        last += size
    first = data.draw(st.integers(0, last + 2))
    segment = tail.read(BOOT, first, records=3, size=10_000)
    oldest = max(last - kept, 0) + 1
    if not oldest <= first <= last:
        assert segment is None
        return
    assert segment is not None
    through = min(first + 2, last)
    assert (segment.first_seq, segment.last_seq) == (first, through)
    assert segment.previous_head == b"head %d" % (first - 1)
    assert segment.head == b"head %d" % through
    assert list(segment.records) == [record for _, record in rows(first, through)]


def test_another_boot_is_not_here() -> None:
    tail = Tail(BOOT, START)
    tail.extend(rows(1, 3))
    assert tail.read(b"x" * 16, 1, records=9, size=99) is None


def test_memory_and_messages_are_bounded_but_one_record_always_goes() -> None:
    tail = Tail(BOOT, START, size=20)
    tail.extend(rows(1, 3))  # 8 bytes each: two fit
    assert tail.read(BOOT, 1, records=9, size=99) is None
    segment = tail.read(BOOT, 2, records=9, size=1)
    assert segment is not None
    assert segment.records == (b"record 2",)
    assert segment.previous_head == b"head 1"
