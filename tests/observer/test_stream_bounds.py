"""The agents' port against peers that have proven nothing: sizes, places, time."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any

import grpc
import grpc.aio
import pytest

from attestation.wire import observer_pb2 as pb
from observer import cli
from observer.config import Address, ConfigError, Limits, ObserverConfig
from observer.grpc_service import _host
from observer.hello import MAX_PASSPORT
from observer.peers import Rate
from observer.queries import all_alarms
from observer.registry import Busy, Registry
from tests.observer.conftest import Serve
from tests.observer.fake_agent import DEADLINE, FakeBoot, connect
from tests.observer.fake_trust import FakeTrust


def test_a_hello_is_refused_by_its_size_before_it_is_parsed(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        async with observer() as running:
            most = Limits().hello_size
            async with connect(running.grpc) as stream:
                nack = await stream.refused(b"\xff" * (most + 1))  # not even a message
                assert nack.code == pb.Nack.INVALID
                assert "hello.size" in nack.detail
                assert str(most) in nack.detail
            async with connect(running.grpc) as stream:
                await stream.ask(boot.hello())
                nack = await stream.refused(boot.batch(1, 10, records=[bytes(most)]))
                assert "hello.size" in nack.detail, "a batch before the proof"

    asyncio.run(scenario())


def test_a_hello_of_two_large_passports_has_room(
    observer: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    second = FakeBoot()
    for one in (boot, second):
        one.passport = bytes([one.boot_id[0]]) * MAX_PASSPORT
        trust.believe(one)

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            welcome = await stream.open(second, boot)
            assert len(welcome.accepted) == 2
            await stream.acked(boot.batch(1))

    asyncio.run(scenario())


def test_a_batch_may_be_larger_than_a_hello(observer: Serve, boot: FakeBoot) -> None:
    boot.decide(40, claims={"text": "x" * 16_000})

    async def scenario() -> None:
        async with observer() as running, connect(running.grpc) as stream:
            await stream.open(boot)
            assert len(boot.batch(1).SerializeToString()) > Limits().hello_size
            await stream.acked(boot.batch(1))

    asyncio.run(scenario())


def test_streams_that_prove_nothing_leave_room_for_those_that_do(
    observer: Serve, boot: FakeBoot
) -> None:
    async def scenario() -> None:
        limits = Limits(unproven=2, unproven_per_peer=2)
        async with observer(limits=limits) as running, contextlib.AsyncExitStack() as stack:
            proven = await stack.enter_async_context(connect(running.grpc))
            await proven.open(boot)
            await proven.acked(boot.batch(1, 5))
            for _ in range(2):
                silent = await stack.enter_async_context(connect(running.grpc))
                await silent.ask(boot.hello())
            async with connect(running.grpc) as third:
                answer = (await third.receive()).nack
                assert answer.code == pb.Nack.RETRY_AFTER
                assert "have yet to prove themselves" in answer.detail
            await proven.acked(boot.batch(6))
            assert (running.registry.streams, running.registry.unproven) == (3, 2)

    asyncio.run(scenario())


def test_a_silent_stream_gives_its_place_back_in_time(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        limits = Limits(unproven=1, handshake=0.3)
        async with observer(limits=limits) as running:
            async with connect(running.grpc) as silent:
                assert (await silent.receive()).nack.code == pb.Nack.RETRY_AFTER
                await silent.ended()
                async with connect(running.grpc) as stream:
                    await stream.open(boot)
                    await stream.acked(boot.batch(1))
            assert running.registry.unproven == 0

    asyncio.run(scenario())


def test_a_connection_without_a_stream_ends(observer: Serve) -> None:
    async def scenario() -> None:
        async with observer(limits=Limits(handshake=0.3)) as running:
            for hello in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"):
                reader, writer = await asyncio.open_connection(running.grpc.host, running.grpc.port)
                writer.write(hello)
                async with asyncio.timeout(DEADLINE):
                    with contextlib.suppress(ConnectionError):
                        await reader.read()
                writer.close()

    asyncio.run(scenario())


def test_one_connection_has_few_streams(observer: Serve, boot: FakeBoot) -> None:
    async def scenario() -> None:
        async with (
            observer(limits=Limits(streams_per_connection=2)) as running,
            grpc.aio.insecure_channel(str(running.grpc)) as channel,
        ):
            calls: list[Any] = [
                channel.stream_stream("/lucid.observer.v1.Observer/Stream")() for _ in range(5)
            ]
            await calls[0].write(boot.hello().SerializeToString())
            await calls[0].read()
            assert running.registry.streams <= 2
            for call in calls:
                call.cancel()

    asyncio.run(scenario())


def test_every_bound_holds_by_itself() -> None:
    def admitted(registry: Registry, peer: str, *, prove: bool) -> None:
        admission = stack.enter_context(registry.admit(peer))
        if prove:
            admission.proven()
            admission.proven()

    cases = [
        (Limits(streams=2), True, ["a", "b"], "c", "as many streams as it takes"),
        (Limits(streams_per_peer=2), True, ["a", "a", "b"], "a", "too many streams from this"),
        (Limits(unproven=2), False, ["a", "b"], "c", "too many streams have yet to prove"),
        (Limits(unproven_per_peer=2), False, ["a", "a", "b"], "a", "from this address have yet"),
    ]
    for limits, prove, first, last, words in cases:
        registry = Registry(limits)
        with contextlib.ExitStack() as stack:
            for peer in first:
                admitted(registry, peer, prove=prove)
            with pytest.raises(Busy, match=words):
                stack.enter_context(registry.admit(last))
            assert registry.streams == len(first)
        assert (registry.streams, registry.unproven) == (0, 0)


def test_strangers_fill_neither_the_log_nor_the_disk(
    observer: Serve, boot: FakeBoot, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        limits = Limits(strangers_at_once=3, strangers_per_second=0.001)
        async with observer(limits=limits) as running:
            for number in range(8):
                async with connect(running.grpc) as stream:
                    await stream.refused(FakeBoot(agent_id=f"x{number}", passport=b"x").hello())
            assert len(await all_alarms(running.store)) == 3
            assert caplog.text.count("alarm untrusted") == 3
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.refused(boot.batch(1, head=bytes(32)))
            newest = (await all_alarms(running.store))[0]
            assert newest["code"] == "invalid", "those of an agent always"

    asyncio.run(scenario())


def test_a_rate_comes_back_with_time() -> None:
    now = [0.0]
    rate = Rate(2, 0.5, clock=lambda: now[0])
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    now[0] = 1.9
    assert not rate.allows()
    now[0] = 2.0
    assert [rate.allows(), rate.allows()] == [True, False]
    now[0] = 1000.0
    assert [rate.allows() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("shared", "peer"),
    [
        ("192.0.2.9", "192.0.2.9"),
        ("192.0.2.0/24", "192.0.2.9"),
        ("2001:db8::9", "2001:db8::/64"),
        ("2001:db8::/32", "2001:db8:0:7::/64"),
        ("::1", "::1"),
    ],
)
def test_a_proxy_brings_many_agents(shared: str, peer: str) -> None:
    limits = Limits(streams=3, streams_per_peer=1, unproven_per_peer=1)
    registry = Registry(limits, shared=(shared,))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(registry.admit(peer))
        with pytest.raises(Busy, match="as many streams as it takes"):
            stack.enter_context(registry.admit(peer))


@pytest.mark.parametrize("peer", ["192.0.3.9", "2001:db8::/64", "unix:", ""])
def test_who_is_no_proxy_has_his_own_places(peer: str) -> None:
    registry = Registry(Limits(streams_per_peer=1), shared=("192.0.2.0/24", "2001:db8:1::/48"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(registry.admit(peer))
        with pytest.raises(Busy, match="from this address"):
            stack.enter_context(registry.admit(peer))


@pytest.mark.parametrize("text", ["proxy.example", "10.0.0.1/8", ""])
def test_a_proxy_is_an_address_or_a_network(text: str) -> None:
    nowhere = Address(host="127.0.0.1", port=0)
    with pytest.raises(ConfigError, match="is no IP address or network"):
        ObserverConfig(listen_grpc=nowhere, listen_http=nowhere, database="", proxies=(text,))


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::/64"),
        ("ipv6:[::ffff:192.0.2.1]:5000", "192.0.2.1"),
        ("ipv6:[::1]:5000", "::1"),
        ("unix:", "unix:"),
    ],
)
def test_a_peer_is_an_address_without_its_port(address: str, peer: str) -> None:
    assert _host(address) == peer


def test_as_many_files_may_be_open_as_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: given.append(limits))
    for have in ((1024, 524_288), (1024, 1024), (8192, 8192), (1024, resource.RLIM_INFINITY)):
        monkeypatch.setattr(resource, "getrlimit", lambda _what, have=have: have)
        cli._open_files(Limits(grpc_connections=2000, http_connections=100))
    assert given == [(2228, 524_288), (2228, resource.RLIM_INFINITY)]
    assert capsys.readouterr().err.count("1024 files may be open, 2228") == 1
