"""Both ends of the stream to the Observer: what a hostile agent sends, and a hostile Observer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final

from agent.journal.reader import Boot, Segment
from agent.stream.protocol import (
    MAX_CREDITS,
    Acked,
    State,
    StreamClosedError,
    StreamProtocol,
)
from attestation.wire import observer_pb2 as pb
from observer import effects as fx
from tests.fuzz.recipes import Recipe
from tests.observer.fake_agent import FakeBoot
from tests.observer.fake_trust import FakeTrust, attested
from tests.observer.world import CHALLENGE, World

_BEFORE_TRUST: Final = (fx.Send, fx.Close, fx.LoadBoots, fx.Alarm)


@cache
def _said() -> tuple[FakeTrust, tuple[pb.AgentMessage, ...]]:
    """A trust, and what two boots of an agent, one of them with two histories, may say."""
    trust, boot, earlier = FakeTrust(), FakeBoot(), FakeBoot()
    trust.believe(boot, earlier)
    trust.now[b"renewed"] = attested(boot)
    boot.decide(8)
    earlier.decide(3)
    fork = FakeBoot(seed=boot.seed, key=boot.key, passport=boot.passport)
    fork.decide(8, outcome="deny")
    replayed = FakeBoot(seed=earlier.seed, key=earlier.key, passport=earlier.passport)
    replayed.decide(3, outcome="deny")
    return trust, (
        boot.hello(earlier),
        boot.proof(CHALLENGE),
        boot.batch(1, 4),
        boot.batch(5, 8),
        boot.batch(3, 6),
        earlier.batch(1, 3),
        fork.batch(3, 6),
        replayed.batch(2, 3),
        boot.checkpoint(4),
        fork.checkpoint(8),
        earlier.checkpoint(3, key=boot.key, recovered_by=boot.boot_id),
        replayed.checkpoint(3),
        pb.AgentMessage(heartbeat=pb.Heartbeat(durable_seq=8, state="serving")),
        pb.AgentMessage(passport=pb.Passport(boot_id=boot.boot_id, passport=b"renewed")),
    )


def agent_messages(data: bytes) -> None:
    """Nothing counts before the proof, an Ack follows its Commit, nothing of a boot that was set
    aside is stored, and nothing follows the end.
    """
    trust, messages = _said()
    world = World(trust)
    recipe = Recipe(data)
    proven, aside = False, set[bytes]()
    while recipe.left and not world.closed:
        kind = recipe.byte()
        if kind >= 250:
            message = recipe.take(recipe.byte())
        else:
            message = messages[kind % len(messages)].SerializeToString()
            if kind >= 125:
                message = recipe.exchanged(message)
        before = len(world.done)
        sent = world.tell(message)
        done = world.done[before:]
        proven = proven or any(isinstance(effect, fx.Begin) for effect in done)
        assert proven or all(isinstance(effect, _BEFORE_TRUST) for effect in done)
        for answer in sent:
            if answer.HasField("ack"):
                assert world.heads[answer.ack.boot_id][answer.ack.through_seq] == answer.ack.head
        for effect in done:
            if isinstance(effect, fx.Alarm):
                assert len(effect.detail) < 5000
            if isinstance(effect, fx.Commit | fx.SaveCheckpoint):
                assert _boot_of(effect) not in aside
        nacks = [answer.nack for answer in sent if answer.HasField("nack")]
        ended = any(isinstance(effect, fx.Close) for effect in done)
        assert ended or all(nack.boot_only or nack.code == pb.Nack.GAP for nack in nacks)
        aside |= {nack.boot_id for nack in nacks if nack.boot_only}
        assert messages[0].hello.boot_id not in aside
        assert nacks or not ended


def _boot_of(effect: fx.Commit | fx.SaveCheckpoint) -> bytes:
    return effect.boot_id if isinstance(effect, fx.Commit) else effect.checkpoint.boot_id


_BOOT: Final = bytes(16)
_ANSWERS: Final = (
    pb.ObserverMessage(
        welcome=pb.Welcome(
            accepted=[pb.Accepted(boot_id=_BOOT, next_seq=3)], credits=2, challenge=bytes(32)
        )
    ),
    pb.ObserverMessage(ack=pb.Ack(boot_id=_BOOT, through_seq=4, head=bytes(32))),
    pb.ObserverMessage(credit=pb.Credit(batches=1)),
    pb.ObserverMessage(nack=pb.Nack(code=pb.Nack.GAP, boot_id=_BOOT, want_seq=3)),
    pb.ObserverMessage(nack=pb.Nack(code=pb.Nack.RETRY_AFTER, retry_after_ms=100)),
    pb.ObserverMessage(nack=pb.Nack(code=pb.Nack.FORK, detail="x")),
    pb.ObserverMessage(nack=pb.Nack(code=pb.Nack.FORK, boot_id=_BOOT, boot_only=True)),
)


def observer_messages(data: bytes) -> None:
    """Whatever the Observer says, the agent sends records that it has, within its credits."""
    boot = Boot(
        boot_id=_BOOT,
        seed=bytes(32),
        passport=b"passport",
        acked_seq=2,
        acked_head=bytes(32),
        last_seq=8,
        pruned_seq=0,
        signed_seq=0,
    )
    protocol = StreamProtocol(agent_id="a", version="1", epoch=1, boots=[boot])
    protocol.hello()
    recipe = Recipe(data)
    with suppress(StreamClosedError):
        while recipe.left:
            kind = recipe.byte()
            message = _ANSWERS[kind % len(_ANSWERS)].SerializeToString()
            if kind >= 128:
                message = recipe.exchanged(message)
            found = protocol.receive(message)
            if isinstance(found, Acked):
                assert found.through_seq <= boot.last_seq
            while protocol.wanted:
                (boot_id, first) = protocol.wanted[0]
                assert boot_id == _BOOT
                assert 1 <= first <= boot.last_seq + 1
                if first > boot.last_seq:
                    break
                protocol.batch(
                    Segment(
                        boot_id=_BOOT,
                        first_seq=first,
                        previous_head=bytes(32),
                        head=bytes(32),
                        records=(b"record",),
                    )
                )
                assert protocol.in_flight <= MAX_CREDITS
        return
    assert protocol.state is State.CLOSED


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "agent_messages": agent_messages,
    "observer_messages": observer_messages,
}
