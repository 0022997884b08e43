"""One stream from an agent, as a state machine without I/O.

    HELLO --hello--> PROOF --proof--> OPEN --(batch, checkpoint, heartbeat, passport)*

`Receiver.receive` takes the bytes of one message and yields effects (`observer.effects`); the edge
performs each and sends the answer back in. Nothing an agent sends counts before its passport and
its proof have verified, and nothing is acknowledged before the effect `Commit` has returned.

What goes wrong ends as a `Nack` with the reason, mostly as an alarm too, and closes the stream. Two
things leave it open: a gap, because the agent can go back by itself, and what is wrong with a boot
that ended before. That boot is set aside, and the living one goes on (docs/adr/0023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any, ClassVar

from google.protobuf.message import DecodeError

from attestation import chain
from attestation.checkpoint import verify_stream_proof
from attestation.errors import AttestationError
from attestation.history import MAX_INTEGER
from attestation.wire import observer_pb2 as pb
from observer.batches import (
    BatchFork,
    BatchGap,
    BatchInvalid,
    RawBatch,
    check_batch,
    check_shape,
)
from observer.before import alarms_about
from observer.boots import Before, OfferedBoot, Position, StoredBoot
from observer.checkpoints import Asking, Checkpoints, Effects
from observer.config import Limits
from observer.effects import (
    Alarm,
    AlarmCode,
    Begin,
    Close,
    Commit,
    Heard,
    LoadBefore,
    LoadBoots,
    LoadHeads,
    SavePassport,
    Send,
)
from observer.hello import Greeting, Refusal, Trust, compare_ends, greet, plain, renew
from observer.stated import Statements, missing


class State(Enum):
    HELLO = "hello"
    PROOF = "proof"
    OPEN = "open"
    CLOSED = "closed"


def nack(code: pb.Nack.Code, detail: str, **fields: Any) -> pb.ObserverMessage:
    """A refusal; `detail` is for a person and is cut at 500 characters."""
    return pb.ObserverMessage(nack=pb.Nack(code=code, detail=detail[:500], **fields))


def _nack_of(refusal: Refusal, **fields: Any) -> pb.ObserverMessage:
    if refusal.boot_id is not None:
        fields["boot_id"] = refusal.boot_id
    if refusal.have_head is not None:
        fields["have_head"] = refusal.have_head
    return nack(refusal.code, f"{refusal.detail} [{refusal.reason}]", **fields)


class Receiver:
    """The state of one stream.

    Args:
        trust: what verifies passports.
        challenge: 32 fresh random bytes; the proof signs them.
        limits: bounds on what the peer may send.
    """

    def __init__(self, *, trust: Trust, challenge: bytes, limits: Limits) -> None:
        self._trust = trust
        self._challenge = challenge
        self._limits = limits
        self._greeting: Greeting | None = None
        self._positions: dict[bytes, Position] = {}
        self._boots: dict[bytes, OfferedBoot] = {}
        self._aside: set[bytes] = set()
        self._checkpoints = Checkpoints(limit=limits.pending_checkpoints)
        self._statements = Statements(limit=limits.pending_checkpoints)
        self._gaps: Counter[bytes] = Counter()
        self.state = State.HELLO

    @property
    def agent_id(self) -> str:
        """The agent's id, as claimed before `OPEN`, proven after."""
        return self._greeting.agent_id if self._greeting else ""

    def receive(self, data: bytes, now: datetime) -> Effects:
        """What to do about one message. Run it to its end before the next one."""
        try:
            self._check_size(data)
            message = pb.AgentMessage.FromString(data)
            kind = message.WhichOneof("message") or "empty"
            handler = self._TABLE.get((self.state, kind), Receiver._out_of_place)
            yield from handler(self, message, now)
        except DecodeError:
            yield from self._refuse(
                Refusal(
                    pb.Nack.INVALID,
                    reason="protocol.decode",
                    detail="the message is not an AgentMessage",
                )
            )
        except Refusal as refusal:
            yield from self._refuse(refusal)

    def _check_size(self, data: bytes) -> None:
        """Before it is parsed: a parsed message takes up to fifty times its size."""
        most = self._limits.hello_size
        if self.state is not State.OPEN and len(data) > most:
            raise Refusal(
                pb.Nack.INVALID,
                reason="hello.size",
                detail=f"a message of {len(data)} bytes; before the proof one has at most {most}",
            )

    def _refuse(self, refusal: Refusal) -> Effects:
        proven = self.state is State.OPEN
        self.state = State.CLOSED
        untrusted = refusal.code == pb.Nack.UNTRUSTED
        code = AlarmCode.UNTRUSTED
        if proven:
            code = AlarmCode.BOOT_UNTRUSTED if untrusted else refusal.alarm
        if proven or untrusted:  # noise from peers that never said who they are is no alarm
            yield self._alarm(refusal, code)
        yield Send(message=_nack_of(refusal))
        yield Close()

    def _alarm(self, refusal: Refusal, code: AlarmCode) -> Alarm:
        return Alarm(
            code=code,
            agent_id=self.agent_id or refusal.agent_id,
            boot_id=refusal.boot_id,
            seq=refusal.seq,
            reason=refusal.reason,
            detail=refusal.detail,
            evidence=refusal.evidence,
        )

    def _about(self, boot_id: bytes, work: Effects) -> Effects:
        """Do what concerns one boot. One that ended before and cannot be right is set aside: a
        replay of it must not keep the living agent from being heard.

        Raises:
            Refusal: it is about the running boot, or about none that was accepted.
        """
        try:
            yield from work
        except Refusal as refusal:
            if boot_id not in self._boots or boot_id == self._greeted().running.boot_id:
                raise
            del self._boots[boot_id]
            self._aside.add(boot_id)
            yield self._alarm(refusal, refusal.alarm)
            yield Send(message=_nack_of(refusal, boot_only=True))

    # -- before anything counts ------------------------------------------------------------

    def _on_hello(self, message: pb.AgentMessage, now: datetime) -> Effects:
        # As many as may be offered; there may be millions of empty ones.
        boots = islice(message.hello.boots, self._limits.boots)
        boot_ids = tuple(boot.boot_id for boot in boots)
        stored: dict[bytes, StoredBoot] = yield LoadBoots(boot_ids=boot_ids)
        greeting = greet(message.hello, stored, self._trust, self._limits, now)
        self._greeting = greeting
        self.state = State.PROOF
        welcome = pb.Welcome(
            accepted=[
                pb.Accepted(
                    boot_id=boot.boot_id,
                    next_seq=stored[boot.boot_id].position.next_seq
                    if boot.boot_id in stored
                    else 1,
                )
                for boot in greeting.boots
            ],
            credits=self._limits.credits,
            challenge=self._challenge,
        )
        yield Send(message=pb.ObserverMessage(welcome=welcome))

    def _on_proof(self, message: pb.AgentMessage, _now: datetime) -> Effects:
        greeting = self._greeted()
        try:
            verify_stream_proof(
                message.proof.cose,
                greeting.key,
                challenge=self._challenge,
                boot_id=greeting.running.boot_id,
            )
        except AttestationError as error:
            raise Refusal(
                pb.Nack.UNTRUSTED,
                reason=error.code,
                detail=f"the proof of the passport's key does not verify: {error}",
                boot_id=greeting.running.boot_id,
            ) from error
        before = yield from self._before(greeting)
        self._positions = yield Begin(
            agent_id=greeting.agent_id,
            version=greeting.version,
            epoch=greeting.epoch,
            running=greeting.running,
            boots=greeting.boots,
        )
        self._boots = {boot.boot_id: boot for boot in greeting.boots}
        self.state = State.OPEN
        yield from greeting.skipped
        running = greeting.running.attested
        assert running is not None  # `greet` takes no running boot without
        yield from alarms_about(before, running, greeting.running.boot_id)
        for boot in greeting.boots:
            yield from compare_ends(boot, self._positions[boot.boot_id], greeting.agent_id)
            yield from missing(boot, greeting.agent_id)
        for boot in greeting.boots:
            self._statements.expect(boot.boot_id, *boot.stated)
            settle = self._statements.settle(boot, self._positions[boot.boot_id])
            yield from self._about(boot.boot_id, settle)

    def _before(self, greeting: Greeting) -> Asking[Before]:
        """Asked before the new boot takes the place of the one that ran before."""
        offered = {boot.boot_id for boot in greeting.boots}
        offered |= {alarm.boot_id for alarm in greeting.skipped if alarm.boot_id is not None}
        found: Before = yield LoadBefore(agent_id=greeting.agent_id, offered=frozenset(offered))
        if greeting.left_out or len(offered) >= self._limits.boots:
            # Those that had no place in this Hello follow in the next one.
            found = replace(found, lost=())
        return found

    def _out_of_place(self, message: pb.AgentMessage, _now: datetime) -> Effects:
        kind = message.WhichOneof("message") or "empty"
        raise Refusal(
            pb.Nack.INVALID,
            reason="protocol.order",
            detail=f"a message of kind {kind!r} has no place in state {self.state.value!r}",
        )

    def _on_early_heartbeat(self, _message: pb.AgentMessage, _now: datetime) -> Effects:
        """A heartbeat that crossed the Welcome on the way says nothing yet."""
        yield from ()

    # -- the open stream -------------------------------------------------------------------

    def _on_batch(self, message: pb.AgentMessage, _now: datetime) -> Effects:
        if message.batch.boot_id not in self._aside:
            yield from self._about(message.batch.boot_id, self._batch(message.batch))

    def _batch(self, raw: pb.Batch) -> Effects:
        batch = RawBatch(
            boot_id=raw.boot_id,
            first_seq=raw.first_seq,
            last_seq=raw.last_seq,
            previous_head=raw.previous_head,
            head=raw.head,
            records=raw.records,
        )
        boot, position = self._boot(batch.boot_id)
        genesis = chain.genesis(boot.boot_seed)
        try:
            check_shape(batch, max_records=self._limits.batch_records)
            known = yield from self._known(batch, position)
            records = check_batch(
                batch, position, agent_id=self.agent_id, genesis=genesis, known=known
            )
        except BatchGap as gap:
            yield from self._gap(batch, gap)
            return
        except BatchFork as fork:
            raise Refusal(
                pb.Nack.FORK,
                reason="chain.fork",
                detail=str(fork),
                alarm=AlarmCode.FORK,
                boot_id=batch.boot_id,
                seq=fork.seq,
                evidence=fork.evidence,
                have_head=fork.have,
            ) from fork
        except BatchInvalid as error:
            raise Refusal(
                pb.Nack.INVALID,
                reason=error.code,
                detail=str(error),
                alarm=AlarmCode.INVALID,
                boot_id=batch.boot_id,
                seq=error.seq,
            ) from error
        self._gaps[batch.boot_id] = 0
        if records:
            position = Position(last_seq=batch.last_seq, head=batch.head)
            yield Commit(
                agent_id=self.agent_id,
                boot_id=batch.boot_id,
                records=tuple(records),
                position=position,
            )
            self._positions[batch.boot_id] = position
        # Never more than this batch: an agent need not believe an Ack for what it has not sent.
        ack = pb.Ack(boot_id=batch.boot_id, through_seq=batch.last_seq, head=batch.head)
        yield Send(message=pb.ObserverMessage(ack=ack))
        yield from self._checkpoints.settle(boot, position)
        yield from self._statements.settle(boot, position)

    def _known(self, batch: RawBatch, position: Position) -> Asking[dict[int, bytes]]:
        first = batch.first_seq - 1
        if first == position.last_seq:  # the usual case: the batch follows what is stored
            return {first: position.head}
        if first > position.last_seq:
            return {}
        known: dict[int, bytes] = yield LoadHeads(
            boot_id=batch.boot_id,
            first_seq=max(first, 1),
            last_seq=min(batch.last_seq, position.last_seq),
        )
        return known

    def _gap(self, batch: RawBatch, gap: BatchGap) -> Effects:
        self._gaps[batch.boot_id] += 1
        if self._gaps[batch.boot_id] > self._limits.gaps_in_a_row:
            raise Refusal(
                pb.Nack.GAP,
                reason="chain.gap",
                detail=f"the agent was asked for seq {gap.want_seq} and never sent it",
                alarm=AlarmCode.GAP,
                boot_id=batch.boot_id,
                seq=gap.want_seq,
            )
        yield Send(
            message=nack(pb.Nack.GAP, str(gap), boot_id=batch.boot_id, want_seq=gap.want_seq)
        )

    def _on_checkpoint(self, message: pb.AgentMessage, _now: datetime) -> Effects:
        raw = message.checkpoint
        if raw.boot_id not in self._aside:
            yield from self._about(raw.boot_id, self._checkpoint(raw))

    def _checkpoint(self, raw: pb.Checkpoint) -> Effects:
        boot, position = self._boot(raw.boot_id)
        yield from self._checkpoints.offer(raw, boot, agent_id=self.agent_id)
        yield from self._checkpoints.settle(boot, position)

    def _on_heartbeat(self, message: pb.AgentMessage, _now: datetime) -> Effects:
        yield Heard(
            agent_id=self.agent_id,
            boot_id=self._greeted().running.boot_id,
            state=plain(message.heartbeat.state),
            durable_seq=min(message.heartbeat.durable_seq, MAX_INTEGER),
        )

    def _on_passport(self, message: pb.AgentMessage, now: datetime) -> Effects:
        greeting = self._greeted()
        attested = renew(message.passport, greeting, self._trust, now)
        yield SavePassport(
            agent_id=self.agent_id, boot_id=greeting.running.boot_id, attested=attested
        )
        boot, position = self._boot(greeting.running.boot_id)
        self._statements.expect(boot.boot_id, attested.stated)
        yield from self._statements.settle(boot, position)

    # -- helpers ---------------------------------------------------------------------------

    def _greeted(self) -> Greeting:
        assert self._greeting is not None  # every state after HELLO has one
        return self._greeting

    def _boot(self, boot_id: bytes) -> tuple[OfferedBoot, Position]:
        try:
            return self._boots[boot_id], self._positions[boot_id]
        except KeyError:
            raise Refusal(
                pb.Nack.INVALID,
                reason="protocol.boot",
                detail="this boot was not accepted in the Welcome",
                alarm=AlarmCode.INVALID,
                boot_id=boot_id[:16],
            ) from None

    _Handler = Callable[["Receiver", pb.AgentMessage, datetime], Effects]
    _TABLE: ClassVar[dict[tuple[State, str], _Handler]] = {
        (State.HELLO, "hello"): _on_hello,
        (State.PROOF, "proof"): _on_proof,
        (State.PROOF, "heartbeat"): _on_early_heartbeat,
        (State.OPEN, "batch"): _on_batch,
        (State.OPEN, "checkpoint"): _on_checkpoint,
        (State.OPEN, "heartbeat"): _on_heartbeat,
        (State.OPEN, "passport"): _on_passport,
    }
