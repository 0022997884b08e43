"""The client of Intel's PCS: what it asks, what it believes, and what it never keeps."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from attestation.errors import AttestationError, MalformedError, UncheckableError, VerificationError
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tdx_documents import EVALUATION_NUMBER, FMSPC, LIFETIME
from attestation.tdx.abi import Quote
from attestation.tdx.endorsements import MAX_COLLATERAL_SIZE, Endorsements
from attestation.tdx.pcs import MARGIN, REFRESH_AFTER, PcsClient
from attestation.tdx.pcs_judge import Machine, PckCa, judge
from attestation.tdx.verify import verify_quote
from tests.attestation.snp.fake_kds import on_loopback
from tests.attestation.tdx.conftest import TdxVectors
from tests.attestation.tdx.fake_pcs import PCK_CRL, QE, ROOT_CRL, TCB, FakePcs, served
from tests.attestation.tdx.synthetic import NOW, REPORT_DATA, intel

MACHINE = Machine(fmspc=FMSPC, ca=PckCa.PLATFORM)
DAY = timedelta(days=1)


class World:
    """A clock that tests move, a vendor and its service."""

    def __init__(self) -> None:
        self.now = NOW
        self.vendor = intel()
        self.pcs = FakePcs(self.vendor, lambda: self.now)

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[PcsClient]:
        settings: dict[str, Any] = {
            "vendor": self.vendor.vendor,
            "now": lambda: self.now,
            "rng": random.Random(1),
        }
        http = httpx.AsyncClient(transport=None if "base_url" in options else self.pcs)
        async with trio.open_nursery() as nursery, http:
            yield PcsClient(nursery, http, **(settings | options))
            nursery.cancel_scope.cancel()

    async def refusal(self, **options: Any) -> AttestationError:
        async with self.client(**options) as client:
            with pytest.raises(AttestationError) as caught:
                await client.collateral(MACHINE)
        return caught.value


@pytest.fixture
def world(autojump_clock: trio.testing.MockClock) -> World:
    return World()


# --- what is asked, and what it is good for


async def test_four_requests_give_what_verifies_a_quote_offline(world: World) -> None:
    async with world.client() as client:
        data = await client.collateral(MACHINE)
    assert world.pcs.paths() == [
        f"/tdx/certification/v4/tcb?fmspc={FMSPC.hex()}&update=standard",
        "/tdx/certification/v4/qe/identity?update=standard",
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/IntelSGXRootCA.der",
    ]
    found = verify_quote(
        world.vendor.quote(REPORT_DATA),
        Endorsements.parse(data),
        now=NOW,
        expected_report_data=REPORT_DATA,
        vendor=world.vendor.vendor,
    )
    assert found.assessment.status == "UpToDate"


async def test_early_documents_are_asked_for_by_who_wants_them(world: World) -> None:
    async with world.client(early=True) as client:
        await client.collateral(MACHINE)
    assert [path.endswith("update=early") for path in world.pcs.paths()] == [
        True,
        True,
        False,
        False,
    ]


def test_a_quote_says_which_machine_it_is_from(tdx: TdxVectors) -> None:
    assert Machine.of(Quote.parse(intel().quote(REPORT_DATA)), intel().vendor) == MACHINE
    for case in tdx.cases:
        machine = Machine.of(Quote.parse(tdx.quote(case["quote"])))
        assert machine.fmspc == Endorsements.parse(pack(tdx, case)).tcb_info.fmspc  # type: ignore[union-attr]


def pack(tdx: TdxVectors, case: dict[str, Any]) -> bytes:
    files = tdx.files(case)
    return Endorsements.pack(
        tcb_info=files["tcb_info"],
        qe_identity=files["qe_identity"],
        signing_chains=(files["signing_chain"], files["signing_chain"]),
        pck_crl=files["pck_crl"],
        root_crl=files["root_crl"],
        pck_crl_issuers=b"".join(
            block + b"-----END CERTIFICATE-----\n"
            for block in Quote.parse(tdx.quote(case["quote"])).pck_chain.split(
                b"-----END CERTIFICATE-----\n"
            )[1:3]
        ),
    )


def test_the_judge_accepts_what_intel_publishes_in_its_window_only(tdx: TdxVectors) -> None:
    accepted = 0
    for case in tdx.cases[::10]:
        data, machine = pack(tdx, case), Machine.of(Quote.parse(tdx.quote(case["quote"])))
        now = datetime.fromtimestamp(case["time"], UTC)
        found = judge(data, machine, now=now)
        assert found.until >= now
        assert judge(data, machine, now=None) == found
        with pytest.raises(VerificationError):
            judge(data, machine, now=found.until + timedelta(seconds=1))
        with pytest.raises(VerificationError):
            judge(data, Machine(fmspc=bytes(6), ca=machine.ca), now=now)
        other = PckCa.PROCESSOR if machine.ca is PckCa.PLATFORM else PckCa.PLATFORM
        with pytest.raises(VerificationError):
            judge(data, Machine(fmspc=machine.fmspc, ca=other), now=now)
        accepted += 1
    assert accepted > 10


async def test_it_is_asked_over_https_only() -> None:
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as http:
        for name in ("base_url", "root_crl_url"):
            with pytest.raises(ValueError, match="https"):
                PcsClient(nursery, http, **{name: "http://pcs.example"})  # type: ignore[arg-type]


# --- what the service may do


def chains_of(answer: httpx.Response) -> dict[str, str]:
    return {name: text for name, text in answer.headers.items() if "issuer-chain" in name.lower()}


async def test_an_unknown_machine_is_told_at_once(world: World) -> None:
    world.pcs.instead[TCB] = served(b"", {}, 404)
    error = await world.refusal()
    assert error.code == "pcs.unavailable"
    assert "knows no TDX platform" in str(error)
    assert "offline directory" in error.remedy
    assert len(world.pcs.asked) == 1


async def test_what_is_retired_is_told_at_once(world: World) -> None:
    world.pcs.instead[QE] = served(b"", {}, 410)
    error = await world.refusal()
    assert error.code == "pcs.unavailable"
    assert "retired" in str(error)
    assert len(world.pcs.asked) == 2


@pytest.mark.parametrize("what", [TCB, QE, PCK_CRL, ROOT_CRL])
@pytest.mark.parametrize("status", [500, 503, 429])
async def test_outages_are_waited_out_and_patience_ends(
    world: World, what: str, status: int
) -> None:
    world.pcs.instead[what] = served(b"", {}, status)
    start = trio.current_time()
    error = await world.refusal(patience=30.0)
    assert isinstance(error, UncheckableError)
    assert error.code == "pcs.unavailable"
    assert trio.current_time() - start < 35
    assert 3 <= len(world.pcs.asked) <= 10


async def test_a_service_that_is_slow_or_away_is_not_waited_for_for_ever(world: World) -> None:
    world.pcs.seconds = 1000.0
    assert (await world.refusal(patience=30.0)).code == "pcs.unavailable"
    world.pcs.seconds = 0.0
    world.pcs.instead[TCB] = httpx.ConnectError("no route")
    assert (await world.refusal(patience=30.0)).code == "pcs.unavailable"
    assert trio.current_time() < 70


@pytest.mark.parametrize("what", [TCB, QE, PCK_CRL, ROOT_CRL])
@pytest.mark.parametrize("body", [b"", b"{}", b"\xff" * 100, b'{"tcbInfo":{},"signature":"00"}'])
async def test_garbage_is_refused_and_not_kept(
    world: World, tmp_path: Path, what: str, body: bytes
) -> None:
    good = world.pcs.good(what)
    world.pcs.instead[what] = served(
        body, dict(good.headers.items()) | {"content-length": str(len(body))}
    )
    assert isinstance(await world.refusal(cache=tmp_path), MalformedError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", [TCB, QE, PCK_CRL])
async def test_without_the_chain_in_its_header_an_answer_is_worth_nothing(
    world: World, what: str
) -> None:
    world.pcs.instead[what] = served(world.pcs.good(what).content, {})
    error = await world.refusal()
    assert error.code == "pcs.answer"
    assert "Issuer-Chain" in str(error)


@pytest.mark.parametrize("what", [TCB, QE, PCK_CRL, ROOT_CRL])
async def test_what_another_vendor_signed_is_refused_whatever_chain_comes_with_it(
    world: World, tmp_path: Path, what: str
) -> None:
    other = FakePcs(SimulatedIntel.create(now=NOW), lambda: NOW)
    world.pcs.instead[what] = other.good(what)
    assert isinstance(await world.refusal(cache=tmp_path), VerificationError)
    good = world.pcs.good(what)
    world.pcs.instead[what] = served(other.good(what).content, chains_of(good))
    assert isinstance(await world.refusal(cache=tmp_path), VerificationError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("who", ["signer", "ca"])
async def test_what_a_revoked_key_signed_is_refused(world: World, who: str) -> None:
    serial = getattr(world.vendor, who).serial_number
    world.pcs.instead[ROOT_CRL] = served(world.vendor.root_crl(NOW, [serial]), {})
    assert (await world.refusal()).code == "tdx.signer.not_revoked"


async def test_documents_of_another_machine_are_refused(world: World) -> None:
    world.pcs.changes = {"fmspc": "00" * 6}
    assert (await world.refusal()).code == "pcs.other"


async def test_more_than_it_can_be_is_not_read_to_its_end() -> None:
    world = World()
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (4 * MAX_COLLATERAL_SIZE)
    async with on_loopback(head + bytes(2 * MAX_COLLATERAL_SIZE)) as url:
        error = await world.refusal(base_url=url, root_crl_url=url)
    assert error.code == "pcs.answer"
    assert "more than" in str(error)


async def test_what_is_compressed_is_not_expanded() -> None:
    world, bomb = World(), gzip.compress(bytes(64 * 1024 * 1024))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with on_loopback(head + bomb) as url:
        error = await world.refusal(base_url=url, root_crl_url=url)
    assert error.code == "pcs.answer"
    assert "compress" in str(error)


# --- what is kept


async def test_what_was_fetched_is_kept_over_restarts(world: World, tmp_path: Path) -> None:
    for _ in range(3):
        async with world.client(cache=tmp_path) as client:
            data = await client.collateral(MACHINE)
    assert len(world.pcs.asked) == 4
    (file,) = tmp_path.iterdir()
    assert file.name == f"{FMSPC.hex()}-platform.json"
    assert file.read_bytes() == data
    assert file.stat().st_mode & 0o777 == 0o600


async def test_many_who_want_the_same_share_one_flight(world: World) -> None:
    world.pcs.seconds = 1.0
    got = []
    async with world.client() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            got.append(await client.collateral(MACHINE))

        for _ in range(20):
            nursery.start_soon(ask)
    assert len(got) == 20
    assert len(world.pcs.asked) == 4


async def test_after_a_day_it_is_renewed_in_the_background(world: World) -> None:
    async with world.client() as client:
        first = await client.collateral(MACHINE)
        world.now += REFRESH_AFTER + timedelta(seconds=1)
        world.pcs.seconds = 5.0
        start = trio.current_time()
        assert await client.collateral(MACHINE) == first  # at once
        assert trio.current_time() == start
        await trio.sleep(60)
        assert len(world.pcs.asked) == 8
        assert await client.collateral(MACHINE) != first
        assert len(world.pcs.asked) == 8


async def test_near_its_end_it_is_renewed_first_and_used_on_where_that_fails(world: World) -> None:
    async with world.client() as client:
        first = await client.collateral(MACHINE)
        world.now += LIFETIME - MARGIN / 2
        world.pcs.instead[TCB] = served(b"", {}, 503)
        assert await client.collateral(MACHINE) == first
        del world.pcs.instead[TCB]
        assert await client.collateral(MACHINE) != first


async def test_past_its_end_it_is_no_answer(world: World, tmp_path: Path) -> None:
    async with world.client(cache=tmp_path) as client:
        await client.collateral(MACHINE)
        world.now += LIFETIME + DAY
        world.pcs.instead[TCB] = served(b"", {}, 503)
        with pytest.raises(UncheckableError):
            await client.collateral(MACHINE)


@pytest.mark.parametrize("which", ["changes", "identity"])
@pytest.mark.parametrize("late", [DAY * 2, LIFETIME + DAY], ids=["valid", "over"])
async def test_documents_of_an_older_evaluation_do_not_come_back(
    world: World, tmp_path: Path, which: str, late: timedelta
) -> None:
    async with world.client(cache=tmp_path) as client:
        first = await client.collateral(MACHINE)
    world.now += late
    setattr(world.pcs, which, {"tcbEvaluationDataNumber": EVALUATION_NUMBER - 1})
    async with world.client(cache=tmp_path) as client:
        if late < LIFETIME:
            assert await client.collateral(MACHINE) == first
            await trio.sleep(60)
            assert await client.collateral(MACHINE) == first
        else:
            with pytest.raises(VerificationError) as caught:
                await client.collateral(MACHINE)
            assert caught.value.code == "pcs.older"
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == first


async def test_a_kept_file_that_somebody_changed_is_fetched_anew(
    world: World, tmp_path: Path
) -> None:
    async with world.client(cache=tmp_path) as client:
        await client.collateral(MACHINE)
        (file,) = tmp_path.iterdir()
        for changed in (b"", b"{}", file.read_bytes().replace(b"UpToDate", b"OutOfDat")):
            file.write_bytes(changed)
            data = await client.collateral(MACHINE)
            assert file.read_bytes() == data
    assert len(world.pcs.asked) == 16


async def test_a_cache_that_cannot_be_written_costs_nothing_but_requests(
    world: World, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    async with world.client(cache=blocked / "below") as client:
        await client.collateral(MACHINE)
        await client.collateral(MACHINE)
    assert len(world.pcs.asked) == 4


# --- the offline directory


async def test_an_offline_directory_is_all_that_is_looked_at(world: World, tmp_path: Path) -> None:
    error = await world.refusal(offline=tmp_path)
    assert error.code == "pcs.offline"
    file = tmp_path / f"{MACHINE}.json"
    file.write_bytes(world.vendor.collateral(NOW))
    async with world.client(offline=tmp_path) as client:
        assert await client.collateral(MACHINE) == file.read_bytes()
        world.now += LIFETIME + DAY
        with pytest.raises(VerificationError):
            await client.collateral(MACHINE)
    assert world.pcs.asked == []


@pytest.mark.parametrize("chain", [None, 7, "", "nonsense"])
async def test_a_file_that_does_not_say_who_issued_the_list_is_malformed(
    world: World, tmp_path: Path, chain: object
) -> None:
    value = json.loads(world.vendor.collateral(NOW)) | {"pck_crl_issuer_chain": chain}
    (tmp_path / f"{MACHINE}.json").write_text(json.dumps(value))
    assert isinstance(await world.refusal(offline=tmp_path), MalformedError)
