"""What the receiver asks of its surroundings: the vocabulary between the state machine and I/O.

Each effect is done before the next one is asked for. Those that answer say with what. A store
that fails, or a stream that lost its place to a newer one, is dealt with by whoever performs the
effect: the machine is then not resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from attestation.checkpoint import Checkpoint
from attestation.wire import observer_pb2 as pb
from observer.batches import NewRecord
from observer.boots import Attested, OfferedBoot, Position


class AlarmCode(StrEnum):
    """What an alarm is about. `UNTRUSTED` comes from peers that proved nothing about themselves."""

    UNTRUSTED = "untrusted"
    BOOT_UNTRUSTED = "boot_untrusted"
    FORK = "fork"
    GAP = "gap"
    ROLLBACK = "rollback"
    INVALID = "invalid"
    CHECKPOINT = "checkpoint"
    DOWNGRADE = "downgrade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Write one message to the agent."""

    message: pb.ObserverMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBoots:
    """Answer: `dict[bytes, StoredBoot]`, those of `boot_ids` that are stored."""

    boot_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBefore:
    """Answer: `Before`: what is known of the newest boots of this agent. The missing records of
    those that are offered may come yet."""

    agent_id: str
    offered: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The agent is who it says: take its place among the live streams, store its boots.

    Answer: `dict[bytes, Position]`, the stored end of each offered boot, read after every older
    stream of this agent has stopped writing.
    """

    agent_id: str
    version: str
    epoch: int
    running: OfferedBoot
    boots: tuple[OfferedBoot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadHeads:
    """Answer: `dict[int, bytes]`, the stored chain heads of a boot for first ≤ seq ≤ last."""

    boot_id: bytes
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Store these records durably, in one transaction. No answer: it is done or it raised."""

    agent_id: str
    boot_id: bytes
    records: tuple[NewRecord, ...]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCheckpoint:
    """Store a checkpoint that verified and agrees with the stored chain."""

    agent_id: str
    checkpoint: Checkpoint
    cose: bytes
    recovered_by: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePassport:
    """Store a renewed passport of the running boot."""

    agent_id: str
    boot_id: bytes
    attested: Attested


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A heartbeat: the agent lives and has this much."""

    agent_id: str
    boot_id: bytes
    state: str
    durable_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something an operator must see.

    Attributes:
        agent_id: as claimed by the peer where `code` is `UNTRUSTED`.
        evidence: bytes that show it (a record, a checkpoint), for a person to look at later.
    """

    code: AlarmCode
    agent_id: str
    boot_id: bytes | None = None
    seq: int | None = None
    reason: str
    detail: str
    evidence: bytes = b""


Effect = (
    Send
    | Close
    | LoadBoots
    | LoadBefore
    | Begin
    | LoadHeads
    | Commit
    | SaveCheckpoint
    | SavePassport
    | Heard
    | Alarm
)
