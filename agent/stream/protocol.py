"""The agent's side of the Observer stream, without I/O: what was sent, what is acknowledged.

    HELLO --welcome--> OPEN --(ack, credit, gap)*--> CLOSED

Rules: nothing is sent before the Welcome has been answered with the proof; no more batches are in
flight than there are credits; only an `Ack` whose head is ours moves the acknowledged mark (the
edge compares, it has the heads). After a gap, sending goes back once nothing is in flight. An
earlier boot that the Observer cannot take is set aside, and the stream goes on (docs/adr/0023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final

from agent.journal.reader import Boot, Segment
from attestation.wire import observer_pb2 as pb

PROTOCOL: Final = 1
MAX_BOOTS: Final = 64  # in a Hello; the others follow on the next stream
MAX_HELLO: Final = 256 * 1024  # bytes of its passports, but always one earlier boot's
MAX_CREDITS: Final = 64


class State(Enum):
    """Where the stream is."""

    HELLO = "hello"
    OPEN = "open"
    CLOSED = "closed"


class StreamClosedError(Exception):
    """The Observer refused or broke the rules; this stream is over.

    Attributes:
        code: stable: `fork`, `invalid`, `untrusted`, `superseded`, `rollback`, `retry_after`, ….
        alarm: a person has to look.
        retry_after: seconds to wait before the next stream; 0: the usual back-off.
    """

    def __init__(self, code: str, detail: str, *, alarm: bool, retry_after: float = 0) -> None:
        super().__init__(detail)
        self.code = code
        self.alarm = alarm
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Challenge:
    """Answer with a proof of the running boot's key over this."""

    challenge: bytes


@dataclass(frozen=True, slots=True)
class Acked:
    """The Observer says that it committed up to here with this head; compare before believing."""

    boot_id: bytes
    through_seq: int
    head: bytes


@dataclass(frozen=True, slots=True)
class SetAside:
    """An earlier boot that will not be delivered: the code of the refusal, and words for people."""

    boot_id: bytes
    code: str
    detail: str


# Nack code → (our code, alarm?). RETRY_AFTER and GAP are handled apart.
_REFUSALS: Final = {
    pb.Nack.FORK: ("fork", True),
    pb.Nack.INVALID: ("invalid", True),
    pb.Nack.SUPERSEDED: ("superseded", True),
    pb.Nack.UNTRUSTED: ("untrusted", True),
}
_GAP: Final = ("gap", True)
_OTHER: Final = ("refused", True)


