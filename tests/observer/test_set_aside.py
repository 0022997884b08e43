"""A boot that cannot be right is set aside; the living one goes on. Over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from attestation.wire import observer_pb2 as pb
from observer.app import Running
from observer.config import Limits
from observer.queries import agents_with_boots, all_alarms
from tests.observer.conftest import Serve
from tests.observer.fake_agent import FakeBoot, FakeStream, connect
from tests.observer.fake_trust import FakeTrust, attested


@pytest.fixture
def living(trust: FakeTrust) -> FakeBoot:
    """The running boot, beside `boot`, the earlier one."""
    fresh = FakeBoot()
    trust.believe(fresh)
    fresh.decide(5)
    return fresh


def replayed(boot: FakeBoot, same: int) -> FakeBoot:
    """The same boot with other records after `same`."""
    other = FakeBoot(key=boot.key, seed=boot.seed, passport=boot.passport)
    for record in boot.records[:same]:
        other.append(record)
    other.decide(boot.last_seq - same, model="another")
    return other


@asynccontextmanager
async def both(running: Running, living: FakeBoot, boot: FakeBoot) -> AsyncIterator[FakeStream]:
    """A stream on which the living boot is well, with the earlier one stored up to seq 6."""
    async with connect(running.grpc) as stream:
        await stream.open(boot)
        await stream.acked(boot.batch(1, 6))
    async with connect(running.grpc) as stream:
        await stream.open(living, boot, epoch=2)
        await stream.acked(living.batch(1, 2))
        yield stream


def fork(boot: FakeBoot) -> pb.AgentMessage:
    return replayed(boot, 3).batch(2, 8)


def broken(boot: FakeBoot) -> pb.AgentMessage:
    return boot.batch(7, head=bytes(32))


def garbage(boot: FakeBoot) -> pb.AgentMessage:
    wrong = FakeBoot(key=boot.key, seed=boot.seed)
    for record in boot.records[:6]:
        wrong.append(record)
    wrong.append(b"no record")
    return wrong.batch(7)


def signed_otherwise(boot: FakeBoot) -> pb.AgentMessage:
    return boot.checkpoint(5, head=bytes(32))


def signed_by_nobody(boot: FakeBoot) -> pb.AgentMessage:
    return boot.checkpoint(5, key=FakeBoot().key)


Wrong = tuple[Callable[[FakeBoot], pb.AgentMessage], int, str]
WRONG: list[Wrong] = [
    (fork, pb.Nack.FORK, "fork"),
    (broken, pb.Nack.INVALID, "invalid"),
    (garbage, pb.Nack.INVALID, "invalid"),
    (signed_otherwise, pb.Nack.FORK, "fork"),
    (signed_by_nobody, pb.Nack.INVALID, "checkpoint"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[0].__name__)
def test_what_is_wrong_with_an_earlier_boot_does_not_silence_the_living(
    observer: Serve, boot: FakeBoot, living: FakeBoot, case: Wrong
) -> None:
    wrong, code, alarm = case

    async def scenario() -> None:
        async with observer() as running, both(running, living, boot) as stream:
            nack = (await stream.ask(wrong(boot))).nack
            assert (nack.code, nack.boot_id, nack.boot_only) == (code, boot.boot_id, True)
            for late in (boot.batch(7), boot.checkpoint(6), fork(boot)):
                await stream.send(late)  # was on its way, and gets no answer
            await stream.acked(living.batch(3))
            assert len(await running.store.load_heads(living.boot_id, 1, 99)) == 5
            heads = await running.store.load_heads(boot.boot_id, 1, 99)
            assert heads == {seq: boot.heads[seq] for seq in range(1, 7)}, "the first stays"
            (row,) = await all_alarms(running.store)
            assert (row["code"], row["boot_id"], row["count"]) == (alarm, boot.boot_id, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", [row[0] for row in WRONG[:4]])
def test_what_is_wrong_with_the_living_boot_ends_the_stream(
    observer: Serve,
    boot: FakeBoot,
    living: FakeBoot,
    wrong: Callable[[FakeBoot], pb.AgentMessage],
) -> None:
    """It is the one that speaks: nothing of what it says next could be held against anything."""
    living.decide(5)

    async def scenario() -> None:
        async with observer() as running, both(running, living, boot) as stream:
            await stream.acked(living.batch(3, 6))
            nack = await stream.refused(wrong(living))
            assert not nack.boot_only

    asyncio.run(scenario())


def test_a_passport_that_proves_another_history_of_an_earlier_boot_sets_it_aside(
    observer: Serve, boot: FakeBoot, living: FakeBoot, trust: FakeTrust
) -> None:
    """Known already as the stream begins, or only once the records have come."""
    trust.then[boot.passport] = attested(boot, journal_seq=8, journal_head=bytes(32))

    async def scenario() -> None:
        async with observer() as running:
            for epoch in (1, 2):
                async with connect(running.grpc) as stream:
                    await stream.open(living, boot, epoch=epoch)
                    if epoch == 1:
                        await stream.acked(boot.batch(1))
                    nack = (await stream.receive()).nack
                    assert (nack.code, nack.boot_only) == (pb.Nack.FORK, True)
                    await stream.acked(living.batch(1))
            (row,) = await all_alarms(running.store)
            assert (row["code"], row["reason"], row["count"]) == ("fork", "passport.head", 2)

    asyncio.run(scenario())


def test_a_gap_that_is_never_filled_sets_an_earlier_boot_aside(
    observer: Serve, boot: FakeBoot, living: FakeBoot
) -> None:
    async def scenario() -> None:
        limits = Limits(gaps_in_a_row=2)
        async with observer(limits=limits) as running, both(running, living, boot) as stream:
            for last in (False, False, True):
                nack = (await stream.ask(boot.batch(9))).nack
                assert (nack.code, nack.boot_only) == (pb.Nack.GAP, last)
            await stream.acked(living.batch(3))

    asyncio.run(scenario())


def test_a_fork_is_found_again_and_its_first_evidence_stays(
    observer: Serve, boot: FakeBoot, living: FakeBoot
) -> None:
    first, second = replayed(boot, 3), replayed(boot, 3)
    second.records[3] = second.encode(4, model="a third")

    async def scenario() -> None:
        async with observer() as running:
            async with both(running, living, boot) as stream:
                await stream.ask(first.batch(2, 8))
            rebuilt = FakeBoot(key=boot.key, seed=boot.seed)
            for record in second.records:
                rebuilt.append(record)
            async with connect(running.grpc) as stream:
                await stream.open(living, boot, epoch=3)
                nack = (await stream.ask(rebuilt.batch(2, 8))).nack
                assert nack.code == pb.Nack.FORK
                await stream.acked(living.batch(3))
            (row,) = await all_alarms(running.store)
            assert (row["seq"], row["count"]) == (4, 2)
            assert row["evidence"] == first.records[3]

    asyncio.run(scenario())


def test_a_fork_outlives_every_other_alarm(
    observer: Serve, boot: FakeBoot, living: FakeBoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither strangers nor the agent itself can push it out of the database or off the list."""
    monkeypatch.setattr("observer.store.alarms.MAX_ROWS", 6)
    monkeypatch.setattr("observer.queries.MAX_ALARMS", 3)
    monkeypatch.setattr("observer.queries.MAX_AGENT_ALARMS", 3)

    async def scenario() -> None:
        async with observer() as running:
            async with both(running, living, boot) as stream:
                await stream.ask(fork(boot))
            for number in range(12):
                ended = FakeBoot()
                ended.decide(1)
                async with connect(running.grpc) as stream:
                    await stream.open(living, ended, epoch=3 + number)
                    await stream.ask(ended.batch(1, head=bytes(32)))
                async with connect(running.grpc) as stream:
                    await stream.refused(FakeBoot(agent_id=f"x{number}", passport=b"x").hello())
            listed = await all_alarms(running.store)
            assert listed[0]["code"] == "fork"
            assert len(listed) <= 7
            ((_, _, own),) = await agents_with_boots(running.store)
            assert own[0]["code"] == "fork"

    asyncio.run(scenario())
