"""The newest durable records, kept in memory: what the stream sends nearly always.

To read them back from the file would take a thread, and a hand-over of the interpreter for every
row, beside a busy event loop. What is no longer here is in the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from agent.journal.reader import Segment

TAIL_RECORDS: Final = 4_096
TAIL_BYTES: Final = 8 * 1024 * 1024


class Tail:
    """Consecutive records of one boot, ending at the last durable one.

    Args:
        boot_id: the boot.
        head: the chain's head before the first record.
    """

    def __init__(
        self,
        boot_id: bytes,
        head: bytes,
        *,
        records: int = TAIL_RECORDS,
        size: int = TAIL_BYTES,
    ) -> None:
        self._boot_id = boot_id
        self._limit, self._size_limit = records, size
        self._kept: deque[tuple[bytes, bytes]] = deque()  # head after the record, the record
        self._size = 0
        self._last_seq = 0
        self._before = head  # the head before the oldest record here

    def extend(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Add what became durable: (head after the record, record), in the chain's order."""
        kept = self._kept
        kept.extend(rows)
        self._last_seq += len(rows)
        self._size += sum([len(row[1]) for row in rows])
        while len(kept) > self._limit or self._size > self._size_limit:
            self._before, record = kept.popleft()
            self._size -= len(record)

    def read(self, boot_id: bytes, first_seq: int, *, records: int, size: int) -> Segment | None:
        """Like `JournalReader.read`; None also where it is not (or no longer) here."""
        kept = self._kept
        place = first_seq - (self._last_seq - len(kept) + 1)
        if boot_id != self._boot_id or not 0 <= place < len(kept):
            return None
        previous = kept[place - 1][0] if place else self._before
        rows = islice(kept, place, place + records)
        return Segment.of(boot_id, first_seq, previous, rows, size=size)
