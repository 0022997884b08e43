"""The surroundings of one stream's state machine, in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from attestation.wire import observer_pb2 as pb
from observer import effects as fx
from observer.boots import Before, Position, StoredBoot
from observer.config import Limits
from observer.receiver import Receiver
from tests.observer.fake_agent import FakeBoot
from tests.observer.fake_trust import FakeTrust

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHALLENGE = bytes(range(32))


class World:
    """Performs effects in memory and remembers them."""

    def __init__(self, trust: FakeTrust) -> None:
        self.receiver = Receiver(trust=trust, challenge=CHALLENGE, limits=Limits(gaps_in_a_row=3))
        self.boots: dict[bytes, StoredBoot] = {}
        self.heads: dict[bytes, dict[int, bytes]] = {}
        self.done: list[Any] = []
        self.closed = False

    def tell(self, message: pb.AgentMessage | bytes) -> list[pb.ObserverMessage]:
        """Let the machine deal with a message; what it sent."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        steps, answer = self.receiver.receive(data, NOW), None
        sent: list[pb.ObserverMessage] = []
        while True:
            try:
                effect = steps.send(answer)
            except StopIteration:
                return sent
            assert not self.closed, "nothing happens after Close"
            self.done.append(effect)
            answer = self._perform(effect)
            if isinstance(effect, fx.Send):
                sent.append(effect.message)

    def _perform(self, effect: Any) -> Any:
        match effect:
            case fx.Close():
                self.closed = True
            case fx.LoadBoots():
                return {i: self.boots[i] for i in effect.boot_ids if i in self.boots}
            case fx.LoadBefore():
                return Before()
            case fx.LoadHeads():
                heads = self.heads[effect.boot_id]
                return {s: heads[s] for s in range(effect.first_seq, effect.last_seq + 1)}
            case fx.Begin():
                for boot in effect.boots:
                    self._begin(effect, boot)
                return {boot.boot_id: self.boots[boot.boot_id].position for boot in effect.boots}
            case fx.Commit():
                old = self.boots[effect.boot_id]
                assert effect.records[0].placed.seq == old.position.next_seq
                for record in effect.records:
                    self.heads[effect.boot_id][record.placed.seq] = record.head
                self._move(old, effect.position)
        return None

    def _begin(self, begin: fx.Begin, boot: Any) -> None:
        if boot.boot_id not in self.boots:
            made = FakeBoot(seed=boot.boot_seed)
            self.heads[boot.boot_id] = {0: made.heads[0]}
            self.boots[boot.boot_id] = StoredBoot(
                boot_id=boot.boot_id,
                agent_id=begin.agent_id,
                boot_seed=boot.boot_seed,
                thumbprint=boot.attested.thumbprint if boot.attested else None,
                key=boot.attested.key if boot.attested else None,
                position=Position(last_seq=0, head=made.heads[0]),
            )

    def _move(self, old: StoredBoot, position: Position) -> None:
        self.boots[old.boot_id] = StoredBoot(
            boot_id=old.boot_id,
            agent_id=old.agent_id,
            boot_seed=old.boot_seed,
            thumbprint=old.thumbprint,
            key=old.key,
            position=position,
        )
