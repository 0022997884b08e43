"""The journal: every decision gets a place at once and becomes durable with its group.

`append` takes the next sequence number, encodes the record and puts it into a queue: no I/O, no
thread hand-over; `durable` waits for its commit (`group_commit`). A record is encoded where it is
made, so that one that cannot be (text that is no UTF-8, more than MAX_RECORD_SIZE bytes) is refused
alone and never holds up the others. A place in the chain is never given twice.

While commits fail, doors refuse, and what they refuse is committed later all the same: the journal
may come to hold a `proceed` whose client got a 503. That errs on the safe side: what a client saw
is always on record.

With `on_failure = "allow"` the doors are not told. Decisions that found the queue or the file full
are lost. `unrecorded` counts them, and the count is kept in the file; nothing else here loses
anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self

import cbor2
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.boottime import boot_ns, wall_ns
from agent.journal.file import Connect, connect
from agent.journal.group_commit import UNASKED_SECONDS, GroupCommit
from agent.journal.retention import Retention
from agent.journal.signing import Signer
from agent.journal.store import JournalStore
from agent.journal.turn import Mark
from agent.journal.wal import WalKeeper
from attestation import chain
from attestation.records import MAX_RECORD_SIZE, DecisionRecord, encode_record
from enforcement.recorder import RecordError

QUEUE_LIMIT: Final = 65_536  # decisions; some 60 MB of them (a guess)
_LOG = logs.get("journal")

OnFailure = Literal["deny", "allow"]


class Journal(GroupCommit):
    """Satisfies `enforcement.recorder.Recorder`. Everything but `open` runs on the trio thread.

    Attributes:
        last_seq: the last place that was given.
        older: records of earlier boots that were not acknowledged when it was opened.
        passport: the newest one that vouches for the signer; None until the first.
    """

    def __init__(
        self,
        store: JournalStore,
        *,
        agent_id: str,
        boot_seed: bytes,
        on_failure: OnFailure,
        retention: Retention,
        wal: WalKeeper,
        wall: Callable[[], int],
        boot: Callable[[], int],
    ) -> None:
        self._newest_head = chain.genesis(boot_seed)
        super().__init__(
            store,
            head=self._newest_head,
            deny=on_failure == "deny",
            signer=Signer(store, wall),
            retention=retention,
            wal=wal,
        )
        self._agent_id = agent_id
        self._wall, self._boot = wall, boot
        self.path = store.path
        self.boot_id = store.boot_id
        self.epoch = store.epoch
        self.older = store.older
        self.last_seq = 0
        self.passport: bytes | None = None

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
        still_there: Callable[[], None] = lambda: None,
    ) -> Self:
        """Open the file, verify what is not delivered yet, and begin a boot. Blocking.

        Args:
            max_bytes: limit of the file; above it acknowledged records go, oldest first.
            keep_days: how long acknowledged records are kept. Others are kept until they are.
            await_acks: False where there is no Observer: every record may go by age and size.
            connect: makes the writer's connection; a seam for tests.
            still_there: called now and then while much is verified.

        Raises:
            JournalError: unusable, in use by another agent, or changed by somebody.
        """

        def progress(count: int) -> None:
            _LOG.info("journal.verifying", records=count)
            still_there()

        store = JournalStore(
            path,
            boot_seed=boot_seed,
            started_ns=wall(),
            connect=connect,
            progress=progress,
        )
        return cls(
            store,
            agent_id=agent_id,
            boot_seed=boot_seed,
            on_failure=on_failure,
            retention=Retention(
                store, max_bytes=max_bytes, keep_days=keep_days, await_acks=await_acks, wall=wall
            ),
            wal=WalKeeper(path, connect),
            wall=wall,
            boot=boot,
        )

    # -- the doors' side --------------------------------------------------------------------------

    def append(self, record: DecisionRecord) -> int:
        """Give a decision its place. See `Recorder.append`."""
        queue = self._queue
        if self.problem or len(queue) >= QUEUE_LIMIT:
            if self._deny or self._closed:
                raise RecordError(self.problem or "too many decisions wait for the disk")
            if self._retention.full or len(queue) >= QUEUE_LIMIT:
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
        self._backlog.unrecorded += 1
        return self.last_seq

    # -- what others tell it ----------------------------------------------------------------------

    def set_signer(self, key: ec.EllipticCurvePrivateKey, passport: bytes) -> None:
        """Use this key for checkpoints from now on, and keep the passport that vouches for it."""
        self._signer.use(key)
        self.passport = self._backlog.passport = passport
        self._work.set()
        self.announce()

    def acknowledge(self, boot_id: bytes, through_seq: int, head: bytes) -> None:
        """The Observer has committed a boot up to here; `head` is ours at that place (the caller
        has compared). Written with the next turn, within a second: to lose it costs a resend."""
        self._backlog.acknowledge(boot_id, Mark(seq=through_seq, head=head))

    def checkpoint_delivered(self, boot_id: bytes, seq: int) -> None:
        """The Observer has the checkpoint of a boot at `seq`. Written like `acknowledge`."""
        self._backlog.checkpoint_delivered(boot_id, seq)
