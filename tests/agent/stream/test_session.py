"""One stream over a real journal, with an Observer that does as it should, in memory."""

from __future__ import annotations

import queue
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent.journal import Journal
from agent.journal.reader import JournalReader
from agent.life.watchdog import Promise, no_promise
from agent.stream import session
from agent.stream.grpc_bridge import Bidi, Ended
from agent.stream.protocol import MAX_BOOTS
from agent.stream.session import Session
from agent.stream.status import StreamStatus, Target
from attestation import chain
from attestation.checkpoint import verify_checkpoint
from attestation.wire import observer_pb2 as pb
from tests.agent.journal.test_journal import record

KEY = ec.generate_private_key(ec.SECP256R1())
RUNNING = b"r" * 32


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Owner:
    """What a session asks of its stream."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.target = Target(address="memory")
        self.agent_id, self.version, self.key = "a", "1", KEY
        self.passport: Callable[[], bytes | None] = lambda: b"passport"
        self.state = lambda: "serving"
        self.status = StreamStatus(durable=lambda: journal.durable_seq)
        self.promise: Promise = no_promise
        self.attempts = 1
        self.aside: set[bytes] = set()
        self.finish, self.finished = trio.Event(), trio.Event()

    def problem(self, text: str) -> None:
        self.status.problem = text


class Observer:
    """Takes everything in order, as the real one does; remembers it over streams."""

    def __init__(self, *, ends: bool = True) -> None:
        self.ends = ends  # its side, when the agent has ended its own
        self.heads: dict[bytes, dict[int, bytes]] = {}
        self.signed: dict[bytes, int] = {}
        self.offered: list[list[bytes]] = []
        self.refused: set[bytes] = set()  # boots whose batches are two histories
        self.disbelieved: set[bytes] = set()

    def stored(self, boot: bytes) -> int:
        return max(self.heads.get(boot, {0: b""}))

    def answer(self, data: bytes) -> pb.ObserverMessage | None:
        message = pb.AgentMessage.FromString(data)
        match message.WhichOneof("message"):
            case "hello":
                return pb.ObserverMessage(welcome=self._welcome(message.hello))
            case "batch" if message.batch.boot_id in self.refused:
                self.told.append(message.batch.boot_id)
                if self.told.count(message.batch.boot_id) > 1:
                    return None  # in flight behind the one that was refused
                code, boot_id = pb.Nack.FORK, message.batch.boot_id
                return pb.ObserverMessage(nack=pb.Nack(code=code, boot_id=boot_id, boot_only=True))
            case "batch":
                return pb.ObserverMessage(ack=self._take(message.batch))
            case "checkpoint" if message.checkpoint.boot_id not in self.refused:
                made = message.checkpoint
                signed = verify_checkpoint(made.cose, KEY.public_key())
                assert self.heads[made.boot_id][signed.seq] == signed.head
                self.signed[made.boot_id] = max(self.signed.get(made.boot_id, 0), signed.seq)
        return None

    def _welcome(self, hello: pb.Hello) -> pb.Welcome:
        self.offered.append([boot.boot_id for boot in hello.boots])
        self.told: list[bytes] = []
        for boot in hello.boots:
            self.heads.setdefault(boot.boot_id, {0: chain.genesis(boot.boot_seed)})
        accepted = [
            pb.Accepted(boot_id=boot.boot_id, next_seq=self.stored(boot.boot_id) + 1)
            for boot in hello.boots
            if boot.boot_id not in self.disbelieved
        ]
        return pb.Welcome(challenge=bytes(32), credits=4, accepted=accepted)

    def _take(self, batch: pb.Batch) -> pb.Ack:
        known, head = self.heads[batch.boot_id], batch.previous_head
        assert known[batch.first_seq - 1] == head
        for number, data in enumerate(batch.records):
            head = chain.advance(head, data)
            assert known.setdefault(batch.first_seq + number, head) == head
        assert head == batch.head
        return pb.Ack(boot_id=batch.boot_id, through_seq=batch.last_seq, head=head)


async def stream(owner: Owner, observer: Observer) -> None:
    """One stream, until the session ends it or is cancelled."""
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    send, received = trio.open_memory_channel[bytes](1000)
    reader = JournalReader(owner.journal.path)

    async def serve() -> None:
        while True:
            while not outbox.empty():
                data = outbox.get_nowait()
                if data is None and observer.ends:  # the agent has said all
                    await send.aclose()
                    return
                answer = None if data is None else observer.answer(data)
                if answer is not None:
                    await send.send(answer.SerializeToString())
            await trio.sleep(0.001)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await Session(owner, Bidi(outbox, received, Ended()), reader).run()
            nursery.cancel_scope.cancel()
    finally:
        reader.close()


@asynccontextmanager
async def running(path: Path, boot_seed: bytes = RUNNING) -> AsyncIterator[Journal]:
    journal = Journal.open(path / "journal.sqlite", agent_id="a", boot_seed=boot_seed)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            yield journal
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await journal.close()


async def crashed(path: Path, count: int) -> list[bytes]:
    """So many earlier boots with a record each, whose ends nobody signed; their ids."""
    for number in range(count):
        async with running(path, seed(number)) as journal:
            await journal.durable(journal.append(record(number)))
    return [chain.boot_id(seed(number)) for number in range(count)]


@pytest.fixture(autouse=True)
def _no_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GATHER_SECONDS", 0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


async def eventually(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - real threads are at work
            await trio.sleep(0.005)


def unacked(journal: Journal) -> list[bytes]:
    reader = JournalReader(journal.path)
    try:
        return [boot.boot_id for boot in reader.boots_unacked(journal.boot_id)]
    finally:
        reader.close()


async def test_a_boot_that_was_delivered_with_its_checkpoint_is_not_offered_again(
    path: Path,
) -> None:
    (old,), observer = await crashed(path, 1), Observer()
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            await eventually(lambda: observer.signed.get(old) == 1)
            assert unacked(journal) == [old, journal.boot_id], "nothing says that it came yet"
            # An answer to what was sent after the checkpoint says so.
            await journal.durable(journal.append(record(7)))
            await eventually(lambda: owner.status.acked_seq == 1)
            await journal.checkpoint()
            await eventually(lambda: unacked(journal) == [journal.boot_id])
            nursery.cancel_scope.cancel()


async def test_at_a_clean_end_the_observers_own_end_says_that_the_last_checkpoint_came(
    path: Path,
) -> None:
    observer = Observer()
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            await journal.durable(journal.append(record(7)))
            await eventually(lambda: owner.status.acked_seq == 1)
            await journal.checkpoint()
            owner.finish.set()
            journal.announce()
            with trio.fail_after(10):
                await owner.finished.wait()
        assert observer.signed == {journal.boot_id: 1}
        await journal.checkpoint()
    async with running(path, seed(1)) as journal:
        assert unacked(journal) == [journal.boot_id], "nothing of the last boot is left to deliver"


async def test_an_observer_that_does_not_end_its_side_keeps_nobody_and_confirms_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FAREWELL_SECONDS", 0.05)
    observer = Observer(ends=False)
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            await journal.durable(journal.append(record(7)))
            await eventually(lambda: owner.status.acked_seq == 1)
            await journal.checkpoint()
            owner.finish.set()
            journal.announce()
            with trio.fail_after(10):
                await owner.finished.wait()
        old = journal.boot_id
    async with running(path, seed(1)) as journal:
        assert unacked(journal) == [old, journal.boot_id]


async def test_boots_that_found_no_place_in_a_hello_come_with_the_next(path: Path) -> None:
    old, observer = await crashed(path, MAX_BOOTS + 6), Observer()
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        with trio.fail_after(30):
            await stream(Owner(journal), observer)  # ends by itself: there are more to offer
        assert len(observer.offered[0]) == MAX_BOOTS
        owner = Owner(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            await eventually(lambda: all(observer.stored(boot) == 1 for boot in old))
            await eventually(lambda: set(old[-7:]) <= observer.signed.keys())
            nursery.cancel_scope.cancel()
        assert set(observer.offered[1]) >= {*old[-7:], journal.boot_id}


@pytest.mark.parametrize("how", ["refused", "disbelieved", "more"])
async def test_an_earlier_boot_that_is_not_taken_keeps_nothing_up(path: Path, how: str) -> None:
    """Neither this boot's decisions, nor another's, nor the agent's end; a person is told once."""
    (old, other), observer = await crashed(path, 2), Observer()
    if how == "more":
        observer.heads[old] = {0: b"", 1: b"", 2: b""}
    else:
        getattr(observer, how).add(old)
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream, owner, observer)
                await journal.durable(journal.append(record(7)))
                await eventually(lambda: owner.status.acked_seq == journal.durable_seq)
                await eventually(lambda: observer.stored(other) == 1)
                await eventually(lambda: owner.status.lag == 0)
                assert (owner.status.alarms, owner.status.set_aside) == (1, 1)
                assert old.hex() in owner.status.alarm
                nursery.cancel_scope.cancel()
        assert old in unacked(journal), "the journal keeps it"
        owner.finish.set()
        with trio.fail_after(10):
            await stream(owner, observer)
        assert owner.finished.is_set()