class StreamProtocol:
    """The state of one stream. `boots` as the journal offers them, the running one last.

    Args:
        aside: boots that the Observer did not take on an earlier stream: they are offered last.

    Attributes:
        batches: that were sent.
        left_out: boots with records to deliver that found no place in the Hello.
        waiting: of these, how many may still be taken.
        aside: earlier boots that the Welcome left out, or of which the Observer has more than the
            journal.
    """

    def __init__(
        self,
        *,
        agent_id: str,
        version: str,
        epoch: int,
        boots: list[Boot],
        aside: Collection[bytes] = (),
    ) -> None:
        self._agent_id = agent_id
        self._version = version
        self._epoch = epoch
        running = boots[-1]
        # Records first; of a boot that has delivered all, only a checkpoint may be missing.
        earlier = sorted(
            boots[:-1],
            key=lambda boot: (boot.boot_id in aside, boot.last_seq <= boot.acked_seq),
        )
        fitting = _fitting(earlier, len(running.passport))
        offered, rest = earlier[:fitting], earlier[fitting:]
        self._boots = {boot.boot_id: boot for boot in [*offered, running]}
        missing = [boot.boot_id for boot in rest if boot.last_seq > boot.acked_seq]
        self.left_out = len(missing)
        self.waiting = len(set(missing).difference(aside))
        self.aside: list[SetAside] = []
        self._running = running.boot_id
        self._next: dict[bytes, int] = {}
        self._rewind: dict[bytes, int] = {}
        self._credits = 0
        self._flying: Counter[bytes] = Counter()  # batches of each boot without an answer
        self.batches = 0
        self.state = State.HELLO

    def hello(self) -> bytes:
        """The first message."""
        message = pb.AgentMessage(
            hello=pb.Hello(
                protocol=PROTOCOL,
                agent_id=self._agent_id,
                boot_id=self._running,
                epoch=self._epoch,
                version=self._version,
                left_out=self.left_out,
                boots=[
                    pb.Boot(
                        boot_id=boot.boot_id,
                        boot_seed=boot.seed,
                        passport=boot.passport,
                        first_unacked_seq=boot.acked_seq + 1,
                        head=boot.acked_head,
                        last_seq=boot.last_seq,
                    )
                    for boot in self._boots.values()
                ],
            )
        )
        return message.SerializeToString()

    def receive(self, data: bytes) -> Challenge | Acked | SetAside | None:
        """One message of the Observer.

        Raises:
            StreamClosedError: the stream is over; says why and whether it is an alarm.
        """
        try:
            message = pb.ObserverMessage.FromString(data)
        except Exception as error:
            raise self._broken("not an ObserverMessage") from error
        match self.state, message.WhichOneof("message"):
            case State.HELLO, "welcome":
                return self._welcome(message.welcome)
            case State.OPEN, "ack":
                return self._ack(message.ack)
            case State.OPEN, "credit":
                self._credits = min(self._credits + message.credit.batches, MAX_CREDITS)
                return None
            case ((State.HELLO | State.OPEN), "nack"):
                return self._nack(message.nack)
            case state, kind:
                raise self._broken(f"{kind} has no place in state {state.value}")

    def _broken(self, detail: str) -> StreamClosedError:
        self.state = State.CLOSED
        return StreamClosedError(
            "protocol", f"the Observer broke the protocol: {detail}", alarm=True
        )

    def _welcome(self, welcome: pb.Welcome) -> Challenge:
        if len(welcome.challenge) != 32 or not 1 <= welcome.credits <= 1_000_000:
            raise self._broken("a Welcome with a wrong challenge or no credits")
        for accepted in welcome.accepted:
            boot = self._boots.get(accepted.boot_id)
            if boot is None:
                raise self._broken("a Welcome for a boot that was not offered")
            if accepted.next_seq > boot.last_seq + 1:
                detail = (
                    f"the Observer has {accepted.next_seq - 1} records of boot"
                    f" {boot.boot_id.hex()}, this journal {boot.last_seq}: records were removed"
                    " here"
                )
                if boot.boot_id == self._running:
                    self.state = State.CLOSED
                    raise StreamClosedError("rollback", detail, alarm=True)
                self.aside.append(SetAside(boot.boot_id, "rollback", detail))
                continue
            # The Observer may have more than it could acknowledge: the last of it is sent again,
            # to get its Ack with a head that can be compared.
            start = accepted.next_seq
            if start - 1 > boot.acked_seq:
                start -= 1
            self._next[boot.boot_id] = max(start, 1)
        left = self._boots.keys() - {accepted.boot_id for accepted in welcome.accepted}
        if self._running in left:
            raise self._broken("a Welcome without the running boot")
        self.aside += [SetAside(id_, "untrusted", "the Observer did not accept it") for id_ in left]
        self._credits = min(welcome.credits, MAX_CREDITS)
        self.state = State.OPEN
        return Challenge(welcome.challenge)

    def _ack(self, ack: pb.Ack) -> Acked:
        if ack.boot_id not in self._next or not self._flying[ack.boot_id]:
            raise self._broken("an Ack for nothing that was sent")
        if ack.through_seq >= self._next[ack.boot_id]:
            raise self._broken("an Ack for records that were not sent")
        self._landed(ack.boot_id)
        return Acked(ack.boot_id, ack.through_seq, ack.head)

    def _nack(self, nack: pb.Nack) -> SetAside | None:
        detail = "".join(c if c.isprintable() else " " for c in nack.detail)[:300]
        if nack.boot_only and self.state is State.OPEN:
            if nack.boot_id not in self._next or nack.boot_id == self._running:
                raise self._broken("a refusal of a boot that it did not accept, or of the running")
            code, _ = _GAP if nack.code == pb.Nack.GAP else _REFUSALS.get(nack.code, _OTHER)
            return self._set_aside(nack.boot_id, code, f"the Observer refused: {detail}")
        if nack.code == pb.Nack.GAP and self.state is State.OPEN:
            if not self._flying[nack.boot_id] or not nack.want_seq >= 1:
                raise self._broken("a gap in nothing that was sent")
            self._rewind.setdefault(nack.boot_id, nack.want_seq)
            self._landed(nack.boot_id)
            return None
        self.state = State.CLOSED
        if nack.code == pb.Nack.RETRY_AFTER:
            seconds = min(nack.retry_after_ms, 600_000) / 1000
            raise StreamClosedError("retry_after", detail, alarm=False, retry_after=seconds)
        code, alarm = _REFUSALS.get(nack.code, _OTHER)
        raise StreamClosedError(code, f"the Observer refused: {detail}", alarm=alarm)

    def _set_aside(self, boot_id: bytes, code: str, detail: str) -> SetAside:
        """What was sent of it and is not answered will not be."""
        del self._next[boot_id]
        self._rewind.pop(boot_id, None)
        self._flying.pop(boot_id, None)
        self._go_back()
        return SetAside(boot_id, code, detail)

    def _landed(self, boot_id: bytes) -> None:
        self._flying[boot_id] -= 1
        self._go_back()

    def _go_back(self) -> None:
        if self.in_flight == 0:
            for boot_id, seq in self._rewind.items():
                self._next[boot_id] = min(self._next[boot_id], seq)
            self._rewind.clear()

    @property
    def in_flight(self) -> int:
        """Batches that are not answered yet."""
        return self._flying.total()

    @property
    def answered(self) -> int:
        """How many of the batches the Observer has dealt with, and with all that came before."""
        return self.batches - self.in_flight

    @property
    def wanted(self) -> list[tuple[bytes, int]]:
        """Where to read next: (boot, first seq), oldest boot first; empty without a credit."""
        if self.state is not State.OPEN or self.in_flight >= self._credits or self._rewind:
            return []
        return list(self._next.items())

    def batch(self, segment: Segment) -> bytes:
        """The message for a segment that was read at `wanted`; moves on behind it."""
        self._flying[segment.boot_id] += 1
        self.batches += 1
        self._next[segment.boot_id] = segment.last_seq + 1
        message = pb.AgentMessage(
            batch=pb.Batch(
                boot_id=segment.boot_id,
                first_seq=segment.first_seq,
                last_seq=segment.last_seq,
                previous_head=segment.previous_head,
                head=segment.head,
                records=segment.records,
            )
        )
        return message.SerializeToString()

    def sent_through(self, boot_id: bytes) -> int:
        """The last seq of a boot that was sent on this stream, or that the Observer had."""
        return self._next.get(boot_id, 1) - 1

    @property
    def accepted(self) -> list[bytes]:
        """The boots that the Observer takes, oldest first."""
        return list(self._next)


def _fitting(earlier: list[Boot], size: int) -> int:
    """How many of these boots a Hello offers that has `size` bytes of passports already."""
    for number, boot in enumerate(earlier):
        size += len(boot.passport)
        if number == MAX_BOOTS - 1 or (number and size > MAX_HELLO):
            return number
    return len(earlier)
