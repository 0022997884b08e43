"""The first message of a stream: who speaks, and which boots can be believed.

The running boot must show a passport that verifies now. An earlier boot is believed if its own
passport verified when it was issued, or if it is stored already. A boot that ended before it had
a passport is taken on the word of the running boot, and is marked so. An earlier boot that cannot
be believed is left out of the Welcome and raises an alarm; it does not cut off the living agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import chain
from attestation.errors import AttestationError
from attestation.history import MAX_INTEGER
from attestation.wire import observer_pb2 as pb
from observer.boots import Attested, OfferedBoot, Position, StoredBoot
from observer.config import Limits
from observer.effects import Alarm, AlarmCode

PROTOCOL: Final = 1
MAX_AGENT_ID: Final = 256  # bytes
SEED_SIZE: Final = 32
# Of SEV-SNP a passport has about 8 KiB, of TDX 40. An agent's Hello has up to 256 KiB, but always
# the running boot and one other: two passports of this size fit in `Limits.hello_size`.
MAX_PASSPORT: Final = 128 * 1024


class Refusal(Exception):  # noqa: N818 - the reason a stream ends, not a fault of the Observer
    """The stream ends here: the Nack to send, and the alarm to raise once the peer is proven."""

    def __init__(
        self,
        code: pb.Nack.Code,
        *,
        reason: str,
        detail: str,
        alarm: AlarmCode = AlarmCode.INVALID,
        agent_id: str = "",
        boot_id: bytes | None = None,
        seq: int | None = None,
        evidence: bytes = b"",
        have_head: bytes | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.alarm = alarm
        self.agent_id = agent_id
        self.boot_id = boot_id
        self.seq = seq
        self.evidence = evidence
        self.have_head = have_head


class Trust(Protocol):
    """Verifies passports. Both raise AttestationError; neither returns a doubt."""

    def current(self, token: bytes, now: datetime) -> Attested: ...

    def historical(self, token: bytes) -> Attested: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """A Hello that verified; the proof of the key is still missing."""

    agent_id: str
    version: str
    epoch: int
    running: OfferedBoot
    key: ec.EllipticCurvePublicKey
    thumbprint: bytes
    boots: tuple[OfferedBoot, ...]
    skipped: tuple[Alarm, ...]
    left_out: int


def _shape(hello: pb.Hello, limits: Limits) -> None:
    problem = ""
    if hello.protocol != PROTOCOL:
        problem = f"protocol {hello.protocol} is not known here; this is protocol {PROTOCOL}"
    elif not 1 <= len(hello.agent_id.encode()) <= MAX_AGENT_ID or not hello.agent_id.isprintable():
        problem = f"an agent id is 1 to {MAX_AGENT_ID} bytes of printable text"
    elif not 1 <= len(hello.boots) <= limits.boots:
        problem = f"a Hello offers 1 to {limits.boots} boots"
    elif hello.epoch > MAX_INTEGER:
        problem = "an epoch fits in 63 bits"
    elif len({boot.boot_id for boot in hello.boots}) != len(hello.boots):
        problem = "a boot is offered twice"
    elif hello.boot_id not in {boot.boot_id for boot in hello.boots}:
        problem = "the running boot is not among the boots offered"
    elif any(
        boot.first_unacked_seq > MAX_INTEGER or boot.last_seq > MAX_INTEGER for boot in hello.boots
    ):
        problem = "sequence numbers fit in 63 bits"
    elif any(len(boot.passport) > MAX_PASSPORT for boot in hello.boots):
        problem = f"a passport is at most {MAX_PASSPORT} bytes"
    if problem:
        raise Refusal(pb.Nack.INVALID, reason="hello.shape", detail=problem)


def plain(text: str) -> str:
    """A word of the agent's as it is stored and shown: short, printable (databases differ in what
    they do with a NUL)."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:64])


def _seed(boot: pb.Boot) -> None:
    if len(boot.boot_seed) != SEED_SIZE or chain.boot_id(boot.boot_seed) != boot.boot_id:
        raise Refusal(
            pb.Nack.UNTRUSTED,
            reason="boot.seed",
            detail="the boot id is not the one its seed gives",
            boot_id=boot.boot_id[:16],
        )


def _bound(boot: pb.Boot, attested: Attested, stored: StoredBoot | None, agent_id: str) -> None:
    """The passport is of this agent and boot, and of the key this boot had before."""
    if attested.subject != agent_id:
        raise Refusal(
            pb.Nack.UNTRUSTED,
            reason="boot.subject",
            detail="the passport names another agent as its subject",
            boot_id=boot.boot_id,
        )
    if attested.boot_seed != boot.boot_seed:
        raise Refusal(
            pb.Nack.UNTRUSTED,
            reason="boot.passport",
            detail="the passport is of another boot",
            boot_id=boot.boot_id,
        )
    if stored and stored.thumbprint is not None and stored.thumbprint != attested.thumbprint:
        raise Refusal(
            pb.Nack.UNTRUSTED,
            reason="boot.key",
            detail="the key of a boot never changes, and this passport has another one",
            boot_id=boot.boot_id,
        )


def _passport(error: AttestationError, boot_id: bytes) -> Refusal:
    return Refusal(
        pb.Nack.UNTRUSTED,
        reason=error.code,
        detail=f"the passport does not verify: {error}",
        boot_id=boot_id,
    )


