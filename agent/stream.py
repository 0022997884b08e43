"""Delivers the journal to the Observer, at least once, for as long as the daemon lives.

Everything the journal holds and the Observer has not acknowledged is sent, oldest boot first. The
Observer being away costs disk, never a decision. Threads: the gRPC bridge's two and one reader of
the journal's file; none outlives its stream.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.grpc_bridge import Bidi, open_bidi, open_channel
from agent.journal import Journal
from agent.journal.reader import Boot, JournalReader, Segment
from agent.lifecycle import Part, Trouble, Weight
from agent.stream_protocol import Acked, Challenge, StreamClosedError, StreamProtocol
from agent.stream_status import StreamStatus, Target
from agent.supervise import Faults, first_of
from agent.watchdog import REST, Promise, no_promise
from attestation.checkpoint import sign_stream_proof
from attestation.wire import observer_pb2 as pb

METHOD: Final = "/lucid.observer.v1.Observer/Stream"
BATCH_RECORDS: Final = 512
BATCH_BYTES: Final = 256 * 1024
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0  # without any answer while batches are in flight
WELCOME_SECONDS: Final = 15.0
FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 60.0
ALARM_RETRY_SECONDS: Final = 60.0
OPEN_SECONDS: Final = 180.0  # TLS files, a large journal to look through, the Hello (a guess)
STEADY_SECONDS: Final = 5.0  # a stream that lived this long ends the trouble before it (a guess)
AWAY_SECONDS: Final = 15.0  # an Observer may restart in this time without anybody's concern
GATHER_SECONDS: Final = 0.05  # decisions of this long share a message

_LOG = logs.get("stream")

T = TypeVar("T")


class ObserverStream:
    """One agent's stream. `run` lives until cancelled."""

    def __init__(
        self,
        journal: Journal,
        *,
        target: Target,
        agent_id: str,
        version: str,
        key: ec.EllipticCurvePrivateKey,
        passport: Callable[[], bytes | None],
        state: Callable[[], str],
        faults: Faults,
        rng: random.Random,
    ) -> None:
        self.journal = journal
        self.target = target
        self.agent_id = agent_id
        self.version = version
        self.key = key
        self.passport = passport
        self.state = state
        self._faults = faults
        self._rng = rng
        self.finish = trio.Event()
        self.finished = trio.Event()
        self.promise: Promise = (
            no_promise  # how long until the next sign of life (`agent.watchdog`)
        )
        self.attempts = 0  # streams of this process; part of the epoch, so that the newest wins
        self.status = StreamStatus(durable=lambda: journal.durable_seq)

    async def run(self) -> None:
        """Connect, deliver, connect again with back-off. No fault but a cancellation ends it."""
        status, retry = self.status, FIRST_RETRY_SECONDS
        status.away_since = trio.current_time()
        while True:
            before = status.acked_seq
            wait = 0.0
            self.attempts += 1
            try:
                self.promise(REST)
                await self._passport_ready()
                self.promise(OPEN_SECONDS)
                await self._stream()
            except* StreamClosedError as group:
                wait = self._closed(group)
            except* (OSError, ValueError) as group:  # TLS files, a broken address
                self.problem(f"cannot connect: {first_of(group)}")
            except* sqlite3.Error as group:
                self.problem(f"the journal cannot be read: {first_of(group)}")
            except* Exception as group:  # noqa: BLE001 - decisions go on without an Observer
                self.problem(f"a fault of the agent itself: {self._faults.note('stream', group)}")
            lived = status.disconnected(trio.current_time())
            if self.finished.is_set():
                return
            if status.acked_seq > before or lived >= STEADY_SECONDS:
                retry = FIRST_RETRY_SECONDS
            if not wait:
                wait, retry = retry * self._rng.uniform(0.5, 1.0), retry * 2
                retry = min(retry, LONGEST_RETRY_SECONDS)
            status.next_try = trio.current_time() + wait
            self.promise(wait + OPEN_SECONDS)
            await trio.sleep(wait)

    def trouble(self) -> Trouble | None:
        """What the life cycle is told: the Observer refuses, or has been away for a while."""
        status, now = self.status, trio.current_time()
        if status.connected and now - status.connected_since >= STEADY_SECONDS:
            status.refused = ""
            return None
        away = now - status.away_since
        if not status.refused and (status.connected or away < AWAY_SECONDS):
            return None
        left = max(status.next_try - now, 0.0)
        return Trouble(
            part=Part.OBSERVER,
            weight=Weight.CONCERN,
            code=f"observer.{status.refused}" if status.refused else "observer.away",
            reason=status.problem or "the stream has just begun again",
            next=f"the stream is tried again in {left:.0f} s; the journal keeps the {status.lag}"
            " decisions that are not delivered",
        )

    async def delivered(self) -> None:
        """Ask for the end: returns when everything durable is acknowledged and checkpointed."""
        self.finish.set()
        self.journal.announce()
        await self.finished.wait()

    def _closed(self, group: BaseExceptionGroup[StreamClosedError]) -> float:
        error = first_of(group)
        assert isinstance(error, StreamClosedError)
        self.problem(str(error))
        if error.alarm:
            self.status.alarms += 1
            self.status.alarm = f"{error.code}: {error}"
            self.status.refused = error.code
            _LOG.error("stream.alarm", code=error.code, error=str(error))
            return ALARM_RETRY_SECONDS * self._rng.uniform(0.9, 1.1)
        return error.retry_after

    def problem(self, text: str) -> None:
        if text != self.status.problem:
            _LOG.warning("stream.ended", error=text, lag=self.status.lag)
        self.status.problem = text

    async def _passport_ready(self) -> None:
        while self.passport() is None:
            event = trio.Event()
            with self.journal.subscribed(event.set):
                await event.wait()

    async def _stream(self) -> None:
        channel = await trio.to_thread.run_sync(open_channel, self.target)
        try:
            reader = await trio.to_thread.run_sync(JournalReader, self.journal.path)
            try:
                async with open_bidi(channel, METHOD) as bidi:
                    session = _Session(self, bidi, reader)
                    await session.run()
            finally:
                reader.close()
        finally:
            channel.close()