async def test_a_boot_that_is_refused_while_it_is_read_is_not_sent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would ever answer it."""
    async with running(path, seed(0)) as journal:
        for number in range(3):
            await journal.durable(journal.append(record(number)))
    old, observer = chain.boot_id(seed(0)), Observer()
    observer.refused = {old}
    monkeypatch.setattr(session, "BATCH_RECORDS", 1)
    plain, reads = JournalReader.read, []

    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)

        def read(self: JournalReader, boot_id: bytes, *args: int, **kwargs: int) -> object:
            reads.append(boot_id)
            if reads.count(old) == 2:
                end = time.monotonic() + 10
                while not owner.aside and time.monotonic() < end:
                    time.sleep(0.005)
            return plain(self, boot_id, *args, **kwargs)

        monkeypatch.setattr(JournalReader, "read", read)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            await eventually(lambda: reads.count(old) == 2 and bool(owner.aside))
            await journal.durable(journal.append(record(7)))
            await eventually(lambda: owner.status.acked_seq == journal.durable_seq)
            nursery.cancel_scope.cancel()
        assert observer.told == [old]
        owner.finish.set()
        with trio.fail_after(10):
            await stream(owner, observer)
        assert owner.finished.is_set()


async def test_boots_that_are_not_taken_make_room_for_the_others(path: Path) -> None:
    old, observer = await crashed(path, MAX_BOOTS + 6), Observer()
    observer.refused = set(old[: MAX_BOOTS - 1])
    observer.disbelieved = {old[3]}
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)
        with trio.fail_after(30):
            await stream(owner, observer)  # ends by itself: there are others to offer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            await eventually(lambda: all(observer.stored(boot) == 1 for boot in old[-7:]))
            nursery.cancel_scope.cancel()
        assert len(observer.offered) == 2


async def test_what_is_delivered_is_not_read_again_for_every_decision(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crashed(path, 5)
    observer, reads = Observer(), []
    plain = JournalReader.read

    def counted(self: JournalReader, boot_id: bytes, *args: int, **kwargs: int) -> object:
        reads.append(boot_id)
        return plain(self, boot_id, *args, **kwargs)

    monkeypatch.setattr(JournalReader, "read", counted)
    async with running(path) as journal:
        journal.set_signer(KEY, b"passport")
        owner = Owner(journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, owner, observer)
            for number in range(1, 21):
                await journal.durable(journal.append(record(number)))
                await eventually(lambda: owner.status.acked_seq == journal.durable_seq)
            nursery.cancel_scope.cancel()
    assert len(reads) <= 6