def _running(
    boot: pb.Boot, stored: StoredBoot | None, agent_id: str, trust: Trust, now: datetime
) -> tuple[OfferedBoot, Attested]:
    _seed(boot)
    try:
        attested = trust.current(boot.passport, now)
    except AttestationError as error:
        raise _passport(error, boot.boot_id) from error
    _bound(boot, attested, stored, agent_id)
    return _offered(boot, attested, stored), attested


def _earlier(boot: pb.Boot, stored: StoredBoot | None, agent_id: str, trust: Trust) -> OfferedBoot:
    _seed(boot)
    if not boot.passport or (stored and stored.thumbprint is not None):
        return _offered(boot, None, stored)
    try:
        attested = trust.historical(boot.passport)
    except AttestationError as error:
        raise _passport(error, boot.boot_id) from error
    _bound(boot, attested, stored, agent_id)
    return _offered(boot, attested, stored)


def _offered(boot: pb.Boot, attested: Attested | None, stored: StoredBoot | None) -> OfferedBoot:
    before = stored.stated if stored else None
    now = attested.stated if attested else None
    return OfferedBoot(
        boot_id=boot.boot_id,
        boot_seed=boot.boot_seed,
        attested=attested,
        first_unacked_seq=boot.first_unacked_seq,
        last_seq=boot.last_seq,
        stated=tuple(stated for stated in (before, now) if stated is not None),
    )


def greet(
    hello: pb.Hello,
    stored: Mapping[bytes, StoredBoot],
    trust: Trust,
    limits: Limits,
    now: datetime,
) -> Greeting:
    """Check a Hello against what is stored.

    Raises:
        Refusal: it is malformed, or the running boot cannot be believed.
    """
    _shape(hello, limits)
    raw = next(boot for boot in hello.boots if boot.boot_id == hello.boot_id)
    try:
        _owned(raw, stored.get(raw.boot_id), hello.agent_id)
        running, attested = _running(raw, stored.get(raw.boot_id), hello.agent_id, trust, now)
    except Refusal as refusal:
        refusal.agent_id = hello.agent_id
        raise
    boots, skipped = [], []
    for boot in hello.boots:
        if boot.boot_id == running.boot_id:
            boots.append(running)
            continue
        try:
            _owned(boot, stored.get(boot.boot_id), hello.agent_id)
            boots.append(_earlier(boot, stored.get(boot.boot_id), hello.agent_id, trust))
        except Refusal as refusal:
            skipped.append(
                Alarm(
                    code=AlarmCode.BOOT_UNTRUSTED,
                    agent_id=hello.agent_id,
                    boot_id=boot.boot_id[:16],
                    reason=refusal.reason,
                    detail=f"an earlier boot is not accepted: {refusal.detail}",
                )
            )
    return Greeting(
        agent_id=hello.agent_id,
        version=plain(hello.version),
        epoch=hello.epoch,
        running=running,
        key=attested.key,
        thumbprint=attested.thumbprint,
        boots=tuple(boots),
        skipped=tuple(skipped),
        left_out=hello.left_out,
    )


def _owned(boot: pb.Boot, stored: StoredBoot | None, agent_id: str) -> None:
    if stored is not None and stored.agent_id != agent_id:
        raise Refusal(
            pb.Nack.UNTRUSTED,
            reason="boot.agent",
            detail="this boot is stored under another agent id",
            boot_id=boot.boot_id,
        )


def compare_ends(boot: OfferedBoot, position: Position, agent_id: str) -> Iterator[Alarm]:
    """What one side has and the other has lost. The stream goes on: sending again may heal it."""
    if boot.first_unacked_seq > position.next_seq:
        yield Alarm(
            code=AlarmCode.GAP,
            agent_id=agent_id,
            boot_id=boot.boot_id,
            seq=position.next_seq,
            reason="observer.lost",
            detail=f"the agent has our acknowledgement up to seq {boot.first_unacked_seq - 1}, and"
            f" only seq {position.last_seq} is stored: this Observer's database lost records. The"
            " agent is asked for them again.",
        )
    if boot.last_seq < position.last_seq:
        yield Alarm(
            code=AlarmCode.ROLLBACK,
            agent_id=agent_id,
            boot_id=boot.boot_id,
            seq=boot.last_seq,
            reason="agent.lost",
            detail=f"the agent's journal ends at seq {boot.last_seq}, seq {position.last_seq} is"
            " stored here: the agent's disk was rolled back or its journal was cut.",
        )


def renew(message: pb.Passport, greeting: Greeting, trust: Trust, now: datetime) -> Attested:
    """Check a renewed passport of the running boot.

    Raises:
        Refusal: it does not verify, or is of another boot or key.
    """
    boot = greeting.running
    try:
        if message.boot_id != boot.boot_id:
            raise Refusal(
                pb.Nack.UNTRUSTED, reason="boot.passport", detail="a passport of another boot"
            )
        attested = trust.current(message.passport, now)
    except AttestationError as error:
        raise _passport(error, boot.boot_id) from error
    same = (boot.boot_seed, greeting.thumbprint, greeting.agent_id)
    if (attested.boot_seed, attested.thumbprint, attested.subject) != same:
        raise Refusal(
            pb.Nack.UNTRUSTED,
            reason="boot.key",
            detail="the renewed passport is of another agent, boot or key",
            boot_id=boot.boot_id,
        )
    return attested
