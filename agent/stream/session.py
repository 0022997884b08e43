"""One stream to the Observer, from Hello to its end.

Everything that is not acknowledged is sent, the oldest boot first, with the checkpoints over it;
heartbeats and a new passport go in between. The protocol's rules are in `protocol`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.journal import Journal
from agent.journal.reader import Boot, JournalReader, Segment
from agent.life.watchdog import Promise
from agent.stream.grpc_bridge import Bidi
from agent.stream.protocol import Acked, Challenge, SetAside, StreamClosedError, StreamProtocol
from agent.stream.status import StreamStatus, Target
from attestation.checkpoint import sign_stream_proof
from attestation.wire import observer_pb2 as pb

BATCH_RECORDS: Final = 512
BATCH_BYTES: Final = 256 * 1024
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0  # without any answer while batches are in flight
WELCOME_SECONDS: Final = 15.0
FAREWELL_SECONDS: Final = 0.5  # for the last checkpoint to come, where all else has (a guess)
GATHER_SECONDS: Final = 0.05  # decisions of this long share a message

_LOG = logs.get("stream")

T = TypeVar("T")


class Owner(Protocol):
    """What a session needs of the stream that it is one of (`agent.stream.stream`)."""

    journal: Journal
    target: Target
    agent_id: str
    version: str
    key: ec.EllipticCurvePrivateKey
    passport: Callable[[], bytes | None]
    state: Callable[[], str]
    status: StreamStatus
    promise: Promise
    attempts: int
    aside: set[bytes]
    finish: trio.Event
    finished: trio.Event

    def problem(self, text: str) -> None:
        """Why there is no stream (any more)."""


class Session:
    """One stream from Hello to its end."""

    def __init__(self, owner: Owner, bidi: Bidi, reader: JournalReader) -> None:
        self._owner = owner
        self._journal = owner.journal
        self._bidi = bidi
        self._reader = reader
        self._protocol: StreamProtocol
        self._boots: dict[bytes, Boot] = {}
        self._acked: dict[bytes, int] = {}
        self._aside: set[bytes] = set()  # boots of this stream that are not delivered
        self._aside_before: frozenset[bytes] = frozenset()
        self._checkpointed: dict[bytes, int] = {}
        # Checkpoints that were sent, and after how many batches: nothing answers them alone.
        self._unconfirmed: deque[tuple[bytes, int, int]] = deque()
        self._sent_heads: dict[tuple[bytes, int], bytes] = {}  # as many as batches in flight
        self._passport_sent: bytes | None = None
        self._wake = trio.Event()
        self._welcomed = trio.Event()
        self._heard = trio.current_time()
        self._closing = False  # our side has ended

    async def run(self) -> None:
        owner, journal = self._owner, self._journal
        await journal.checkpoint()  # keeps the passport, and signs what a crash left unsigned
        boots = await self._read(lambda: self._reader.boots_unacked(journal.boot_id))
        passport = owner.passport()
        self._boots = {boot.boot_id: boot for boot in boots}
        self._acked = {boot.boot_id: boot.acked_seq for boot in boots}
        self._aside_before = frozenset(owner.aside)
        self._measure_older()
        self._checkpointed = {boot.boot_id: max(boot.acked_seq - 1, 0) for boot in boots}
        self._passport_sent = passport
        self._protocol = StreamProtocol(
            agent_id=owner.agent_id,
            version=owner.version,
            epoch=(journal.epoch << 24) + owner.attempts,
            boots=boots,
            aside=owner.aside,
        )
        self._bidi.send(self._protocol.hello())
        with journal.subscribed(self._news):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, nursery.cancel_scope)
                nursery.start_soon(self._watch)
                await self._deliver()
                nursery.cancel_scope.cancel()

    def _news(self) -> None:
        self._wake.set()

    async def _read(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work)

    async def _receive(self, scope: trio.CancelScope) -> None:
        async for data in self._bidi.received:
            self._heard = trio.current_time()
            match self._protocol.receive(data):
                case Challenge(challenge):
                    for aside in self._protocol.aside:
                        self._set_aside(aside)
                    self._prove(challenge)
                case SetAside() as aside:
                    self._set_aside(aside)
                case Acked() as acked:
                    await self._acknowledged(acked)
            self._wake.set()
        code = self._bidi.ended.code
        if self._closing and not code:  # it ends its side when it has dealt with all of ours
            self._confirm(ended=True)
            self._owner.finished.set()
        else:
            self._owner.problem(
                "the Observer is away"
                if code in ("", "UNAVAILABLE")
                else f"the stream broke: {code}"
            )
        scope.cancel()

    def _prove(self, challenge: bytes) -> None:
        owner = self._owner
        cose = sign_stream_proof(
            owner.key,
            challenge=challenge,
            boot_id=self._journal.boot_id,
        )
        self._bidi.send(pb.AgentMessage(proof=pb.Proof(cose=cose)).SerializeToString())
        self._heartbeat()
        status = owner.status
        status.connected_now(trio.current_time())
        self._welcomed.set()
        _LOG.info("stream.open", observer=owner.target.address)

    async def _acknowledged(self, acked: Acked) -> None:
        boot_id, seq = acked.boot_id, acked.through_seq
        ours = self._sent_heads.pop((boot_id, seq), None)
        if ours is None:  # not the end of a batch of this stream
            ours = await self._read(lambda: self._reader.head_at(boot_id, seq))
        if ours != acked.head:
            raise StreamClosedError(
                "fork",
                f"the Observer acknowledged another history of boot {boot_id.hex()} at {seq}",
                alarm=True,
            )
        self._journal.acknowledge(boot_id, seq, acked.head)
        self._acked[boot_id] = max(self._acked[boot_id], seq)
        status = self._owner.status
        status.acks += 1
        if boot_id == self._journal.boot_id:
            status.acked_seq = max(status.acked_seq, seq)
        self._measure_older()
        self._confirm()

    def _confirm(self, *, ended: bool = False) -> None:
        """The Observer deals with one message after the other: the answer to a batch, or its own
        end after ours (`ended`), says that it has had the checkpoints that were sent before."""
        while self._unconfirmed and (ended or self._unconfirmed[0][2] < self._protocol.answered):
            boot_id, seq, _ = self._unconfirmed.popleft()
            if self._acked[boot_id] >= seq:
                self._journal.checkpoint_delivered(boot_id, seq)

    def _set_aside(self, aside: SetAside) -> None:
        """An earlier boot stays in the journal, undelivered: a person has to look."""
        owner, boot_id = self._owner, aside.boot_id
        self._aside.add(boot_id)
        # What made the Observer refuse may have been a checkpoint: none of it counts as delivered.
        self._unconfirmed = deque(sent for sent in self._unconfirmed if sent[0] != boot_id)
        self._sent_heads = {at: head for at, head in self._sent_heads.items() if at[0] != boot_id}
        self._measure_older()
        owner.status.set_aside = len(self._aside)
        if boot_id not in owner.aside:
            owner.aside.add(boot_id)
            owner.status.alarms += 1
            owner.status.alarm = f"{aside.code}: boot {boot_id.hex()} is set aside: {aside.detail}"
            _LOG.error("stream.aside", boot=boot_id.hex(), code=aside.code, error=aside.detail)

    def _measure_older(self) -> None:
        running = self._journal.boot_id
        self._owner.status.older = sum(
            boot.last_seq - self._acked[boot.boot_id]
            for boot in self._boots.values()
            if boot.boot_id != running and boot.boot_id not in self._aside
        )

    async def _deliver(self) -> None:
        """Send what there is, then wait for news; the caller's nursery ends it."""
        owner = self._owner
        while True:
            self._wake = trio.Event()
            self._send_passport()
            sent = await self._send_batches()
            await self._send_checkpoints()
            if sent:
                continue
            if self._has_room():
                return  # for those that found no place: the next Hello offers them
            if owner.finish.is_set() and self._complete():
                self._closing = True
                self._bidi.half_close()
                with trio.move_on_after(FAREWELL_SECONDS):
                    await trio.sleep_forever()  # the receiver ends this at the Observer's end
                owner.finished.set()
                return
            await self._wake.wait()
            # Under load every commit and every Ack is news; a message for each would cost more
            # than the decisions it carries.
            await trio.sleep(GATHER_SECONDS)

    def _complete(self) -> bool:
        journal = self._journal
        return (
            self._owner.status.connected
            and self._owner.status.lag == 0
            and self._protocol.in_flight == 0
            and self._checkpointed[journal.boot_id] >= journal.durable_seq
        )

    def _has_room(self) -> bool:
        """Whether a Hello would offer boots with records that this one left out."""
        earlier = [boot for boot in self._protocol.accepted if boot != self._journal.boot_id]
        delivered = all(self._acked[boot] >= self._boots[boot].last_seq for boot in earlier)
        came = any(self._acked[boot] > self._boots[boot].acked_seq for boot in earlier)
        moved = came or not self._aside <= self._aside_before
        return bool(self._protocol.waiting) and delivered and moved

    async def _send_batches(self) -> bool:
        sent = False
        for boot_id, first in self._protocol.wanted:
            segment = await self._segment(boot_id, first)
            if boot_id in self._aside:  # meanwhile: nothing would ever answer it
                return True
            if segment is not None:
                self._bidi.send(self._protocol.batch(segment))
                self._sent_heads[boot_id, segment.last_seq] = segment.head
                sent = True
                break  # the oldest boot first; then ask again what is wanted
        return sent

    async def _segment(self, boot_id: bytes, first: int) -> Segment | None:
        journal = self._journal
        running = boot_id == journal.boot_id
        if first > (journal.durable_seq if running else self._boots[boot_id].last_seq):
            return None  # an earlier boot has no more than it had
        limits = {"records": BATCH_RECORDS, "size": BATCH_BYTES}
        segment = journal.tail.read(boot_id, first, **limits)
        if segment is None:
            segment = await self._read(partial(self._reader.read, boot_id, first, **limits))
        return segment

    async def _send_checkpoints(self) -> None:
        for boot_id in self._protocol.accepted:
            through = self._protocol.sent_through(boot_id)
            after = self._checkpointed[boot_id]
            if boot_id == self._journal.boot_id:
                through = min(through, self._journal.checkpoint_seq)
            if after >= through:
                continue
            found = await self._read(
                partial(self._reader.checkpoints_since, boot_id, after, limit=64)
            )
            for made in found:
                if made.seq > through or boot_id in self._aside:
                    break
                message = pb.AgentMessage(
                    checkpoint=pb.Checkpoint(
                        boot_id=boot_id, cose=made.cose, recovered_by=made.recovered_by
                    )
                )
                self._bidi.send(message.SerializeToString())
                self._checkpointed[boot_id] = made.seq
                self._unconfirmed.append((boot_id, made.seq, self._protocol.batches))

    def _send_passport(self) -> None:
        passport = self._owner.passport()
        if passport != self._passport_sent and passport and self._owner.status.connected:
            self._passport_sent = passport
            message = pb.Passport(boot_id=self._journal.boot_id, passport=passport)
            self._bidi.send(pb.AgentMessage(passport=message).SerializeToString())

    def _heartbeat(self) -> None:
        heartbeat = pb.Heartbeat(
            durable_seq=self._journal.durable_seq,
            state=self._owner.state(),
        )
        self._bidi.send(pb.AgentMessage(heartbeat=heartbeat).SerializeToString())

    async def _watch(self) -> None:
        """Heartbeats, and an end to silence."""
        with trio.move_on_after(WELCOME_SECONDS) as scope:
            await self._welcomed.wait()
        if scope.cancelled_caught:
            raise StreamClosedError("silent", "the Observer did not answer the Hello", alarm=False)
        while True:
            self._owner.promise(HEARTBEAT_SECONDS + SILENCE_SECONDS)
            await trio.sleep(HEARTBEAT_SECONDS)
            silent = trio.current_time() - self._heard
            if self._protocol.in_flight and silent > SILENCE_SECONDS:
                raise StreamClosedError(
                    "silent", f"the Observer has not answered for {silent:.0f} s", alarm=False
                )
            self._heartbeat()
