"""What waits for the journal's next transactions. No I/O; used on the trio thread.

A turn that was taken and did not commit is given again, as it is, until it commits: a place in the
chain is never given twice.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from agent.journal.turn import Mark, Row, Turn

BATCH_LIMIT: Final = 4_096  # decisions in one commit


class Backlog:
    """Records in the order of their places, and what else is to be kept.

    Attributes:
        queue: the records that no turn has taken yet.
        passport: the newest one, until it is written.
        unrecorded: decisions of this boot that were let pass without a record.
    """

    def __init__(self) -> None:
        self.queue: deque[Row] = deque()
        self.passport: bytes | None = None
        self.unrecorded = 0
        self._batch: list[Row] = []
        self._acknowledged: dict[bytes, Mark] = {}
        self._signed: dict[bytes, int] = {}
        self._counted = 0  # of `unrecorded`: what the file knows

    def __len__(self) -> int:
        """Records that are not written."""
        return len(self.queue) + len(self._batch)

    def acknowledge(self, boot_id: bytes, mark: Mark) -> None:
        """The Observer has committed a boot up to here."""
        known = self._acknowledged.get(boot_id)
        if known is None or known.seq < mark.seq:
            self._acknowledged[boot_id] = mark

    def checkpoint_delivered(self, boot_id: bytes, seq: int) -> None:
        """The Observer has the checkpoint of a boot at `seq`."""
        self._signed[boot_id] = max(self._signed.get(boot_id, 0), seq)

    def take(self) -> Turn:
        """What the next transaction writes: the records of the last one, if it did not commit."""
        if not self._batch:
            count = min(len(self.queue), BATCH_LIMIT)
            self._batch = [self.queue.popleft() for _ in range(count)]
        return Turn(
            rows=self._batch,
            acknowledged=dict(self._acknowledged),
            signed=dict(self._signed),
            passport=self.passport,
            unrecorded=self.unrecorded - self._counted,
        )

    def written(self, turn: Turn) -> None:
        """The turn that was taken last is durable; what has come since stays."""
        self._batch = []
        for boot_id, mark in turn.acknowledged.items():
            if self._acknowledged[boot_id] == mark:
                del self._acknowledged[boot_id]
        for boot_id, signed in turn.signed.items():
            if self._signed[boot_id] == signed:
                del self._signed[boot_id]
        if self.passport is turn.passport:
            self.passport = None
        self._counted += turn.unrecorded
