"""What passports say of a boot's chain, held against the records that came.

A quote binds the journal's head at the moment of its passport. So a passport proves that the
records up to there existed, and which: a journal that lacks them was cut, one with others was
rewritten, however well it hashes and whoever signed its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from attestation.wire import observer_pb2 as pb
from observer.boots import OfferedBoot, Position, Stated
from observer.checkpoints import Effects, head_at
from observer.effects import Alarm, AlarmCode
from observer.hello import Refusal


class Statements:
    """What is not compared yet. At most `limit` wait per boot; the oldest go."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[bytes, deque[Stated]] = {}

    def expect(self, boot_id: bytes, *stated: Stated) -> None:
        """Let them wait for `settle`."""
        self._waiting.setdefault(boot_id, deque(maxlen=self._limit)).extend(stated)

    def settle(self, boot: OfferedBoot, position: Position) -> Effects:
        """Compare those that the stored chain has reached.

        Raises:
            Refusal: a passport proves another history than the agent sent.
        """
        waiting = self._waiting.get(boot.boot_id, deque())
        for stated in [stated for stated in waiting if stated.seq <= position.last_seq]:
            waiting.remove(stated)
            head = yield from head_at(boot, position, stated.seq)
            if stated.head != head:
                raise Refusal(
                    pb.Nack.FORK,
                    reason="passport.head",
                    detail=f"{stated.passport_id} proves head {stated.head.hex()[:12]}… at seq"
                    f" {stated.seq}; the records that were sent lead to {head.hex()[:12]}…: the"
                    " journal was rewritten",
                    alarm=AlarmCode.FORK,
                    boot_id=boot.boot_id,
                    seq=stated.seq,
                    evidence=stated.head,
                    have_head=head,
                )


def missing(boot: OfferedBoot, agent_id: str) -> Iterator[Alarm]:
    """Records that a passport proves and the agent does not have any more."""
    last = max(boot.stated, key=lambda stated: stated.seq, default=None)
    if last is not None and last.seq > boot.last_seq:
        yield Alarm(
            code=AlarmCode.ROLLBACK,
            agent_id=agent_id,
            boot_id=boot.boot_id,
            seq=boot.last_seq,
            reason="passport.ahead",
            detail=f"the agent's journal ends at seq {boot.last_seq}; {last.passport_id} proves it"
            f" to seq {last.seq}: the agent's disk was rolled back or its journal was cut.",
            evidence=last.head,
        )