class _Session:
    """One stream from Hello to its end."""

    def __init__(self, owner: ObserverStream, bidi: Bidi, reader: JournalReader) -> None:
        self._owner = owner
        self._journal = owner.journal
        self._bidi = bidi
        self._reader = reader
        self._protocol: StreamProtocol
        self._boots: dict[bytes, Boot] = {}
        self._acked: dict[bytes, int] = {}
        self._checkpointed: dict[bytes, int] = {}
        self._sent_heads: dict[tuple[bytes, int], bytes] = {}  # as many as batches in flight
        self._passport_sent: bytes | None = None
        self._wake = trio.Event()
        self._welcomed = trio.Event()
        self._heard = trio.current_time()

    async def run(self) -> None:
        owner, journal = self._owner, self._journal
        await journal.checkpoint()  # keeps the passport, and signs what a crash left unsigned
        boots = await self._read(lambda: self._reader.boots_unacked(journal.boot_id))
        passport = owner.passport()
        self._boots = {boot.boot_id: boot for boot in boots}
        self._acked = {boot.boot_id: boot.acked_seq for boot in boots}
        self._measure_older()
        self._checkpointed = {boot.boot_id: max(boot.acked_seq - 1, 0) for boot in boots}
        self._passport_sent = passport
        self._protocol = StreamProtocol(
            agent_id=owner.agent_id,
            version=owner.version,
            epoch=(journal.epoch << 24) + owner.attempts,
            boots=boots,
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
                    self._prove(challenge)
                case Acked() as acked:
                    await self._acknowledged(acked)
            self._wake.set()
        if not self._owner.finished.is_set():
            code = self._bidi.ended.code
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

    def _measure_older(self) -> None:
        running = self._journal.boot_id
        self._owner.status.older = sum(
            boot.last_seq - self._acked[boot.boot_id]
            for boot in self._boots.values()
            if boot.boot_id != running
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
            if owner.finish.is_set() and self._complete():
                self._bidi.half_close()
                owner.finished.set()
                with trio.move_on_after(WELCOME_SECONDS):
                    await trio.sleep_forever()  # the receiver ends this at the Observer's end
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

    async def _send_batches(self) -> bool:
        sent = False
        for boot_id, first in self._protocol.wanted:
            segment = await self._segment(boot_id, first)
            if segment is not None:
                self._bidi.send(self._protocol.batch(segment))
                self._sent_heads[boot_id, segment.last_seq] = segment.head
                sent = True
                break  # the oldest boot first; then ask again what is wanted
        return sent

    async def _segment(self, boot_id: bytes, first: int) -> Segment | None:
        journal = self._journal
        if boot_id == journal.boot_id and first > journal.durable_seq:
            return None
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
                if made.seq > through:
                    break
                message = pb.AgentMessage(
                    checkpoint=pb.Checkpoint(
                        boot_id=boot_id, cose=made.cose, recovered_by=made.recovered_by
                    )
                )
                self._bidi.send(message.SerializeToString())
                self._checkpointed[boot_id] = made.seq

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
