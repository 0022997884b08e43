"""Who is believed: passports, proofs, boots, epochs, checkpoints. Most of it is refusals."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.wire import observer_pb2 as pb
from observer.boots import Attested
from observer.config import Limits
from observer.queries import agents_with_boots, all_alarms
from tests.observer.conftest import Serve
from tests.observer.fake_agent import FakeBoot, connect
from tests.observer.fake_trust import FakeTrust, attested
from tests.observer.test_stream import alarm_codes, fork_of, stored


async def nothing_but_an_alarm(running: Any, boot: FakeBoot, reason: str) -> None:
    assert await running.store.load_boots([boot.boot_id]) == {}
    assert await agents_with_boots(running.store) == []
    assert await alarm_codes(running.store) == [("untrusted", reason)]


def test_a_passport_that_does_not_verify_stores_nothing(observer: Serve, boot: FakeBoot) -> None:
    boot.passport = b"made up"

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            nack = await stream.refused(boot.hello())
            assert nack.code == pb.Nack.UNTRUSTED
            assert "passport.signature" in nack.detail
            await nothing_but_an_alarm(running, boot, "passport.signature")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("reason", "lie"),
    [
        ("boot.passport", {"boot_seed": bytes(32)}),
        ("boot.subject", {"subject": "agent-2"}),
    ],
)
def test_a_passport_of_somebody_else_is_refused(
    observer: Serve, boot: FakeBoot, trust: FakeTrust, reason: str, lie: dict[str, Any]
) -> None:
    trust.now[boot.passport] = attested(boot, **lie)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            assert (await stream.refused(boot.hello())).code == pb.Nack.UNTRUSTED
            await nothing_but_an_alarm(running, boot, reason)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", [bytes(32), b"", bytes(31)])
def test_a_boot_id_that_its_seed_does_not_give_is_refused(
    observer: Serve, boot: FakeBoot, seed: bytes
) -> None:
    offer = boot.offer()
    offer.boot_seed = seed

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            nack = await stream.refused(boot.hello(boots=[offer]))
            assert nack.code == pb.Nack.UNTRUSTED
            await nothing_but_an_alarm(running, boot, "boot.seed")

    asyncio.run(scenario())


def test_a_proof_by_another_key_is_refused(observer: Serve, boot: FakeBoot) -> None:
    """A passport is public: who only has a copy of it gets no further."""

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            answer = await stream.ask(boot.hello())
            thief = ec.generate_private_key(ec.SECP256R1())
            nack = await stream.refused(boot.proof(answer.welcome.challenge, key=thief))
            assert nack.code == pb.Nack.UNTRUSTED
            assert await running.store.load_boots([boot.boot_id]) == {}
            ((code, _),) = await alarm_codes(running.store)
            assert code == "untrusted"

    asyncio.run(scenario())


def test_a_proof_for_another_stream_is_refused(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as first:
                old = (await first.ask(boot.hello())).welcome.challenge
            async with connect(running.grpc) as stream:
                await stream.ask(boot.hello())
                assert (await stream.refused(boot.proof(old))).code == pb.Nack.UNTRUSTED

    asyncio.run(scenario())


def test_nothing_is_taken_before_the_proof(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running:
            for message in (boot.batch(1), boot.checkpoint(), boot.proof(bytes(32))):
                async with connect(running.grpc) as stream:
                    assert (await stream.refused(message)).code == pb.Nack.INVALID
            for message in (boot.batch(1), boot.checkpoint(), boot.hello()):
                async with connect(running.grpc) as stream:
                    await stream.ask(boot.hello())
                    assert (await stream.refused(message)).code == pb.Nack.INVALID
            assert await running.store.load_boots([boot.boot_id]) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lie",
    [
        {"protocol": 2},
        {"agent_id": ""},
        {"agent_id": "x" * 257},
        {"agent_id": "two\nlines"},
        {"boot_id": bytes(16)},
        {"epoch": 2**63},
    ],
)
def test_a_hello_that_makes_no_sense_is_refused(
    observer: Serve, boot: FakeBoot, lie: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            assert (await stream.refused(boot.hello(**lie))).code == pb.Nack.INVALID

    asyncio.run(scenario())


def test_a_hello_with_too_many_boots_or_one_twice_is_refused(
    observer: Serve, boot: FakeBoot
) -> None:
    many = [FakeBoot(key=boot.key).offer() for _ in range(64)] + [boot.offer()]

    async def scenario() -> None:
        async with observer() as running:
            for boots in (many, [boot.offer(), boot.offer()]):
                async with connect(running.grpc) as stream:
                    assert (await stream.refused(boot.hello(boots=boots))).code == pb.Nack.INVALID

    asyncio.run(scenario())


# -- earlier boots -------------------------------------------------------------------------


def test_an_earlier_boot_is_believed_if_its_passport_was_valid_then(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    earlier = FakeBoot()
    trust.believe(earlier)
    del trust.now[earlier.passport]  # it has expired
    earlier.decide(2)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot, earlier)
            await stream.acked(earlier.batch(1))
            assert await stored(running.store, earlier) == earlier.records
            found = await running.store.load_boots([earlier.boot_id])
            assert found[earlier.boot_id].thumbprint is not None

    asyncio.run(scenario())


def test_an_expired_passport_of_the_running_boot_is_refused(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    del trust.now[boot.passport]

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            assert (await stream.refused(boot.hello())).code == pb.Nack.UNTRUSTED

    asyncio.run(scenario())


def test_an_earlier_boot_that_is_not_believed_is_left_out_with_an_alarm(
    observer: Serve, boot: FakeBoot
) -> None:
    earlier = FakeBoot(passport=b"made up")
    earlier.decide(2)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                welcome = await stream.open(boot, earlier)
                assert [a.boot_id for a in welcome.accepted] == [boot.boot_id]
                await stream.acked(boot.batch(1))
                assert await alarm_codes(running.store) == [
                    ("boot_untrusted", "passport.signature")
                ]
                assert (await stream.refused(earlier.batch(1))).code == pb.Nack.INVALID
            assert await stored(running.store, earlier) == []

    asyncio.run(scenario())


def test_a_boot_without_a_passport_is_vouched_for_by_the_running_one(
    observer: Serve, boot: FakeBoot
) -> None:
    earlier = FakeBoot()
    earlier.decide(2)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot, earlier)
            await stream.acked(earlier.batch(1))
            ((_, boots, _),) = await agents_with_boots(running.store)
            shown = {row["boot_id"]: row["vouched_by"] for row in boots}
            assert shown == {boot.boot_id: None, earlier.boot_id: boot.boot_id}
            # Its own key is unknown, so it cannot sign for itself …
            nack = (await stream.ask(earlier.checkpoint())).nack
            assert (nack.code, nack.boot_only) == (pb.Nack.INVALID, True)

    asyncio.run(scenario())


def test_a_boot_never_changes_its_key_or_its_agent(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    other_key = FakeBoot(seed=boot.seed)
    other_agent = FakeBoot(seed=boot.seed, key=boot.key, agent_id="agent-2")

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1))
            for liar, reason in ((other_key, "boot.key"), (other_agent, "boot.agent")):
                trust.believe(liar)
                async with connect(running.grpc) as stream:
                    nack = await stream.refused(liar.hello())
                    assert (nack.code, reason in nack.detail) == (pb.Nack.UNTRUSTED, True)

    asyncio.run(scenario())


# -- renewal -------------------------------------------------------------------------------


def test_a_renewed_passport_replaces_the_old_one(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    trust.now[b"renewed"] = attested(boot, passport_id="pass-renewed")

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.send(
                pb.AgentMessage(passport=pb.Passport(boot_id=boot.boot_id, passport=b"renewed"))
            )
            await stream.acked(boot.batch(1))
            ((_, (row,), _),) = await agents_with_boots(running.store)
            assert "pass-renewed" in row["passport_info"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("passport", "changes"),
    [
        (b"made up", {}),
        (b"renewed", {"boot_seed": bytes(32)}),
        (b"renewed", {"subject": "agent-2"}),
        (b"renewed", {"thumbprint": bytes(32)}),
    ],
)
def test_a_renewed_passport_of_another_key_boot_or_agent_is_refused(
    observer: Serve, boot: FakeBoot, trust: FakeTrust, passport: bytes, changes: dict[str, Any]
) -> None:
    trust.now[b"renewed"] = dataclasses.replace(attested(boot), **changes)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            nack = await stream.refused(
                pb.AgentMessage(passport=pb.Passport(boot_id=boot.boot_id, passport=passport))
            )
            assert nack.code == pb.Nack.UNTRUSTED
            ((code, _),) = await alarm_codes(running.store)
            assert code == "boot_untrusted"

    asyncio.run(scenario())


# -- one stream per agent ------------------------------------------------------------------


def test_a_higher_epoch_takes_over(observer: Serve, boot: FakeBoot, trust: FakeTrust) -> None:
    newer = FakeBoot()
    trust.believe(newer)
    newer.decide(1)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as old:
            await old.open(boot, epoch=5)
            await old.acked(boot.batch(1, 5))
            async with connect(running.grpc) as new:
                await new.open(newer, epoch=6)
                await new.acked(newer.batch(1))
                answer = await old.receive()
                assert answer.nack.code == pb.Nack.SUPERSEDED
                await old.ended()
                live = running.registry.find(boot.agent_id)
                assert live is not None
                assert live.boot_id == newer.boot_id

    asyncio.run(scenario())


def test_a_lower_epoch_or_another_boot_of_the_same_epoch_is_sent_away(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    clone = FakeBoot()
    trust.believe(clone)
    clone.decide(1)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as old:
            await old.open(boot, epoch=5)
            await old.acked(boot.batch(1, 5))
            for epoch in (4, 5):
                async with connect(running.grpc) as late:
                    answer = await late.ask(clone.hello(epoch=epoch))
                    nack = await late.refused(clone.proof(answer.welcome.challenge))
                    assert nack.code == pb.Nack.SUPERSEDED
            await old.acked(boot.batch(6, 10))

    asyncio.run(scenario())


def test_a_reconnect_of_the_same_boot_replaces_its_half_dead_stream(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as old:
            await old.open(boot, epoch=5)
            await old.acked(boot.batch(1, 5))
            async with connect(running.grpc) as new:
                assert (await new.open(boot, epoch=5)).accepted[0].next_seq == 6
                await new.acked(boot.batch(6, 10))
            assert (await old.receive()).nack.code == pb.Nack.SUPERSEDED

    asyncio.run(scenario())


def test_who_has_only_a_passport_cannot_push_a_live_stream_aside(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as honest:
            await honest.open(boot, epoch=5)
            await honest.acked(boot.batch(1, 5))
            async with connect(running.grpc) as thief:
                answer = await thief.ask(boot.hello(epoch=9))
                key = ec.generate_private_key(ec.SECP256R1())
                await thief.refused(boot.proof(answer.welcome.challenge, key=key))
            await honest.acked(boot.batch(6, 10))

    asyncio.run(scenario())


# -- checkpoints ---------------------------------------------------------------------------


def test_checkpoints_are_kept_also_when_they_come_before_their_records(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.send(boot.checkpoint(0))
            await stream.send(boot.checkpoint(10))
            await stream.acked(boot.batch(1, 6))
            await stream.send(boot.checkpoint(4))
            await stream.settled_at(boot, 6)
            ((_, (row,), _),) = await agents_with_boots(running.store)
            assert row["checkpoint_seq"] == 4
            await stream.acked(boot.batch(7, 10))
            await stream.settled_at(boot, 10)
            ((_, (row,), _),) = await agents_with_boots(running.store)
            assert row["checkpoint_seq"] == 10

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "lie"),
    [
        (pb.Nack.INVALID, {"key": ec.generate_private_key(ec.SECP256R1())}),
        (pb.Nack.INVALID, {"boot_id": bytes(16)}),
        (pb.Nack.INVALID, {"recovered_by": bytes(16)}),
        (pb.Nack.INVALID, {"wall_ns": 2**63}),
        (pb.Nack.FORK, {"head": bytes(32)}),
    ],
)
def test_a_checkpoint_that_is_forged_or_disagrees_raises_an_alarm(
    observer: Serve, boot: FakeBoot, code: pb.Nack.Code, lie: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 10))
            nack = await stream.refused(boot.checkpoint(10, **lie))
            assert nack.code == code
            (alarm,) = await all_alarms(running.store)
            expected = "fork" if code == pb.Nack.FORK else "checkpoint"
            assert (alarm["code"], alarm["count"]) == (expected, 1)
            assert alarm["evidence"] != b""
            ((_, (row,), _),) = await agents_with_boots(running.store)
            assert row["checkpoint_seq"] is None

    asyncio.run(scenario())


def test_a_checkpoint_over_another_history_is_found_when_its_records_come(
    observer: Serve, boot: FakeBoot
) -> None:
    other = fork_of(boot, 4)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.send(other.checkpoint(6))
            await stream.acked(boot.batch(1, 10))
            answer = await stream.receive()
            assert (answer.nack.code, answer.nack.have_head) == (pb.Nack.FORK, boot.heads[6])
            assert await alarm_codes(running.store) == [("fork", "checkpoint.head")]

    asyncio.run(scenario())


def test_a_boot_that_recovered_a_journal_may_sign_for_the_one_that_crashed(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    crashed, stranger = FakeBoot(), FakeBoot(agent_id="agent-2")
    crashed.decide(3)
    trust.believe(stranger)
    stranger.decide(1)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                await stream.open(stranger)
                await stream.acked(stranger.batch(1))
            async with connect(running.grpc) as stream:
                await stream.open(boot, crashed)
                await stream.acked(crashed.batch(1))
                await stream.send(crashed.checkpoint(3, key=boot.key, recovered_by=boot.boot_id))
                await stream.acked(boot.batch(1))
                ((_, boots, _),) = [
                    found
                    for found in await agents_with_boots(running.store)
                    if found[0]["agent_id"] == boot.agent_id
                ]
                signed = {row["boot_id"]: row["checkpoint_seq"] for row in boots}
                assert signed[crashed.boot_id] == 3
                wrong = crashed.checkpoint(3, key=stranger.key, recovered_by=stranger.boot_id)
                assert "checkpoint.signer" in (await stream.ask(wrong)).nack.detail

    asyncio.run(scenario())


def test_passports_that_take_long_hold_up_nobody_else(
    observer: Serve, boot: FakeBoot, trust: FakeTrust, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, entered, leave = FakeBoot(agent_id="agent-2"), threading.Event(), threading.Event()
    plain = trust.current

    def current(token: bytes, now: datetime) -> Attested:
        if token == b"slow":
            entered.set()
            assert leave.wait(10)
        return plain(token, now)

    monkeypatch.setattr(trust, "current", current)
    slow.passport = b"slow"

    async def scenario() -> None:
        async with (
            observer() as running,
            connect(running.grpc) as one,
            connect(running.grpc) as other,
        ):
            await other.send(slow.hello())
            assert await asyncio.to_thread(entered.wait, 10)
            await one.open(boot)
            await one.acked(boot.batch(1, 10))
            leave.set()
            assert (await other.receive()).nack.code == pb.Nack.UNTRUSTED

    asyncio.run(scenario())


# -- what passports say of the chain --------------------------------------------------------


def states(trust: FakeTrust, boot: FakeBoot, seq: int, *, head: bytes | None = None) -> None:
    """Let the boot's passport say that its chain had this head at this seq."""
    trust.believe(boot, journal_seq=seq, journal_head=boot.heads[seq] if head is None else head)


