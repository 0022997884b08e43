"""One batch of records against what is stored: bytes in, new records out, or the reason why not.

Pure. The order of the checks matters: a batch that does not hash to its own stated head is
damaged or forged (`BatchInvalid`); only a batch that is sound in itself and contradicts what is
stored is proof of two histories (`BatchFork`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attestation import chain
from attestation.errors import AttestationError
from attestation.history import MAX_INTEGER, decode_placed
from attestation.records import Placed
from observer.boots import Position

HEAD_SIZE: Final = 32


class BatchInvalid(Exception):  # noqa: N818 - a ruling about a batch, named after its Nack
    """The batch is not sound in itself; `code` says which rule it breaks."""

    def __init__(self, code: str, detail: str, *, seq: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.seq = seq


class BatchGap(Exception):  # noqa: N818
    """Records between the stored end and this batch are missing."""

    def __init__(self, want_seq: int) -> None:
        super().__init__(f"records from {want_seq} are missing")
        self.want_seq = want_seq


class BatchFork(Exception):  # noqa: N818
    """The batch contradicts the stored chain at `seq`: two histories of one boot."""

    def __init__(self, seq: int, *, have: bytes, got: bytes, evidence: bytes) -> None:
        super().__init__(
            f"two histories: at seq {seq} the stored chain has head {have.hex()[:12]}…, the agent"
            f" now sends {got.hex()[:12]}…"
        )
        self.seq = seq
        self.have = have
        self.got = got
        self.evidence = evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecord:
    """A record that is not stored yet: its exact bytes, decoded fields and the head after it."""

    data: bytes
    placed: Placed
    head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """A batch as it came, fields not yet trusted."""

    boot_id: bytes
    first_seq: int
    last_seq: int
    previous_head: bytes
    head: bytes
    records: Sequence[bytes]


def check_shape(batch: RawBatch, *, max_records: int) -> None:
    """Counts and lengths.

    Raises:
        BatchInvalid: the message contradicts itself or is over a limit.
    """
    count = len(batch.records)
    if not 1 <= count <= max_records:
        raise BatchInvalid("batch.count", f"{count} records; 1 to {max_records} are taken")
    if batch.first_seq < 1 or batch.last_seq > MAX_INTEGER:
        raise BatchInvalid("batch.range", "sequence numbers start at 1 and fit in 63 bits")
    if batch.last_seq - batch.first_seq + 1 != count:
        raise BatchInvalid(
            "batch.range",
            f"{count} records cannot be seq {batch.first_seq} to {batch.last_seq}",
        )
    if len(batch.previous_head) != HEAD_SIZE or len(batch.head) != HEAD_SIZE:
        raise BatchInvalid("batch.head", "a chain head is 32 bytes")


def _heads(batch: RawBatch) -> list[bytes]:
    heads, head = [], batch.previous_head
    for record in batch.records:
        head = chain.advance(head, record)
        heads.append(head)
    if head != batch.head:
        raise BatchInvalid(
            "chain.broken",
            "the records do not hash to the stated head: one was changed, removed or reordered",
        )
    return heads


def _decode(data: bytes, *, agent_id: str, boot_id: bytes, seq: int) -> Placed:
    try:
        return decode_placed(data, agent_id=agent_id, boot_id=boot_id, seq=seq)
    except AttestationError as error:
        raise BatchInvalid(error.code, f"record {seq}: {error}"[:200], seq=seq) from error


def check_batch(
    batch: RawBatch,
    position: Position,
    *,
    agent_id: str,
    genesis: bytes,
    known: Mapping[int, bytes],
) -> list[NewRecord]:
    """The records of a batch that are new; empty where all of them are stored already.

    Args:
        genesis: the head at seq 0 of this boot.
        known: stored heads by seq, for seq from `first_seq - 1` up to the stored end.

    Raises:
        BatchGap: it starts after the stored end.
        BatchInvalid: it is not sound in itself, or a record does not belong here.
        BatchFork: it is sound and contradicts the stored chain.
    """
    if batch.first_seq > position.next_seq:
        raise BatchGap(position.next_seq)
    heads = _heads(batch)
    before = batch.first_seq - 1
    have = genesis if before == 0 else known[before]
    if batch.previous_head != have:
        if before == 0:
            raise BatchInvalid("chain.genesis", "the chain does not start at the boot seed")
        raise BatchFork(before, have=have, got=batch.previous_head, evidence=batch.previous_head)
    new = []
    for offset, (data, head) in enumerate(zip(batch.records, heads, strict=True)):
        seq = batch.first_seq + offset
        if seq <= position.last_seq:
            if known[seq] != head:
                raise BatchFork(seq, have=known[seq], got=head, evidence=data)
            continue
        placed = _decode(data, agent_id=agent_id, boot_id=batch.boot_id, seq=seq)
        new.append(NewRecord(data=data, placed=placed, head=head))
    return new
