"""The whole way in, over real gRPC on loopback: hello, proof, batches, acks, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from attestation.wire import observer_pb2 as pb
from observer.config import Limits
from observer.queries import all_alarms
from observer.store import Store
from tests.observer.conftest import Serve
from tests.observer.fake_agent import FakeBoot, connect
from tests.observer.fake_trust import FakeTrust


async def stored(store: Store, boot: FakeBoot) -> list[bytes]:
    """The records of a boot that are stored, in order; their heads are checked on the way."""
    heads = await store.load_heads(boot.boot_id, 1, 10**9)
    assert sorted(heads) == list(range(1, len(heads) + 1))
    assert all(heads[seq] == boot.heads[seq] for seq in heads)
    return [boot.records[seq - 1] for seq in sorted(heads)]


def healthy(store: Store) -> bool:
    return store.healthy


async def alarm_codes(store: Store) -> list[tuple[str, str]]:
    return [(row["code"], row["reason"]) for row in await all_alarms(store)]


def test_records_are_acknowledged_once_they_are_stored(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            welcome = await stream.open(boot)
            assert [(a.boot_id, a.next_seq) for a in welcome.accepted] == [(boot.boot_id, 1)]
            assert welcome.credits >= 1
            assert len(welcome.challenge) == 32
            ack = await stream.acked(boot.batch(1, 4))
            assert (ack.boot_id, ack.through_seq, ack.head) == (boot.boot_id, 4, boot.heads[4])
            ack = await stream.acked(boot.batch(5, 10))
            assert (ack.through_seq, ack.head) == (10, boot.heads[10])
            assert await stored(running.store, boot) == boot.records
            assert await alarm_codes(running.store) == []

    asyncio.run(scenario())


def test_the_second_boot_goes_on_beside_the_first(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    second = FakeBoot()
    trust.believe(second)
    second.decide(3)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 6))
            async with connect(running.grpc) as stream:
                welcome = await stream.open(second, boot, epoch=2)
                wanted = {a.boot_id: a.next_seq for a in welcome.accepted}
                assert wanted == {boot.boot_id: 7, second.boot_id: 1}
                await stream.acked(boot.batch(7, 10))
                await stream.acked(second.batch(1))
            assert await stored(running.store, boot) == boot.records
            assert await stored(running.store, second) == second.records

    asyncio.run(scenario())


def test_a_restarted_observer_goes_on_where_it_was(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 7))
        async with observer() as running, connect(running.grpc) as stream:
            welcome = await stream.open(boot)
            assert welcome.accepted[0].next_seq == 8
            await stream.acked(boot.batch(6, 10))
            assert await stored(running.store, boot) == boot.records

    asyncio.run(scenario())


def test_duplicates_are_acknowledged_and_stored_once(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 5))
            assert (await stream.acked(boot.batch(1, 5))).through_seq == 5
            ack = await stream.acked(boot.batch(2, 3))
            assert (ack.through_seq, ack.head) == (3, boot.heads[3])
            assert (await stream.acked(boot.batch(3, 10))).through_seq == 10
            assert await stored(running.store, boot) == boot.records
            assert await alarm_codes(running.store) == []

    asyncio.run(scenario())


def test_a_gap_is_refused_and_the_agent_can_go_back(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 2))
            for message in (boot.batch(5, 6), boot.batch(7, 10)):
                nack = (await stream.ask(message)).nack
                assert (nack.code, nack.want_seq) == (pb.Nack.GAP, 3)
                assert nack.boot_id == boot.boot_id
            await stream.acked(boot.batch(3, 10))
            assert await stored(running.store, boot) == boot.records

    asyncio.run(scenario())


def test_an_agent_that_never_fills_a_gap_is_cut_off_with_an_alarm(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        limits = Limits(gaps_in_a_row=2)
        async with observer(limits=limits) as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.ask(boot.batch(5, 6))
            await stream.ask(boot.batch(5, 6))
            nack = await stream.refused(boot.batch(5, 6))
            assert nack.code == pb.Nack.GAP
            assert await alarm_codes(running.store) == [("gap", "chain.gap")]

    asyncio.run(scenario())


def fork_of(boot: FakeBoot, at: int) -> FakeBoot:
    """The same boot with another history from seq `at` on."""
    other = FakeBoot(key=boot.key, seed=boot.seed, passport=boot.passport)
    for record in boot.records[: at - 1]:
        other.append(record)
    other.decide(boot.last_seq - at + 1, outcome="deny", reasons=("rewritten",))
    return other


def test_another_record_at_a_known_seq_is_a_fork(observer: Serve, boot: FakeBoot) -> None:
    other = fork_of(boot, 4)

    async def scenario() -> None:
        async with observer() as running:
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 6))
                nack = await stream.refused(other.batch(3, 8))
                assert (nack.code, nack.boot_id) == (pb.Nack.FORK, boot.boot_id)
                assert nack.have_head == boot.heads[4]
            assert await stored(running.store, boot) == boot.records[:6]
            (alarm,) = await all_alarms(running.store)
            assert (alarm["code"], alarm["seq"], alarm["count"]) == ("fork", 4, 1)
            assert alarm["evidence"] == other.records[3]
            # The same fork again is counted, the true history still goes on.
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.refused(other.batch(3, 8))
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(7, 10))
            (alarm,) = await all_alarms(running.store)
            assert alarm["count"] == 2

    asyncio.run(scenario())


def test_a_batch_that_follows_another_history_is_a_fork(observer: Serve, boot: FakeBoot) -> None:
    other = fork_of(boot, 4)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 6))
            nack = await stream.refused(other.batch(7, 8))
            assert (nack.code, nack.have_head) == (pb.Nack.FORK, boot.heads[6])
            assert await stored(running.store, boot) == boot.records[:6]

    asyncio.run(scenario())


def test_a_tampered_record_is_invalid_and_nothing_of_its_batch_is_stored(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 2))
            records = boot.records[2:6]
            records[1] = boot.encode(4, outcome="warn")
            nack = await stream.refused(boot.batch(3, 6, records=records))
            assert nack.code == pb.Nack.INVALID
            assert "chain.broken" in nack.detail
            assert await stored(running.store, boot) == boot.records[:2]
            assert await alarm_codes(running.store) == [("invalid", "chain.broken")]

    asyncio.run(scenario())


def bad_third(boot: FakeBoot, record: bytes) -> FakeBoot:
    """The same boot, whose third record is this one; the chain over it is sound."""
    other = FakeBoot(agent_id=boot.agent_id, key=boot.key, seed=boot.seed, passport=boot.passport)
    for data in boot.records[:2]:
        other.append(data)
    other.append(record)
    return other


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("record.agent", lambda boot: boot.encode(3, agent="somebody-else")),
        ("record.boot", lambda boot: boot.encode(3, boot=bytes(16))),
        ("record.seq", lambda boot: boot.encode(4)),
        ("cbor.", lambda boot: boot.encode(3) + b"\x00"),
        ("cbor.", lambda _boot: b""),
        ("record.type", lambda _boot: b"\x80"),
        ("cbor.", lambda boot: boot.encode(3, model="x" * 70_000)),
    ],
)
def test_a_record_that_does_not_belong_is_refused(
    observer: Serve, boot: FakeBoot, reason: str, make: Callable[[FakeBoot], bytes]
) -> None:
    other = bad_third(boot, make(boot))

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            nack = await stream.refused(other.batch(1, 3))
            assert nack.code == pb.Nack.INVALID
            assert f"[{reason}" in nack.detail
            assert await stored(running.store, boot) == []
            ((code, found),) = await alarm_codes(running.store)
            assert (code, found.startswith(reason)) == ("invalid", True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lie",
    [
        {"records": []},
        {"last_seq": 9},
        {"first_seq": 0, "last_seq": 9},
        {"first_seq": 2**64 - 10, "last_seq": 2**64 - 1},
        {"previous_head": b""},
        {"head": bytes(32)},
        {"previous_head": bytes(32)},
        {"boot_id": bytes(16)},
        {"boot_id": b""},
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(
    observer: Serve, boot: FakeBoot, lie: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            assert (await stream.refused(boot.batch(1, 10, **lie))).code == pb.Nack.INVALID
            assert await stored(running.store, boot) == []

    asyncio.run(scenario())


def test_a_batch_with_too_many_records_is_refused(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        limits = Limits(batch_records=9)
        async with observer(limits=limits) as running, connect(running.grpc) as stream:
            await stream.open(boot)
            nack = await stream.refused(boot.batch(1, 10))
            assert (nack.code, "batch.count" in nack.detail) == (pb.Nack.INVALID, True)

    asyncio.run(scenario())


def test_an_oversized_message_ends_the_stream_and_nothing_else(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer(limits=Limits(message_size=20_000)) as running:
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.send(boot.batch(1, 10, records=[bytes(30_000)] * 10))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stream.receive()
                assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 10))

    asyncio.run(scenario())


def test_bytes_that_are_no_message_get_a_reason(observer: Serve) -> None:
    async def scenario() -> None:
        async with observer() as running:
            for junk in (b"\xff\xff\xff", b""):
                async with connect(running.grpc) as stream:
                    assert (await stream.refused(junk)).code == pb.Nack.INVALID
            assert await alarm_codes(running.store) == []

    asyncio.run(scenario())


def test_records_that_one_side_lost_raise_an_alarm_and_the_stream_goes_on(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer() as running:
            store = running.store
            async with connect(running.grpc) as stream:
                answer = await stream.ask(boot.hello(boots=[boot.offer(unacked=6)]))
                assert answer.welcome.accepted[0].next_seq == 1
                await stream.send(boot.proof(answer.welcome.challenge))
                await stream.acked(boot.batch(1, 10))
                (alarm,) = await all_alarms(store)
                assert (alarm["code"], alarm["seq"]) == ("gap", 1)
            async with connect(running.grpc) as stream:
                answer = await stream.ask(boot.hello(boots=[boot.offer(last=7)]))
                await stream.send(boot.proof(answer.welcome.challenge))
                await stream.acked(boot.batch(5, 7))
                assert ("rollback", "agent.lost") in await alarm_codes(store)

    asyncio.run(scenario())


# -- a commit that fails -------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_fails_is_not_acknowledged(
    observer: Serve, boot: FakeBoot, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`after`: the rows are written, and the commit itself does not come through."""

    async def scenario() -> None:
        async with observer() as running:
            store = running.store
            honest = store.transaction

            @contextlib.asynccontextmanager
            async def broken() -> AsyncIterator[AsyncConnection]:
                if when == "before":
                    raise OSError(errno.ENOSPC, "no space left on device")
                async with honest() as connection:
                    yield connection
                    raise OperationalError("COMMIT", {}, OSError("disk I/O error"))

            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 3))
                monkeypatch.setattr(store, "transaction", broken)
                nack = await stream.refused(boot.batch(4, 10))
                assert nack.code == pb.Nack.RETRY_AFTER
                assert nack.retry_after_ms > 0
                assert healthy(store) is False
                assert await stored(store, boot) == boot.records[:3]
            monkeypatch.setattr(store, "transaction", honest)
            async with connect(running.grpc) as stream:
                assert (await stream.open(boot)).accepted[0].next_seq == 4
                await stream.acked(boot.batch(4, 10))
            assert healthy(store) is True
            assert await stored(store, boot) == boot.records

    asyncio.run(scenario())


def test_a_commit_outlives_the_stream_that_asked_for_it(
    observer: Serve, boot: FakeBoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is gone before the Ack: it will send again, and that is a duplicate."""

    async def scenario() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        async with observer() as running:
            store = running.store
            honest = store.transaction

            @contextlib.asynccontextmanager
            async def slow() -> AsyncIterator[AsyncConnection]:
                begun.set()
                await go.wait()
                async with honest() as connection:
                    yield connection

            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1, 3))
                monkeypatch.setattr(store, "transaction", slow)
                await stream.send(boot.batch(4, 10))
                await begun.wait()
            go.set()
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(4, 10))
            assert await stored(store, boot) == boot.records

    asyncio.run(scenario())