def test_a_passport_and_the_chain_that_say_the_same_raise_no_alarm(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    async def scenario() -> None:
        async with observer() as running:
            for seq in (0, 4, 10):
                states(trust, boot, seq)
                async with connect(running.grpc) as stream:
                    await stream.open(boot)
                    await stream.acked(boot.batch(1, 10))
            renewed = attested(boot, journal_seq=10, journal_head=boot.heads[10])
            trust.now[b"renewed"] = renewed
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.send(
                    pb.AgentMessage(passport=pb.Passport(boot_id=boot.boot_id, passport=b"renewed"))
                )
                await stream.settled_at(boot, 10)
            assert await alarm_codes(running.store) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("seq", [0, 4, 10])
def test_records_that_a_passport_contradicts_are_another_history(
    observer: Serve, boot: FakeBoot, trust: FakeTrust, seq: int
) -> None:
    """A journal that was rewritten hashes well, and the next boot would sign its end."""
    states(trust, boot, seq, head=bytes(32))

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            if seq:
                await stream.acked(boot.batch(1, 10))
            nack = (await stream.receive()).nack
            assert (nack.code, nack.have_head) == (pb.Nack.FORK, boot.heads[seq])
            assert "passport.head" in nack.detail
            assert await alarm_codes(running.store) == [("fork", "passport.head")]

    asyncio.run(scenario())


def test_an_earlier_boot_is_held_against_the_passport_that_was_seen_of_it(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    states(trust, boot, 8)
    rewritten, after = fork_of(boot, 7), FakeBoot()
    rewritten.passport = b""  # the disk's owner takes it away; the Observer has it
    trust.believe(after)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 6))
            async with connect(running.grpc) as stream:
                await stream.open(after, rewritten, epoch=2)
                await stream.acked(rewritten.batch(7, rewritten.last_seq))
                nack = (await stream.receive()).nack
                assert (nack.code, nack.boot_id) == (pb.Nack.FORK, boot.boot_id)
            assert await alarm_codes(running.store) == [("fork", "passport.head")]

    asyncio.run(scenario())


