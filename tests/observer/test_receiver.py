"""The state machine of one stream, without I/O: whatever an agent sends, in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.wire import observer_pb2 as pb
from observer import effects as fx
from observer.receiver import Receiver, State
from tests.observer.fake_agent import FakeBoot
from tests.observer.fake_trust import FakeTrust, attested
from tests.observer.world import CHALLENGE, World


def believed() -> tuple[FakeTrust, FakeBoot]:
    trust, boot = FakeTrust(), FakeBoot()
    trust.believe(boot)
    boot.decide(8)
    return trust, boot


TRUST, BOOT = believed()
TRUST.now[b"renewed"] = attested(BOOT)
FORK = FakeBoot(seed=BOOT.seed, key=BOOT.key, passport=BOOT.passport)
FORK.decide(8, outcome="deny")

MESSAGES: dict[str, pb.AgentMessage | bytes] = {
    "hello": BOOT.hello(),
    "proof": BOOT.proof(CHALLENGE),
    "wrong proof": BOOT.proof(bytes(32)),
    "heartbeat": pb.AgentMessage(heartbeat=pb.Heartbeat(durable_seq=8, state="serving")),
    "batch 1-4": BOOT.batch(1, 4),
    "batch 3-6": BOOT.batch(3, 6),
    "batch 5-8": BOOT.batch(5, 8),
    "fork 3-6": FORK.batch(3, 6),
    "checkpoint 4": BOOT.checkpoint(4),
    "checkpoint 8": BOOT.checkpoint(8),
    "forked checkpoint": FORK.checkpoint(4),
    "passport": pb.AgentMessage(passport=pb.Passport(boot_id=BOOT.boot_id, passport=b"renewed")),
    "wrong passport": pb.AgentMessage(passport=pb.Passport(boot_id=BOOT.boot_id, passport=b"x")),
    "empty": b"",
    "junk": b"\xff\x00\x17",
}
BEFORE_TRUST = (fx.Send, fx.Close, fx.LoadBoots, fx.Alarm)


@given(st.lists(st.sampled_from(sorted(MESSAGES)), max_size=14))
@settings(max_examples=200, deadline=None)
def test_in_whatever_order_messages_come_the_rules_hold(names: list[str]) -> None:
    world = World(TRUST)
    proven = False
    for name in names:
        if world.closed:
            break
        before = len(world.done)
        sent = world.tell(MESSAGES[name])
        done = world.done[before:]
        proven = proven or any(isinstance(effect, fx.Begin) for effect in done)
        if not proven:
            assert all(isinstance(effect, BEFORE_TRUST) for effect in done)
        for index, effect in enumerate(done):
            # An Ack comes after its Commit, never before.
            if isinstance(effect, fx.Send) and effect.message.HasField("ack"):
                ack = effect.message.ack
                assert world.heads[ack.boot_id][ack.through_seq] == ack.head
                assert not any(isinstance(later, fx.Commit) for later in done[index:])
        refused = any(m.HasField("nack") and m.nack.code != pb.Nack.GAP for m in sent)
        ended = any(isinstance(effect, fx.Close) for effect in done)
        assert ended or not refused
        assert ended == (world.receiver.state is State.CLOSED)
    stored = world.heads.get(BOOT.boot_id, {})
    assert all(head == BOOT.heads[seq] for seq, head in stored.items()) or all(
        head == FORK.heads[seq] for seq, head in stored.items()
    )


def test_words_of_an_agent_are_stored_short_and_printable() -> None:
    world, hostile = World(TRUST), "a\x00b\x1b[31m" + "x" * 1000
    world.tell(BOOT.hello(version=hostile))
    world.tell(MESSAGES["proof"])
    world.tell(pb.AgentMessage(heartbeat=pb.Heartbeat(durable_seq=8, state=hostile)))
    (begin,) = (effect for effect in world.done if isinstance(effect, fx.Begin))
    (heard,) = (effect for effect in world.done if isinstance(effect, fx.Heard))
    for word in (begin.version, heard.state):
        assert word.isprintable()
        assert len(word) == 64


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_the_machine(data: bytes) -> None:
    world = World(TRUST)
    world.tell(data)
    assert all(isinstance(effect, BEFORE_TRUST) for effect in world.done)


@given(st.sampled_from(sorted(MESSAGES)), st.data())
@settings(max_examples=150, deadline=None)
def test_no_damaged_message_breaks_an_open_stream(name: str, data: st.DataObject) -> None:
    world = World(TRUST)
    for honest in ("hello", "proof", "batch 1-4"):
        world.tell(MESSAGES[honest])
    message = MESSAGES[name]
    raw = bytearray(message if isinstance(message, bytes) else message.SerializeToString())
    if raw:
        bit = data.draw(st.integers(0, len(raw) * 8 - 1))
        raw[bit // 8] ^= 1 << (bit % 8)
    world.tell(bytes(raw))
    stored = world.heads[BOOT.boot_id]
    assert all(stored[seq] == BOOT.heads[seq] for seq in range(5))


@pytest.mark.parametrize("state", list(State))
def test_what_has_no_place_in_a_state_ends_the_stream(state: State) -> None:
    places = {
        State.HELLO: {"hello"},
        State.PROOF: {"proof", "heartbeat"},
        State.OPEN: {"batch", "checkpoint", "heartbeat", "passport"},
        State.CLOSED: set[str](),
    }
    for kind in ("hello", "proof", "batch", "checkpoint", "heartbeat", "passport"):
        assert ((state, kind) in Receiver._TABLE) == (kind in places[state])
