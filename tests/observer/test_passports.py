"""Real passports of a simulated TEE, over real gRPC, against the roots an Observer was given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.wire import observer_pb2 as pb
from observer.queries import agents_with_boots
from observer.trust import PassportTrust
from tests.observer.conftest import Serve
from tests.observer.fake_agent import FakeBoot, connect
from tests.observer.simulated import SimulatedTee
from tests.observer.test_stream import alarm_codes, stored


@pytest.fixture(scope="module")
def tee() -> SimulatedTee:
    return SimulatedTee(datetime.now(UTC) - timedelta(days=1))


@pytest.fixture
def root(tmp_path: Path, tee: SimulatedTee) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(tee.root_pem)
    return path


async def refusal(running: Any, boot: FakeBoot) -> pb.Nack:
    async with connect(running.grpc) as stream:
        return await stream.refused(boot.hello())


def test_an_agent_on_a_simulated_tee_is_taken_and_marked_so(
    observer: Serve, tee: SimulatedTee, root: Path
) -> None:
    boot = tee.boot()

    async def scenario() -> None:
        config = {"by": None, "allow_simulated": True, "simulated_roots": (root,)}
        async with observer(**config) as running, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1))
            await stream.send(boot.checkpoint())
            await stream.send(
                pb.AgentMessage(
                    passport=pb.Passport(boot_id=boot.boot_id, passport=tee.passport(boot))
                )
            )
            await stream.settled_at(boot, 3)
            assert await stored(running.store, boot) == boot.records
            ((_, (row,), alarms),) = await agents_with_boots(running.store)
            shown = json.loads(row["passport_info"])
            assert (shown["simulated"], shown["hardware_attested"]) == (True, False)
            assert shown["tee_display"] == "Simulated TEE"
            assert shown["answers"]["binding_and_freshness"]["status"] == "passed"
            assert row["checkpoint_seq"] == 3
            assert alarms == []

    asyncio.run(scenario())


def test_a_simulated_tee_is_refused_unless_it_is_allowed(
    observer: Serve, tee: SimulatedTee
) -> None:
    boot = tee.boot()

    async def scenario() -> None:
        async with observer(by=None) as running:
            nack = await refusal(running, boot)
            assert (nack.code, "passport.simulated" in nack.detail) == (pb.Nack.UNTRUSTED, True)
            assert await alarm_codes(running.store) == [("untrusted", "passport.simulated")]
            assert await running.store.load_boots([boot.boot_id]) == {}

    asyncio.run(scenario())


def test_a_root_that_is_not_pinned_is_refused_until_its_file_appears(
    observer: Serve, tee: SimulatedTee, tmp_path: Path
) -> None:
    boot, late = tee.boot(), tmp_path / "late.pem"

    async def scenario() -> None:
        config = {"by": None, "allow_simulated": True, "simulated_roots": (late,)}
        async with observer(**config) as running:
            assert (await refusal(running, boot)).code == pb.Nack.UNTRUSTED
            late.write_text("not a certificate")
            assert (await refusal(running, boot)).code == pb.Nack.UNTRUSTED
            late.write_bytes(tee.root_pem)
            async with connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1))
            late.unlink()
            assert (await refusal(running, boot)).code == pb.Nack.UNTRUSTED

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "wrong",
    ["expired", "future", "subject", "boot", "flipped", "truncated", "empty", "challenge"],
)
def test_a_passport_that_is_not_of_this_boot_now_is_refused(
    observer: Serve, tee: SimulatedTee, root: Path, wrong: str
) -> None:
    boot = tee.boot()
    made: dict[str, Callable[[], bytes]] = {
        "expired": lambda: tee.passport(boot, age=1000),
        "future": lambda: tee.passport(boot, age=-1000),
        "subject": lambda: tee.passport(boot, subject="agent-2"),
        "boot": lambda: tee.passport(FakeBoot(key=boot.key)),
        "flipped": lambda: _flip(boot.passport, len(boot.passport) // 2),
        "truncated": lambda: boot.passport[:-1],
        "empty": lambda: b"",
        "challenge": lambda: tee.passport(boot, audience="somebody", nonce=bytes(16)),
    }
    boot.passport = made[wrong]()

    async def scenario() -> None:
        config = {"by": None, "allow_simulated": True, "simulated_roots": (root,)}
        async with observer(**config) as running:
            assert (await refusal(running, boot)).code == pb.Nack.UNTRUSTED
            assert await running.store.load_boots([boot.boot_id]) == {}
            ((code, _),) = await alarm_codes(running.store)
            assert code == "untrusted"

    asyncio.run(scenario())


def _flip(token: bytes, at: int) -> bytes:
    return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]


def test_a_passport_that_expired_still_says_whose_key_an_ended_boot_had(
    tee: SimulatedTee, root: Path
) -> None:
    boot = FakeBoot()
    token = tee.passport(boot, age=5000)
    trust = PassportTrust(allow_simulated=True, simulated_roots=[root])
    with pytest.raises(AttestationError) as caught:
        trust.current(token, datetime.now(UTC))
    assert caught.value.code == "passport.expired"
    assert trust.historical(token).boot_seed == boot.seed
    with pytest.raises(AttestationError):
        trust.historical(_flip(token, len(token) // 2))


def test_roots_count_only_where_simulated_tees_are_allowed(tee: SimulatedTee, root: Path) -> None:
    trust = PassportTrust(allow_simulated=False, simulated_roots=[root])
    assert trust.anchors().simulated == frozenset()
    with pytest.raises(AttestationError) as caught:
        trust.current(tee.passport(FakeBoot()), datetime.now(UTC))
    assert caught.value.code == "passport.simulated"


def test_a_huge_root_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + b"A" * 10_000_000)
    trust = PassportTrust(allow_simulated=True, simulated_roots=[path])
    assert trust.anchors().simulated == frozenset()
