"""The journal: every decision gets a place at once and becomes durable with its group.

`append` only takes the next sequence number and puts the decision into a queue: no I/O, no thread
hand-over. One task takes whatever has gathered, and one thread encodes, hashes and commits it;
everything that arrives during a commit is the next commit. So a decision waits for at most two
commits, and the cost of one is shared by all that wait.

When a commit fails, the batch is kept and tried again, whole, until it commits: places in the chain
are never given twice. Those who waited are told (`RecordError`) and refuse; so the journal may hold
a decision `proceed` whose client got a 503. That errs on the safe side: what a client saw is always
on record.

With `on_failure = "allow"` the doors are not told. A decision that finds the queue full is then
lost; `unrecorded` counts it, and nothing else in this module loses anything.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.boottime import boot_ns, wall_ns
from agent.journal_store import JournalError, JournalStore, Waiting
from attestation.checkpoint import sign_checkpoint
from attestation.records import DecisionRecord
from enforcement.recorder import RecordError

__all__ = ["Journal", "JournalError"]

QUEUE_LIMIT: Final = 65_536  # decisions; about 100 MB of them (a guess)
BATCH_LIMIT: Final = 4_096  # decisions in one commit
CHECKPOINT_RECORDS: Final = 1_000
CHECKPOINT_SECONDS: Final = 1.0
PRUNE_SECONDS: Final = 60.0
FIRST_RETRY_SECONDS: Final = 0.1
LONGEST_RETRY_SECONDS: Final = 5.0
_DAY_NS: Final = 86_400 * 1_000_000_000
_LOG = logs.get("journal")

T = TypeVar("T")


class Journal:
    """Satisfies `enforcement.recorder.Recorder`. All methods are called on the trio thread."""

    def __init__(
        self,
        store: JournalStore,
        *,
        on_failure: Literal["deny", "allow"],
        max_bytes: int,
        keep_days: int,
        wall: Callable[[], int] = wall_ns,
        boot: Callable[[], int] = boot_ns,
    ) -> None:
        self._store = store
        self._on_failure = on_failure
        self._max_bytes = max_bytes
        self._keep_ns = keep_days * _DAY_NS
        self._wall, self._boot = wall, boot
        self._queue: deque[Waiting] = deque()
        self._batch: list[Waiting] = []
        self._work = trio.Event()
        self._durable = trio.lowlevel.ParkingLot()
        self._one_thread = trio.CapacityLimiter(1)
        self._signer: ec.EllipticCurvePrivateKey | None = None
        self._passport: bytes | None = None
        self._checkpoint_seq = 0
        self._checkpoint_time = -CHECKPOINT_SECONDS
        self._prune_time = 0.0
        self._listeners: set[Callable[[], None]] = set()
        self._full = False
        self.boot_id = store.boot_id
        self.epoch = store.epoch
        self.path = store.path
        self.head = store.head
        self.last_seq = 0
        self.durable_seq = 0
        self.commits = 0
        self.unrecorded = 0
        self.problem = ""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        agent_id: str,
        boot_seed: bytes,
        on_failure: Literal["deny", "allow"] = "deny",
        max_bytes: int = 10 * 1024**3,
        keep_days: int = 30,
    ) -> Self:
        """Open the file, verify the chains in it, and begin a boot. Blocking.

        Raises:
            JournalError: unusable, or changed by somebody.
        """
        store = JournalStore(path, agent_id=agent_id, boot_seed=boot_seed, started_ns=wall_ns())
        return cls(store, on_failure=on_failure, max_bytes=max_bytes, keep_days=keep_days)

    # -- the doors' side --------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether decisions can be recorded now."""
        return not self.problem

    def append(self, record: DecisionRecord) -> int:
        """Give a decision its place. See `Recorder.append`."""
        if len(self._queue) >= QUEUE_LIMIT or self.problem:
            if self._on_failure == "deny":
                raise RecordError(self.problem or "too many decisions wait for the disk")
            if len(self._queue) >= QUEUE_LIMIT:
                self.unrecorded += 1
                return self.last_seq
        self.last_seq += 1
        self._queue.append(
            Waiting(seq=self.last_seq, wall_ns=self._wall(), boot_ns=self._boot(), record=record)
        )
        if len(self._queue) == 1:
            self._work.set()
        return self.last_seq

    async def durable(self, seq: int) -> None:
        """Wait for the commit that holds `seq`. See `Recorder.durable`."""
        while self.durable_seq < seq:
            if self.problem:
                if self._on_failure == "allow":
                    return
                raise RecordError(self.problem)
            await self._durable.park()

    # -- the writer -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The writer: until cancelled. One owner, one thread at a time."""
        task_status.started()
        while True:
            if not self._queue and not self._batch:
                with trio.move_on_after(CHECKPOINT_SECONDS):
                    await self._work.wait()
            else:
                # One turn of the loop, so that decisions made in the same tick share the commit.
                await trio.lowlevel.checkpoint()
            self._work = trio.Event()
            await self._commit_waiting()
            await self._look_after()

    async def _commit_waiting(self) -> None:
        retry = FIRST_RETRY_SECONDS
        while self._queue or self._batch:
            if not self._batch:
                count = min(len(self._queue), BATCH_LIMIT)
                self._batch = [self._queue.popleft() for _ in range(count)]
            try:
                head = await self._in_thread(lambda: self._store.commit(self._batch))
            except (sqlite3.Error, OSError) as error:
                self._fail(f"the journal {self.path} cannot be written: {error}")
                await trio.sleep(retry)
                retry = min(retry * 2, LONGEST_RETRY_SECONDS)
                continue
            self.head, self.durable_seq = head, self._batch[-1].seq
            self.commits += 1
            self._batch = []
            self._recover()
            self._durable.unpark_all()
            self.announce()

    def _fail(self, problem: str) -> None:
        if not self.problem:
            _LOG.error("journal.failed", error=problem, on_failure=self._on_failure)
        self.problem = problem
        self._durable.unpark_all()

    def _recover(self) -> None:
        if self.problem and not self._full:
            _LOG.info("journal.recovered", durable_seq=self.durable_seq)
            self.problem = ""

    async def _look_after(self) -> None:
        """Checkpoint and prune when it is time; neither may end the writer."""
        now = trio.current_time()
        try:
            moved = self.durable_seq - self._checkpoint_seq
            due = now - self._checkpoint_time >= CHECKPOINT_SECONDS
            if moved >= CHECKPOINT_RECORDS or (moved and due):
                await self.checkpoint()
            if now - self._prune_time >= PRUNE_SECONDS:
                self._prune_time = now
                await self._prune()
        except (sqlite3.Error, OSError) as error:
            self._fail(f"the journal {self.path} cannot be written: {error}")

    async def _prune(self) -> None:
        before = self._wall() - self._keep_ns
        await self._in_thread(lambda: self._store.prune(before_ns=before, everything_acked=False))
        while await self._in_thread(self._store.size) > self._max_bytes:
            removed = await self._in_thread(
                lambda: self._store.prune(before_ns=0, everything_acked=True)
            )
            if not removed:
                self._full = True
                self._fail(
                    f"the journal {self.path} holds journal.max_bytes of decisions that the"
                    " Observer has not acknowledged"
                )
                return
        if self._full:
            self._full = False
            self._recover()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._one_thread)

    # -- checkpoints ------------------------------------------------------------------------------

    def set_signer(self, key: ec.EllipticCurvePrivateKey, passport: bytes) -> None:
        """Use this key for checkpoints from now on, and keep the passport that vouches for it."""
        self._signer, self._passport = key, passport
        self._checkpoint_time = -CHECKPOINT_SECONDS
        self._work.set()
        self.announce()

    async def checkpoint(self) -> None:
        """Sign the durable head now, and the ends of earlier boots that nobody has signed."""
        key = self._signer
        if key is None:
            return
        self._checkpoint_time = trio.current_time()
        seq, head, passport = self.durable_seq, self.head, self._passport
        changed = seq > self._checkpoint_seq
        self._passport = None

        def sign() -> bool:
            if passport is not None:
                self._store.set_passport(passport)
            earlier = self._store.uncovered_boots()
            for boot_id, last, last_head in earlier:
                cose = self._signed(key, boot_id, last, last_head)
                self._store.add_checkpoint(
                    boot_id=boot_id, seq=last, cose=cose, recovered_by=self.boot_id
                )
            if changed:
                cose = self._signed(key, self.boot_id, seq, head)
                self._store.add_checkpoint(
                    boot_id=self.boot_id, seq=seq, cose=cose, recovered_by=b""
                )
            return bool(earlier) or changed

        try:
            news = await self._in_thread(sign)
        except BaseException:
            self._passport = passport  # kept for the next try
            raise
        self._checkpoint_seq = max(self._checkpoint_seq, seq)
        if news or passport is not None:
            self.announce()

    def _signed(
        self, key: ec.EllipticCurvePrivateKey, boot_id: bytes, seq: int, head: bytes
    ) -> bytes:
        return sign_checkpoint(key, boot_id=boot_id, seq=seq, head=head, wall_ns=self._wall())

    # -- the stream's side ------------------------------------------------------------------------

    @contextmanager
    def subscribed(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call this (cheap, on the trio thread) at each commit, checkpoint and passport."""
        self._listeners.add(callback)
        try:
            yield
        finally:
            self._listeners.discard(callback)

    def announce(self) -> None:
        """Tell the subscribers that there may be something new."""
        for callback in tuple(self._listeners):
            callback()

    async def acknowledge(self, marks: Iterable[tuple[bytes, int]]) -> None:
        """The Observer has committed these boots up to these places."""
        wanted = list(marks)

        def work() -> None:
            for boot_id, seq in wanted:
                self._store.acknowledge(boot_id, seq)

        await self._in_thread(work)

    # -- the end ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Write what waits, sign the end, close the file. The writer must be cancelled first."""
        try:
            while self._queue or self._batch:
                if not self._batch:
                    self._batch = list(self._queue)
                    self._queue.clear()
                self.head = await self._in_thread(lambda: self._store.commit(self._batch))
                self.durable_seq = self._batch[-1].seq
                self._batch = []
                self._durable.unpark_all()
            await self.checkpoint()
        except (sqlite3.Error, OSError) as error:
            lost = len(self._queue) + len(self._batch)
            _LOG.error("journal.unwritten_at_stop", error=str(error), decisions=lost)
        finally:
            await self._in_thread(self._store.close)