def test_a_renewed_passport_that_contradicts_the_chain_ends_the_stream(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    trust.now[b"renewed"] = attested(boot, journal_seq=3, journal_head=bytes(32))

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 10))
            message = pb.Passport(boot_id=boot.boot_id, passport=b"renewed")
            nack = await stream.refused(pb.AgentMessage(passport=message))
            assert nack.code == pb.Nack.FORK

    asyncio.run(scenario())


def test_a_journal_that_ends_before_what_its_passport_proves_was_cut(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    after = FakeBoot()
    trust.believe(after)

    async def scenario() -> None:
        async with observer() as running:
            states(trust, boot, 10)
            async with connect(running.grpc) as stream:
                answer = await stream.ask(
                    after.hello(boots=[boot.offer(last=7), after.offer()], epoch=2)
                )
                await stream.send(after.proof(answer.welcome.challenge))
                await stream.acked(boot.batch(1, 7))  # the living agent is not cut off
            (alarm,) = await all_alarms(running.store)
            assert (alarm["code"], alarm["reason"]) == ("rollback", "passport.ahead")
            assert (alarm["boot_id"], alarm["seq"]) == (boot.boot_id, 7)

    asyncio.run(scenario())


@pytest.mark.parametrize("known_by", ["passport", "heartbeat"])
def test_a_boot_that_is_offered_no_more_although_records_are_missing_is_missed(
    observer: Serve, boot: FakeBoot, trust: FakeTrust, known_by: str
) -> None:
    after = FakeBoot()
    trust.believe(after)
    after.decide(1)
    if known_by == "passport":
        states(trust, boot, 10)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                answer = await stream.ask(boot.hello(boots=[boot.offer(last=6)]))
                await stream.send(boot.proof(answer.welcome.challenge))
                await stream.acked(boot.batch(1, 6))
            if known_by == "heartbeat":
                said = {"agent_id": "agent-1", "state": "", "durable_seq": 10, "last_seen_ns": 1}
                await running.store.save_seen([said])
            async with connect(running.grpc) as stream:
                await stream.open(after, epoch=2)
                await stream.settled_at(after, 1)
            alarm = (await all_alarms(running.store))[0]
            assert (alarm["code"], alarm["reason"]) == ("rollback", "boot.lost")
            assert (alarm["boot_id"], alarm["seq"]) == (boot.boot_id, 6)

    asyncio.run(scenario())


def test_a_boot_whose_records_can_still_come_is_not_missed(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    after, last = FakeBoot(), FakeBoot()
    trust.believe(after, last)
    last.decide(1)
    states(trust, boot, 10)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 6))
            async with connect(running.grpc) as stream:
                await stream.open(after, boot, epoch=2)
                await stream.acked(boot.batch(7, 10))
            async with connect(running.grpc) as stream:
                await stream.open(last, epoch=3)  # all of them have come: nothing to offer
                await stream.settled_at(last, 1)
            assert await alarm_codes(running.store) == []

    asyncio.run(scenario())


