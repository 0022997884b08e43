"""Checkpoints of one stream: who may sign them, and whether the stored chain agrees.

A checkpoint may come before the records it covers; some are kept waiting for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, TypeVar

from attestation import chain
from attestation.errors import AttestationError
from attestation.history import verify_head
from attestation.wire import observer_pb2 as pb
from observer.boots import OfferedBoot, Position, StoredBoot
from observer.effects import AlarmCode, Effect, LoadBoots, LoadHeads, SaveCheckpoint
from observer.hello import Refusal

Answer = TypeVar("Answer")
Asking = Generator[Effect, Any, Answer]  # effects on the way to an answer
Effects = Asking[None]


class Checkpoints:
    """What was signed and is not compared yet. At most `limit` wait per boot; the oldest go."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[bytes, deque[SaveCheckpoint]] = {}

    def offer(self, raw: pb.Checkpoint, boot: OfferedBoot, *, agent_id: str) -> Effects:
        """Verify a checkpoint and let it wait for `settle`.

        Raises:
            Refusal: the signature, the signer or the content is wrong.
        """
        signer = raw.recovered_by or boot.boot_id
        stored: dict[bytes, StoredBoot] = yield LoadBoots(boot_ids=(signer,))
        by = stored.get(signer)
        if by is None or by.key is None or by.agent_id != agent_id:
            raise _bad(raw, "checkpoint.signer", "its signer is no verified boot of this agent")
        try:
            checkpoint = verify_head(raw.cose, by.key, boot_id=boot.boot_id)
        except AttestationError as error:
            raise _bad(raw, error.code, str(error)) from error
        waiting = self._waiting.setdefault(boot.boot_id, deque(maxlen=self._limit))
        waiting.append(
            SaveCheckpoint(
                agent_id=agent_id,
                checkpoint=checkpoint,
                cose=raw.cose,
                recovered_by=raw.recovered_by or None,
            )
        )

    def settle(self, boot: OfferedBoot, position: Position) -> Effects:
        """Compare those that the stored chain has reached.

        Raises:
            Refusal: the agent signed another history than it sent.
        """
        waiting = self._waiting.get(boot.boot_id, deque())
        for save in [save for save in waiting if save.checkpoint.seq <= position.last_seq]:
            waiting.remove(save)
            checkpoint = save.checkpoint
            head = yield from head_at(boot, position, checkpoint.seq)
            if checkpoint.head != head:
                raise Refusal(
                    pb.Nack.FORK,
                    reason="checkpoint.head",
                    detail=f"the agent signed head {checkpoint.head.hex()[:12]}… at seq"
                    f" {checkpoint.seq}; the records it sent lead to {head.hex()[:12]}…",
                    alarm=AlarmCode.FORK,
                    boot_id=boot.boot_id,
                    seq=checkpoint.seq,
                    evidence=save.cose,
                    have_head=head,
                )
            yield save


def head_at(boot: OfferedBoot, position: Position, seq: int) -> Asking[bytes]:
    """The stored chain's head at a seq that it has reached."""
    if seq == 0:
        return chain.genesis(boot.boot_seed)
    if seq == position.last_seq:
        return position.head
    heads: dict[int, bytes] = yield LoadHeads(boot_id=boot.boot_id, first_seq=seq, last_seq=seq)
    return heads[seq]


def _bad(raw: pb.Checkpoint, reason: str, detail: str) -> Refusal:
    return Refusal(
        pb.Nack.INVALID,
        reason=reason,
        detail=f"a checkpoint cannot be accepted: {detail}",
        alarm=AlarmCode.CHECKPOINT,
        boot_id=raw.boot_id,
        evidence=raw.cose,
    )
