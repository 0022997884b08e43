"""One boot's history: its records in their places, its chain, and what was signed of it. No I/O.

The agent holds its own journal to this when it starts, the Observer what is streamed to it, and
`lucid journal verify` a file that somebody hands over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import chain
from attestation.checkpoint import Checkpoint, verify_checkpoint
from attestation.errors import VerificationError
from attestation.records import Placed, decode_record

MAX_INTEGER: Final = 2**63 - 1  # what the columns of a database hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Somebody vouches for this head of a boot's chain at this place.

    Attributes:
        by: who, for people: `the boot's own key`, `pass-…`.
    """

    seq: int
    head: bytes
    by: str

    def hold(self, head: bytes) -> None:
        """Compare it with the head that the records lead to.

        Raises:
            VerificationError: `chain.signed`: other records were signed.
        """
        if head != self.head:
            raise VerificationError(
                "chain.signed",
                f"{self.by} vouches for head {self.head.hex()[:16]}… at record {self.seq}; the"
                f" records lead to {head.hex()[:16]}…",
            )


class Walk:
    """A boot's chain, followed record by record.

    Attributes:
        seq, head: how far it has come.
    """

    __slots__ = ("head", "seq")

    def __init__(self, seq: int, head: bytes) -> None:
        self.seq = seq
        self.head = head

    def step(self, seq: int, head: bytes, record: bytes) -> None:
        """Follow one more record, with the place and the head that it is said to have.

        Raises:
            VerificationError: `chain.gap`, `chain.broken`; then it has not moved.
        """
        if seq != self.seq + 1:
            raise VerificationError(
                "chain.gap", f"record {self.seq + 1} is expected, record {seq} is there"
            )
        after = chain.advance(self.head, record)
        if head != after:
            raise VerificationError(
                "chain.broken",
                f"the record leads to head {after.hex()[:16]}…; {head.hex()[:16]}… is stored beside"
                " it: it or one before it was changed, removed or reordered",
            )
        self.seq, self.head = seq, head


def decode_placed(data: bytes, *, agent_id: str, boot_id: bytes, seq: int) -> Placed:
    """Decode a record and check that it belongs into this place.

    Raises:
        MalformedError: it is no record.
        VerificationError: `record.agent`, `record.boot`, `record.seq`, `record.time`.
    """
    placed = decode_record(data)
    if placed.agent != agent_id:
        raise VerificationError("record.agent", "the record names another agent")
    if placed.boot != boot_id:
        raise VerificationError("record.boot", "the record names another boot")
    if placed.seq != seq:
        raise VerificationError(
            "record.seq", f"the record says it is record {placed.seq}, not {seq}"
        )
    if not 0 <= placed.wall_ns <= MAX_INTEGER:
        raise VerificationError("record.time", "the record has an impossible time")
    return placed


def verify_head(
    cose: bytes, key: ec.EllipticCurvePublicKey, *, boot_id: bytes, seq: int | None = None
) -> Checkpoint:
    """The checkpoint of a boot, if this key signed it.

    Args:
        seq: the place that it must be of; None: any.

    Raises:
        MalformedError, VerificationError: not a checkpoint by this key, or of another boot or
            place.
    """
    checkpoint = verify_checkpoint(cose, key)
    if checkpoint.boot_id != boot_id:
        raise VerificationError("checkpoint.boot", "the checkpoint names another boot")
    if seq is not None and checkpoint.seq != seq:
        raise VerificationError(
            "checkpoint.seq", f"the checkpoint is of record {checkpoint.seq}, not of {seq}"
        )
    return checkpoint