def test_a_boot_that_found_no_place_in_the_hello_is_not_missed_yet(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    after = FakeBoot()
    trust.believe(after)
    after.decide(1)
    states(trust, boot, 10)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                answer = await stream.ask(boot.hello(boots=[boot.offer(last=10)]))
                await stream.send(boot.proof(answer.welcome.challenge))
                await stream.acked(boot.batch(1, 6))
            for left_out, expected in ((1, []), (0, [("rollback", "boot.lost")])):
                async with connect(running.grpc) as stream:
                    answer = await stream.ask(after.hello(epoch=2, left_out=left_out))
                    await stream.send(after.proof(answer.welcome.challenge))
                    await stream.settled_at(after, 1)
                assert await alarm_codes(running.store) == expected

    asyncio.run(scenario())


@pytest.mark.parametrize("was", [True, False])
def test_a_name_that_was_hardware_attested_and_is_not_any_more_raises_an_alarm(
    observer: Serve, trust: FakeTrust, was: bool
) -> None:
    real, other, again = FakeBoot(), FakeBoot(), FakeBoot()
    genuine = {"tee": "sev-snp", "tee_display": "AMD SEV-SNP", "simulated": False}
    trust.believe(real, **genuine, hardware_attested=was)
    trust.believe(other)  # a simulated TEE, where these are allowed
    trust.believe(again, **genuine, hardware_attested=was)

    async def scenario() -> None:
        async with observer() as running:
            for epoch, boot in enumerate((real, other, again), start=1):
                boot.decide(1)
                async with connect(running.grpc) as stream:
                    await stream.open(boot, epoch=epoch)
                    await stream.acked(boot.batch(1, 1))
            found = await all_alarms(running.store)
            assert [(row["code"], row["boot_id"]) for row in found] == (
                [("downgrade", other.boot_id)] if was else []
            )

    asyncio.run(scenario())


# -- limits --------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(streams_per_peer=2), Limits(streams=2)])
def test_streams_beyond_the_limit_are_told_to_come_back(
    observer: Serve, boot: FakeBoot, limits: Limits
) -> None:
    async def scenario() -> None:
        async with (
            observer(limits=limits) as running,
            connect(running.grpc) as one,
            connect(running.grpc) as two,
        ):
            await one.ask(boot.hello())
            await two.ask(boot.hello())
            async with connect(running.grpc) as three:
                answer = await three.receive()
                assert answer.nack.code == pb.Nack.RETRY_AFTER
                assert answer.nack.retry_after_ms > 0

    asyncio.run(scenario())


def test_a_stream_that_says_nothing_is_ended(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        limits = Limits(handshake=0.05, idle=0.05)
        async with observer(limits=limits) as running:
            async with connect(running.grpc) as stream:
                assert (await stream.receive()).nack.code == pb.Nack.RETRY_AFTER
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                assert (await stream.receive()).nack.code == pb.Nack.RETRY_AFTER
                await stream.ended()
            assert running.registry.streams == 0

    asyncio.run(scenario())


def test_an_observer_that_stops_says_so(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running:
            stream_context = connect(running.grpc)
            stream = await stream_context.__aenter__()
            await stream.open(boot)
            await stream.acked(boot.batch(1))
        assert (await stream.receive()).nack.code == pb.Nack.RETRY_AFTER
        await stream_context.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_alarms_of_strangers_are_bounded(observer: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("observer.store.alarms.MAX_UNTRUSTED", 5)

    async def scenario() -> None:
        async with observer() as running:
            for number in range(12):
                stranger = FakeBoot(agent_id=f"stranger-{number}", passport=os.urandom(8))
                async with connect(running.grpc) as stream:
                    await stream.refused(stranger.hello())
            kept = [row["agent_id"] for row in await all_alarms(running.store)]
            assert sorted(kept) == sorted(f"stranger-{number}" for number in range(7, 12))

    asyncio.run(scenario())
