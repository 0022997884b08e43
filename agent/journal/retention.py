"""How long records are kept: by age, and by the size of the file.

What the Observer has acknowledged goes after `keep_days`, and earlier where the file comes near
its limit. What it has not acknowledged stays; when that reaches the limit, the journal is full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from agent.journal.store import JournalStore

PRUNE_SECONDS: Final = 60.0
PRUNE_RECORDS: Final = 1_000  # in one turn: some milliseconds
FULL_AGAIN: Final = 0.95  # a full journal records again below this part of its limit
_DAY_NS: Final = 86_400 * 1_000_000_000


class Retention:
    """Looks at the file's size and lets old records go, a slice a turn.

    Args:
        max_bytes: limit of the file; above it acknowledged records go, oldest first.
        keep_days: how long acknowledged records are kept.
        await_acks: False: every record may go by age and size.
        wall: nanoseconds since 1970.

    Attributes:
        full: the limit is reached with records nobody has acknowledged: what to say of it.
    """

    def __init__(
        self,
        store: JournalStore,
        *,
        max_bytes: int,
        keep_days: int,
        await_acks: bool,
        wall: Callable[[], int],
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._keep_ns = keep_days * _DAY_NS
        self._await_acks = await_acks
        self._wall = wall
        self.full = ""
        self._time = float("-inf")
        self._unmeasured = max_bytes  # bytes written since the size was last looked at

    def grown(self, size: int) -> None:
        """So many bytes of records were written."""
        self._unmeasured += size

    def due(self, now: float) -> bool:
        """Whether it is time to look."""
        measure = self.full or self._unmeasured >= self._max_bytes // 64
        return bool(measure) or now - self._time >= PRUNE_SECONDS

    def prune(self) -> tuple[int, int]:
        """Let a slice go; gives bytes in use, and how many records went. Blocking; in the
        writer's thread.

        Raises:
            sqlite3.Error, OSError: it failed; nothing is lost by that.
        """
        prune = partial(self._store.prune, limit=PRUNE_RECORDS, acked_only=self._await_acks)
        removed = prune(before_ns=self._wall() - self._keep_ns)
        size = self._store.size()
        if not removed and size >= self._max_bytes * FULL_AGAIN:
            removed = prune(before_ns=None)
        return size, removed

    def pruned(self, size: int, removed: int, now: float) -> bool:
        """What `prune` gave. Tells whether `full` is another now; while records go, the next turn
        goes on."""
        if removed:
            return False
        self._time, self._unmeasured = now, 0
        if size >= self._max_bytes and not self.full:
            self.full = (
                f"the journal {self._store.path} holds journal.max_bytes of decisions that the"
                " Observer has not acknowledged; let the Observer be reached, or raise the limit"
            )
            return True
        if self.full and size < self._max_bytes * FULL_AGAIN:
            self.full = ""
            return True
        return False
