"""The journal: every decision gets a place at once and becomes durable with its group.

`append` takes the next sequence number, encodes the record and puts it into a queue: no I/O, no
thread hand-over. One task takes whatever has gathered, and one thread commits it; everything that
arrives during a commit is the next commit. So a decision waits for at most two commits, and the
cost of one is shared by all that wait. A commit begins when somebody waits for it, or
UNASKED_SECONDS after the first decision that it holds. A record is encoded where it is made, so
that one that
cannot be (text that is no UTF-8, more than MAX_RECORD_SIZE bytes) is refused alone and never holds
up the others.

When a commit fails, the batch is kept and tried again, as it is, until it commits: a place in the
chain is never given twice. Those who waited are told (`RecordError`) and refuse, and so is everyone
who comes before a commit has succeeded again. So the journal may come to hold a `proceed` whose
client got a 503. That errs on the safe side: what a client saw is always on record.

With `on_failure = "allow"` the doors are not told. Decisions still queue while the disk is broken
and are written when it works again; those that found the queue or the file full are lost.
`unrecorded` counts them, and the count is kept in the file; nothing else here loses anything.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

import cbor2
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.boottime import boot_ns, wall_ns
from agent.histogram import QUICK, Histogram
from agent.journal_file import WAL_PAGES, Connect, JournalError, connect
from agent.journal_store import Checkpoint, JournalStore, Mark, Row, Turn
from agent.journal_tail import Tail
from agent.journal_wal import WalKeeper
from agent.watchdog import Promise, no_promise
from agent.worker import Worker, open_worker
from attestation import chain
from attestation.checkpoint import sign_checkpoint
from attestation.records import MAX_RECORD_SIZE, DecisionRecord, encode_record
from enforcement.recorder import RecordError

__all__ = ["Journal", "JournalError"]

WRITER_SECONDS: Final = 60.0  # a turn of the writer that takes longer hangs (a guess)
QUEUE_LIMIT: Final = 65_536  # decisions; some 60 MB of them (a guess)
UNASKED_SECONDS: Final = 0.01  # how long a decision nobody waits for may stay in memory
BATCH_LIMIT: Final = 4_096  # decisions in one commit
CHECKPOINT_RECORDS: Final = 1_000
CHECKPOINT_SECONDS: Final = 1.0
WAL_SECONDS: Final = 0.25
PRUNE_SECONDS: Final = 60.0
PRUNE_RECORDS: Final = 1_000  # in one turn: some milliseconds
FULL_AGAIN: Final = 0.95  # a full journal records again below this part of its limit
FIRST_RETRY_SECONDS: Final = 0.1
LONGEST_RETRY_SECONDS: Final = 5.0
_DAY_NS: Final = 86_400 * 1_000_000_000
_LOG = logs.get("journal")

T = TypeVar("T")
OnFailure = Literal["deny", "allow"]


class Journal:
    """Satisfies `enforcement.recorder.Recorder`. Everything but `open` runs on the trio thread.

    Attributes:
        head: the chain's head at `durable_seq`.
        tail: the newest durable records.
        checkpoint_seq: the last checkpoint of this boot is at this seq, or later.
        problem: why decisions cannot be recorded now; empty while they can.
        unrecorded: decisions of this boot that were let pass without a record.
        promise: told by the writer how long its next turn takes at most (`agent.watchdog`).
        commit_seconds: how long transactions took that succeeded.
    """

    def __init__(
        self,
        store: JournalStore,
        *,
        agent_id: str,
        boot_seed: bytes,
        on_failure: OnFailure,
        max_bytes: int,
        keep_days: int,
        await_acks: bool,
        wall: Callable[[], int],
        boot: Callable[[], int],
        connect: Connect,
    ) -> None:
        self._store = store
        self._agent_id = agent_id
        self._deny = on_failure == "deny"
        self._max_bytes = max_bytes
        self._keep_ns = keep_days * _DAY_NS
        self._await_acks = await_acks
        self._wall, self._boot = wall, boot
        self._open_file = connect
        self.path = store.path
        self.boot_id = store.boot_id
        self.epoch = store.epoch

        self.head = self._newest_head = chain.genesis(boot_seed)
        self.tail = Tail(store.boot_id, self.head)
        self.last_seq = 0
        self.durable_seq = 0
        self.checkpoint_seq = 0
        self.commits = 0
        self.commit_seconds = Histogram(QUICK)
        self.unrecorded = 0
        self.promise: Promise = no_promise
        self.problem = ""
        self._failure = ""  # the last commit failed
        self._full = ""  # the limit is reached with records nobody has acknowledged

        self._queue: deque[Row] = deque()
        self._batch: list[Row] = []
        self._work = trio.Event()
        self._nap = trio.CancelScope()  # of the writer, while it has nothing to do
        self._asked = 0  # somebody waits for this seq
        self._stop = trio.Event()
        self._waiting = trio.lowlevel.ParkingLot()
        self._turn_lock = trio.Lock()
        self._worker: Worker | None = None  # while `run` runs
        self._listeners: set[Callable[[], None]] = set()
        self._acknowledged: dict[bytes, Mark] = {}
        self._signed: dict[bytes, int] = {}
        self._told_unrecorded = 0
        self._signer: ec.EllipticCurvePrivateKey | None = None
        self._passport: bytes | None = None
        self._recovering = True  # earlier boots may have an end that nobody has signed
        self._checkpoint_time = self._prune_time = float("-inf")
        self._unmeasured = max_bytes  # bytes written since the size was last looked at
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        agent_id: str,
        boot_seed: bytes,
        on_failure: OnFailure = "deny",
        max_bytes: int = 10 * 1024**3,
        keep_days: int = 30,
        await_acks: bool = True,
        wall: Callable[[], int] = wall_ns,
        boot: Callable[[], int] = boot_ns,
        connect: Connect = connect,
    ) -> Self:
        """Open the file, verify what is not delivered yet, and begin a boot. Blocking.

        Args:
            max_bytes: limit of the file; above it acknowledged records go, oldest first.
            keep_days: how long acknowledged records are kept. Others are kept until they are.
            await_acks: False where there is no Observer: every record may go by age and size.
            connect: makes the writer's connection; a seam for tests.

        Raises:
            JournalError: unusable, in use by another agent, or changed by somebody.
        """
        store = JournalStore(
            path,
            boot_seed=boot_seed,
            started_ns=wall(),
            connect=connect,
            progress=lambda count: _LOG.info("journal.verifying", records=count),
        )
        return cls(
            store,
            agent_id=agent_id,
            boot_seed=boot_seed,
            on_failure=on_failure,
            max_bytes=max_bytes,
            keep_days=keep_days,
            await_acks=await_acks,
            wall=wall,
            boot=boot,
            connect=connect,
        )

    # -- the doors' side --------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether decisions can be recorded now."""
        return not self.problem

    def append(self, record: DecisionRecord) -> int:
        """Give a decision its place. See `Recorder.append`."""
        queue = self._queue
        if self.problem or len(queue) >= QUEUE_LIMIT:
            if self._deny or self._closed:
                raise RecordError(self.problem or "too many decisions wait for the disk")
            if self._full or len(queue) >= QUEUE_LIMIT:
                return self._let_pass()
        seq, wall = self.last_seq + 1, self._wall()
        try:
            data = encode_record(
                record,
                agent=self._agent_id,
                boot=self.boot_id,
                seq=seq,
                wall_ns=wall,
                boot_ns=self._boot(),
            )
        except (cbor2.CBORError, ValueError, TypeError, AttributeError) as error:
            return self._unfit(f"the decision cannot be encoded ({type(error).__name__})")
        if len(data) > MAX_RECORD_SIZE:
            return self._unfit(
                f"the record of the decision has {len(data)} bytes, more than {MAX_RECORD_SIZE}"
            )
        self.last_seq = seq
        self._newest_head = head = chain.advance(self._newest_head, data)
        if not queue:
            self._nap.deadline = min(self._nap.deadline, trio.current_time() + UNASKED_SECONDS)
        queue.append((self._store.base + seq, wall, head, data))
        return seq

    def _unfit(self, problem: str) -> int:
        if self._deny:
            raise RecordError(problem)
        _LOG.error("journal.unfit", error=problem)
        return self._let_pass()

    def _let_pass(self) -> int:
        self.unrecorded += 1
        return self.last_seq

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
                with trio.move_on_after(UNASKED_SECONDS if self._queue else CHECKPOINT_SECONDS) as (
                    self._nap
                ):
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
        if not self._batch:
            count = min(len(self._queue), BATCH_LIMIT)
            self._batch = [self._queue.popleft() for _ in range(count)]
        batch = self._batch
        seq, head = (
            (self.durable_seq + len(batch), batch[-1][2])
            if batch
            else (
                self.durable_seq,
                self.head,
            )
        )
        moved = seq - self.checkpoint_seq
        now = trio.current_time()
        due = sign or moved >= CHECKPOINT_RECORDS
        due = due or now - self._checkpoint_time >= CHECKPOINT_SECONDS
        key = self._signer if due and (moved or self._recovering) else None
        told = self.unrecorded
        turn = Turn(
            rows=batch,
            acknowledged=dict(self._acknowledged),
            signed=dict(self._signed),
            passport=self._passport,
            unrecorded=told - self._told_unrecorded,
        )
        if not (turn or key or self._failure):
            return
        began = trio.current_time()
        try:
            await self._in_thread(partial(self._write, turn, key, seq, head, moved))
        except (sqlite3.Error, OSError, JournalError) as error:
            self._fail(f"the journal {self.path} cannot be written: {error}")
            return
        self.commit_seconds.observe(trio.current_time() - began)
        self._written(turn, seq, head)
        if key is not None:
            self._recovering = False
            self.checkpoint_seq, self._checkpoint_time = seq, now
        self._told_unrecorded = told
        self.announce()

    def _write(
        self,
        turn: Turn,
        key: ec.EllipticCurvePrivateKey | None,
        seq: int,
        head: bytes,
        moved: int,
    ) -> None:
        """In the writer's thread."""
        checkpoints = []
        if key is not None:
            if self._recovering:
                checkpoints = [
                    self._checkpoint(key, boot_id, end.seq, end.head)
                    for boot_id, end in self._store.unsigned_boots()
                ]
            if moved:
                checkpoints.append(self._checkpoint(key, self.boot_id, seq, head))
        self._store.commit(turn, checkpoints)

    def _checkpoint(
        self, key: ec.EllipticCurvePrivateKey, boot_id: bytes, seq: int, head: bytes
    ) -> Checkpoint:
        cose = sign_checkpoint(key, boot_id=boot_id, seq=seq, head=head, wall_ns=self._wall())
        own = boot_id == self.boot_id
        recovered_by = b"" if own else self.boot_id
        return Checkpoint(boot_id=boot_id, seq=seq, cose=cose, recovered_by=recovered_by)

    def _written(self, turn: Turn, seq: int, head: bytes) -> None:
        self.commits += 1
        self.durable_seq, self.head = seq, head
        self.tail.extend([(row[2], row[3]) for row in turn.rows])
        self._unmeasured += sum([len(row[3]) for row in turn.rows])
        self._batch = []
        for boot_id, mark in turn.acknowledged.items():
            if self._acknowledged[boot_id] == mark:
                del self._acknowledged[boot_id]
        for boot_id, signed in turn.signed.items():
            if self._signed[boot_id] == signed:
                del self._signed[boot_id]
        if self._passport is turn.passport:
            self._passport = None
        if self._failure:
            _LOG.info("journal.recovered", durable_seq=self.durable_seq)
            self._state(failure="")
        self._waiting.unpark_all()

    def _fail(self, failure: str) -> None:
        if not self._failure:
            _LOG.error("journal.failed", error=failure, deny=self._deny)
        self._state(failure=failure)
        self._waiting.unpark_all()

    def _state(self, *, failure: str | None = None, full: str | None = None) -> None:
        self._failure = self._failure if failure is None else failure
        self._full = self._full if full is None else full
        self.problem = self._failure or self._full

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._worker is not None:
            return await self._worker.run(work)
        return await trio.to_thread.run_sync(work)

    async def _tend_wal(self) -> None:
        """Keep the WAL short, so that no commit has to. See `agent.journal_wal`."""
        keeper = WalKeeper(self.path, self._open_file)
        seen = 0
        async with open_worker("journal-wal") as worker:
            try:
                while True:
                    await trio.sleep(WAL_SECONDS)
                    if self.commits != seen and not self._failure:
                        seen = self.commits
                        await self._move_wal(worker, keeper)
            finally:
                with trio.CancelScope(shield=True):
                    await worker.run(keeper.close)

    async def _move_wal(self, worker: Worker, keeper: WalKeeper) -> None:
        try:
            if await worker.run(keeper.move) < WAL_PAGES:
                return
            async with self._turn_lock:
                if not self._closed:
                    await self._in_thread(self._store.move_wal)
        except sqlite3.Error as error:
            # A commit does it then, and fails if it can't: that is what counts.
            _LOG.warning("journal.wal", error=str(error))

    # -- limits -----------------------------------------------------------------------------------

    async def _keep_within_limits(self) -> None:
        """Let old records go, a slice a turn. Holds the turn lock."""
        now = trio.current_time()
        measure = self._full or self._unmeasured >= self._max_bytes // 64
        if now - self._prune_time < PRUNE_SECONDS and not measure:
            return
        before = self._wall() - self._keep_ns
        try:
            size, removed = await self._in_thread(partial(self._prune, before))
        except (sqlite3.Error, OSError) as error:
            self._fail(f"the journal {self.path} cannot be pruned: {error}")
            return
        if removed:
            return  # the next turn goes on
        self._prune_time, self._unmeasured = now, 0
        if size >= self._max_bytes and not self._full:
            full = (
                f"the journal {self.path} holds journal.max_bytes of decisions that the Observer"
                " has not acknowledged; let the Observer be reached, or raise the limit"
            )
            _LOG.error("journal.full", size=size, deny=self._deny)
            self._state(full=full)
        elif self._full and size < self._max_bytes * FULL_AGAIN:
            _LOG.info("journal.not_full", size=size)
            self._state(full="")

    def _prune(self, before_ns: int) -> tuple[int, int]:
        """In the writer's thread: bytes in use, and how many records went."""
        prune = partial(self._store.prune, limit=PRUNE_RECORDS, acked_only=self._await_acks)
        removed = prune(before_ns=before_ns)
        size = self._store.size()
        if not removed and size >= self._max_bytes * FULL_AGAIN:
            removed = prune(before_ns=None)
        return size, removed

    # -- checkpoints ------------------------------------------------------------------------------

    def set_signer(self, key: ec.EllipticCurvePrivateKey, passport: bytes) -> None:
        """Use this key for checkpoints from now on, and keep the passport that vouches for it."""
        self._signer, self._passport = key, passport
        self._checkpoint_time = float("-inf")
        self._work.set()
        self.announce()

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

    # -- the stream's side ------------------------------------------------------------------------

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

    def acknowledge(self, boot_id: bytes, through_seq: int, head: bytes) -> None:
        """The Observer has committed a boot up to here; `head` is ours at that place (the caller
        has compared). Written with the next turn, within a second: to lose it costs a resend."""
        known = self._acknowledged.get(boot_id)
        if known is None or known.seq < through_seq:
            self._acknowledged[boot_id] = Mark(seq=through_seq, head=head)

    def checkpoint_delivered(self, boot_id: bytes, seq: int) -> None:
        """The Observer has the checkpoint of a boot at `seq`. Written like `acknowledge`."""
        self._signed[boot_id] = max(self._signed.get(boot_id, 0), seq)

    # -- the end ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Write what waits, sign the end, close the file. `run` ends by itself."""
        async with self._turn_lock:
            if self._closed:
                return
            await self._write_all()
            self._closed = True
            lost = len(self._queue) + len(self._batch)
            if lost:
                _LOG.error("journal.unwritten_at_stop", error=self._failure, decisions=lost)
            self.problem = self._failure = "the journal is closed"
            self._work.set()
            self._stop.set()
            self._waiting.unpark_all()
            await self._in_thread(self._store.close)
