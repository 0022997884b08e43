"""Group commit: rows become durable together, and those who wait for them are told.

One task takes whatever has gathered, and one thread commits it; everything that arrives during a
commit is the next commit. So a row waits for at most two commits, and the cost of one is shared by
all that wait. A commit begins when somebody waits for it, or UNASKED_SECONDS after the first row
that it holds.

When a commit fails, for whatever reason, the batch is kept and tried again, as it is, until it
commits. Those who waited are told (`RecordError`), and so is everyone who comes before a commit has
succeeded again. With `deny` false nobody is told: rows still queue while the disk is broken and are
written when it works again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.journal.backlog import Backlog
from agent.journal.file import JournalError
from agent.journal.retention import Retention
from agent.journal.signing import CHECKPOINT_SECONDS, Signer
from agent.journal.store import JournalStore
from agent.journal.tail import Tail
from agent.journal.turn import Turn
from agent.journal.wal import WalKeeper, tend_wal
from agent.life.lifecycle import Part, Trouble, Weight
from agent.life.supervise import Faults
from agent.life.ticks import next_tick
from agent.life.watchdog import Promise, no_promise
from agent.metrics.histogram import QUICK, Histogram
from agent.worker import Worker, open_worker
from attestation.panics import is_fault
from enforcement.recorder import RecordError

WRITER_SECONDS: Final = 60.0  # a turn of the writer that takes longer hangs (a guess)
UNASKED_SECONDS: Final = 0.01  # how long a row nobody waits for may stay in memory
FIRST_RETRY_SECONDS: Final = 0.1
LONGEST_RETRY_SECONDS: Final = 5.0
_LOG = logs.get("journal")

T = TypeVar("T")


class GroupCommit:
    """The writer of one boot's rows; the doors come on top (`journal.Journal`). Everything runs on
    the trio thread.

    Attributes:
        head: the chain's head at `durable_seq`.
        tail: the newest durable records.
        problem: why nothing can be recorded now; empty while it can.
        faults: counts those of a transaction.
        promise: told by the writer how long its next turn takes at most (`agent.life.watchdog`).
        commit_seconds: how long transactions took that succeeded.
    """

    def __init__(
        self,
        store: JournalStore,
        *,
        head: bytes,
        deny: bool,
        signer: Signer,
        retention: Retention,
        wal: WalKeeper,
    ) -> None:
        self._store = store
        self._deny = deny
        self._signer = signer
        self._retention = retention
        self._wal = wal
        self._backlog = Backlog()
        self._queue = self._backlog.queue

        self.head = head
        self.tail = Tail(store.boot_id, head)
        self.durable_seq = 0
        self.commits = 0
        self.commit_seconds = Histogram(QUICK)
        self.promise: Promise = no_promise
        self.faults = Faults()
        self.problem = ""
        self._failure = ""  # the last commit failed

        self._work = trio.Event()
        self._nap = trio.CancelScope()  # of the writer, while it has nothing to do
        self._asked = 0  # somebody waits for this seq
        self._stop = trio.Event()
        self._waiting = trio.lowlevel.ParkingLot()
        self._turn_lock = trio.Lock()
        self._worker: Worker | None = None  # while `run` runs
        self._listeners: set[Callable[[], None]] = set()
        self._closed = False

    @property
    def healthy(self) -> bool:
        """Whether decisions can be recorded now."""
        return not self.problem

    def trouble(self) -> Trouble | None:
        """What the life cycle is told: nothing can be recorded."""
        if not self.problem:
            return None
        return Trouble(
            part=Part.JOURNAL,
            weight=Weight.BLOCKS if self._deny else Weight.CONCERN,
            code="journal.failed",
            reason=self.problem,
            next="the commit is tried again every few seconds; until it succeeds "
            + ("requests are refused" if self._deny else "decisions may be lost, and are counted"),
        )

    @property
    def unrecorded(self) -> int:
        """Decisions of this boot that were let pass without a record."""
        return self._backlog.unrecorded

    @property
    def checkpoint_seq(self) -> int:
        """The last checkpoint of this boot is at this seq, or later."""
        return self._signer.seq

    async def durable(self, seq: int) -> None:
        """Wait for the commit that holds `seq`. See `Recorder.durable`."""
        while self.durable_seq < seq:
            if self._failure or self._closed:
                if not self._deny:
                    return
                raise RecordError(self.problem)
            if self._asked < seq:
                self._asked = seq
                self._work.set()
            await self._waiting.park()

    @contextmanager
    def subscribed(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call this (cheap, on the trio thread) at each commit and each new passport."""
        self._listeners.add(callback)
        try:
            yield
        finally:
            self._listeners.discard(callback)

    def announce(self) -> None:
        """Tell the subscribers that there may be something new."""
        for callback in tuple(self._listeners):
            callback()

    # -- the writer -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The writer: until it is cancelled or the journal is closed."""
        async with open_worker("journal") as worker, trio.open_nursery() as nursery:
            self._worker = worker
            try:
                nursery.start_soon(self._tend_wal)
                task_status.started()
                await self._write_turns()
                nursery.cancel_scope.cancel()
            finally:
                self._worker = None

    async def _write_turns(self) -> None:
        retry = FIRST_RETRY_SECONDS
        while not self._closed:
            self.promise(WRITER_SECONDS)
            if self._asked <= self.durable_seq and not self._failure:
                with trio.move_on_at(self._next_turn()) as self._nap:
                    await self._work.wait()
            # One turn of the loop, so that decisions made in the same tick share the commit.
            await trio.lowlevel.checkpoint()
            await self._take_turn()
            if self._failure and not self._closed:
                with trio.move_on_after(retry):
                    await self._stop.wait()
                retry = min(retry * 2, LONGEST_RETRY_SECONDS)
            else:
                retry = FIRST_RETRY_SECONDS

    def _next_turn(self) -> float:
        if self._queue:
            return trio.current_time() + UNASKED_SECONDS
        if self._signer.seq < self.durable_seq:
            return trio.current_time() + CHECKPOINT_SECONDS
        return next_tick(CHECKPOINT_SECONDS)

    async def _take_turn(self) -> None:
        async with self._turn_lock:
            if not self._closed:
                await self._turn()
                if not self._failure:
                    await self._keep_within_limits()

    async def _turn(self, *, sign: bool = False) -> None:
        """Write what has gathered, in one transaction. Holds the turn lock.

        Args:
            sign: make a checkpoint even if it is not time yet.
        """
        self._work = trio.Event()
        turn = self._backlog.take()
        seq, head = self.durable_seq, self.head
        if turn.rows:
            seq, head = seq + len(turn.rows), turn.rows[-1][2]
        began = trio.current_time()
        key = self._signer.due(seq, began, asked=sign)
        if not (turn or key or self._failure):
            return
        try:
            await self._in_thread(partial(self._write, turn, key, seq, head))
        except (sqlite3.Error, OSError, JournalError) as error:
            self._fail(f"the journal {self._store.path} cannot be written: {error}")
            return
        except BaseException as error:
            if not is_fault(error):
                raise
            # What it was may pass (memory that ran out). Until then nothing is decided.
            self._fail(f"the journal {self._store.path} cannot be written: {self._fault(error)}")
            return
        self.commit_seconds.observe(trio.current_time() - began)
        if key is not None:
            self._signer.written(seq, began)
        self._written(turn, seq, head)
        self.announce()

    def _write(
        self, turn: Turn, key: ec.EllipticCurvePrivateKey | None, seq: int, head: bytes
    ) -> None:
        """In the writer's thread."""
        checkpoints = () if key is None else self._signer.sign(key, seq, head)
        self._store.commit(turn, checkpoints)

    def _written(self, turn: Turn, seq: int, head: bytes) -> None:
        self.commits += 1
        self.durable_seq, self.head = seq, head
        self.tail.extend([(row[2], row[3]) for row in turn.rows])
        self._retention.grown(sum([len(row[3]) for row in turn.rows]))
        self._backlog.written(turn)
        if self._failure:
            _LOG.info("journal.recovered", durable_seq=self.durable_seq)
            self._set_problem(failure="")
        self._waiting.unpark_all()

    def _fail(self, failure: str) -> None:
        if not self._failure:
            _LOG.error("journal.failed", error=failure, deny=self._deny)
        self._set_problem(failure=failure)
        self._waiting.unpark_all()

    def _fault(self, error: BaseException) -> str:
        return f"a fault of the agent itself: {self.faults.note('journal', error)}"

    def _set_problem(self, *, failure: str) -> None:
        self._failure = failure
        self.problem = failure or self._retention.full

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._worker is not None:
            return await self._worker.run(work)
        return await trio.to_thread.run_sync(work)

    async def _keep_within_limits(self) -> None:
        """Let old records go, a slice a turn. Holds the turn lock."""
        retention, now = self._retention, trio.current_time()
        if not retention.due(now):
            return
        try:
            size, removed = await self._in_thread(retention.prune)
        except (sqlite3.Error, OSError) as error:
            self._fail(f"the journal {self._store.path} cannot be pruned: {error}")
            return
        except BaseException as error:
            if not is_fault(error):
                raise
            self._fail(f"the journal {self._store.path} cannot be pruned: {self._fault(error)}")
            return
        if not retention.pruned(size, removed, now):
            return
        if retention.full:
            _LOG.error("journal.full", size=size, deny=self._deny)
        else:
            _LOG.info("journal.not_full", size=size)
        self._set_problem(failure=self._failure)

    async def _tend_wal(self) -> None:
        await tend_wal(
            self._wal,
            commits=lambda: None if self._failure else self.commits,
            committed=self._waiting.park,
            move_rest=self._move_wal,
        )

    async def _move_wal(self) -> None:
        async with self._turn_lock:
            if not self._closed:
                await self._in_thread(self._store.move_wal)

    # -- all that waits ---------------------------------------------------------------------------

    async def checkpoint(self) -> None:
        """Write what waits and sign the head now. Without a key, or with a broken disk, it does
        what it can and returns."""
        async with self._turn_lock:
            if not self._closed:
                await self._write_all()

    async def _write_all(self) -> None:
        await self._turn(sign=True)
        while self._queue and not self._failure:
            await self._turn(sign=True)

    async def close(self) -> None:
        """Write what waits, sign the end, close the file. `run` ends by itself."""
        async with self._turn_lock:
            if self._closed:
                return
            await self._write_all()
            self._closed = True
            lost = len(self._backlog)
            if lost:
                _LOG.error("journal.unwritten_at_stop", error=self._failure, decisions=lost)
            self.problem = self._failure = "the journal is closed"
            self._work.set()
            self._stop.set()
            self._waiting.unpark_all()
            await self._in_thread(self._store.close)
