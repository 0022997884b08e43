"""The client of AMD's KDS: what it asks, how patient it is, and what it never keeps."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.anchors import TrustAnchors
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.fetching.asker import retry_after
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.certs import Chain
from attestation.snp.kds import MAX_ANSWER, KdsClient, vcek_path
from attestation.snp.kds_judge import RootJudge, Term
from attestation.snp.product import EndorsementKey, ProductLine, Tcb
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.fake_kds import NOW, FakeJudge, Script, on_loopback
from tests.attestation.snp.synthetic import NOW as SIMULATED_NOW
from tests.attestation.snp.test_crl import make_crl

MILAN, GENOA, TURIN = ProductLine.MILAN, ProductLine.GENOA, ProductLine.TURIN
VCEK = EndorsementKey.VCEK
HWID = bytes(range(64))
TCB = Tcb(bootloader=4, tee=0, snp=24, microcode=219)
GOOD = httpx.Response(200, content=b"good")


@asynccontextmanager
async def client(
    transport: httpx.AsyncBaseTransport | None, **options: Any
) -> AsyncIterator[KdsClient]:
    judge = options.pop("judge", None) or FakeJudge()
    settings: dict[str, Any] = {"now": lambda: NOW, "rng": random.Random(1)} | options
    async with trio.open_nursery() as nursery, httpx.AsyncClient(transport=transport) as http:
        yield KdsClient(nursery, http, judge, **settings)
        nursery.cancel_scope.cancel()


def answer(status: int, body: bytes = b"", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=body, headers=named)


# --- what is asked


def test_the_urls_are_those_of_each_product_line() -> None:
    assert vcek_path(MILAN, HWID, TCB) == (
        f"/vcek/v1/Milan/{HWID.hex()}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"
    )
    turin = Tcb(fmc=1, bootloader=3, tee=2, snp=5, microcode=97)
    expected = "/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=03&teeSPL=02&snpSPL=05&ucodeSPL=97"
    short = bytes(range(1, 9))
    assert vcek_path(TURIN, short, turin) == expected
    assert vcek_path(TURIN, short.ljust(64, b"\0"), turin) == expected


@pytest.mark.parametrize(
    ("line", "hwid", "tcb"),
    [
        (MILAN, HWID[:8], TCB),
        (MILAN, b"", TCB),
        (TURIN, HWID, Tcb(fmc=1, bootloader=0, tee=0, snp=0, microcode=0)),
        (TURIN, HWID[:8], TCB),
        (GENOA, HWID, Tcb(fmc=1, bootloader=0, tee=0, snp=0, microcode=0)),
    ],
)
def test_a_chip_or_tcb_of_another_line_is_a_mistake_of_the_caller(
    line: ProductLine, hwid: bytes, tcb: Tcb
) -> None:
    with pytest.raises(ValueError, match="another chip id or TCB"):
        vcek_path(line, hwid, tcb)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("999999", 120.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2020 00:00:30 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_retry_after_is_bounded_and_garbage_is_ignored(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after(value, NOW) == seconds


async def test_it_is_asked_over_https_only() -> None:
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as http:
        with pytest.raises(ValueError, match="https"):
            KdsClient(nursery, http, FakeJudge(), base_url="http://kds.example")


# --- patience, on virtual time


async def test_requests_are_ten_seconds_apart(autojump_clock: trio.testing.MockClock) -> None:
    script = Script(GOOD)
    async with client(script) as kds:
        for line in ProductLine:
            await kds.chain(line, VCEK)
    times = [time for time, _ in script.asked]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([10.0, 10.0])


async def test_many_who_want_the_same_share_one_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script, got = Script(GOOD), []
    async with client(script) as kds, trio.open_nursery() as nursery:

        async def ask() -> None:
            got.append(await kds.vcek(MILAN, HWID, TCB))

        for _ in range(20):
            nursery.start_soon(ask)
    assert got == [b"good"] * 20
    assert len(script.asked) == 1


async def test_one_who_gives_up_does_not_take_it_from_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script, got = Script(answer(503), GOOD), []
    async with client(script) as kds, trio.open_nursery() as nursery:

        async def ask() -> None:
            got.append(await kds.chain(MILAN, VCEK))

        with trio.move_on_after(0.5):
            nursery.start_soon(ask)
            await kds.chain(MILAN, VCEK)
    assert got == [b"good"]


async def test_an_error_goes_to_all_who_wait_and_the_next_asks_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(answer(400), GOOD)
    async with client(script) as kds:
        with pytest.raises(UncheckableError, match="400"):
            await kds.chain(MILAN, VCEK)
        assert await kds.chain(MILAN, VCEK) == b"good"


async def test_throttling_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    script = Script(answer(429, retry_after="33"), GOOD)
    async with client(script) as kds:
        assert await kds.chain(MILAN, VCEK) == b"good"
    assert script.asked[1][0] - script.asked[0][0] == pytest.approx(33.0)


@pytest.mark.parametrize(
    "fault", [answer(503), answer(429), httpx.ConnectError("no route"), httpx.ReadTimeout("slow")]
)
async def test_patience_ends(
    autojump_clock: trio.testing.MockClock, fault: httpx.Response | Exception
) -> None:
    script = Script(fault)
    start = trio.current_time()
    async with client(script, patience=60.0) as kds:
        with pytest.raises(UncheckableError) as caught:
            await kds.chain(MILAN, VCEK)
    assert caught.value.code == "kds.unavailable"
    assert "certificate table" in caught.value.remedy
    assert trio.current_time() - start <= 61
    assert 2 <= len(script.asked) <= 6


async def test_a_chip_that_is_not_known_is_asked_for_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(answer(404))
    async with client(script) as kds:
        with pytest.raises(UncheckableError, match="no such chip"):
            await kds.vcek(MILAN, HWID, TCB)
    assert len(script.asked) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 403])
async def test_redirects_and_refusals_are_final(
    autojump_clock: trio.testing.MockClock, status: int
) -> None:
    script = Script(answer(status, location="https://elsewhere.example/"))
    async with client(script) as kds:
        with pytest.raises(UncheckableError) as caught:
            await kds.chain(MILAN, VCEK)
    assert caught.value.code == "kds.answer"
    assert len(script.asked) == 1


# --- what is kept


async def test_what_was_accepted_is_kept_and_private(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script, cache = Script(GOOD), tmp_path / "cache"
    for _ in range(2):
        async with client(script, cache=cache) as kds:
            assert await kds.vcek(MILAN, HWID, TCB) == b"good"
    assert len(script.asked) == 1
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700


async def test_a_lie_is_never_kept(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with client(Script(answer(200, b"bad")), cache=tmp_path) as kds:
        with pytest.raises(VerificationError):
            await kds.vcek(MILAN, HWID, TCB)
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_file_is_replaced(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script = Script(GOOD)
    async with client(script, cache=tmp_path) as kds:
        await kds.chain(MILAN, VCEK)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    async with client(script, cache=tmp_path) as kds:
        assert await kds.chain(MILAN, VCEK) == b"good"
    assert file.read_bytes() == b"good"


async def test_a_cache_that_cannot_be_written_costs_nothing_now(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with client(Script(GOOD), cache=tmp_path / "file") as kds:
        assert await kds.chain(MILAN, VCEK) == b"good"


async def test_two_tcbs_of_one_chip_are_two_things(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script = Script(GOOD)
    async with client(script, cache=tmp_path) as kds:
        for snp in (24, 25):
            tcb = Tcb(bootloader=4, tee=0, snp=snp, microcode=219)
            await kds.vcek(MILAN, HWID, tcb)
    assert len(list(tmp_path.iterdir())) == 2


async def crl(kds: KdsClient, *, wait: bool = True) -> bytes:
    return await kds.crl(MILAN, VCEK, b"", wait=wait)


async def test_a_list_is_renewed_beside_its_use_and_used_on_when_kds_is_away(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    judge, moment = FakeJudge(), datetime.now(UTC)
    judge.until = moment + timedelta(days=30)
    script = Script(answer(200, b"good 1"), answer(200, b"good 2"), answer(503))
    options = {"judge": judge, "cache": tmp_path, "now": lambda: moment}
    async with client(script, **options) as kds:
        assert await crl(kds) == b"good 1"
        assert await crl(kds) == b"good 1"
        assert len(script.asked) == 1
        moment += timedelta(days=2)
        began = trio.current_time()
        assert await crl(kds) == b"good 1"
        assert trio.current_time() == began, "nobody waits for a newer one"
        await trio.sleep(60)
        assert await crl(kds) == b"good 2"
        moment += timedelta(days=20)
        assert await crl(kds) == b"good 2"
        await trio.sleep(120)
        moment += timedelta(days=7, hours=12)  # the last day of its life: now it is waited for
        began = trio.current_time()
        assert await crl(kds) == b"good 2"
        assert 30 < trio.current_time() - began < 90, "as long as patience is"
        moment += timedelta(days=1)  # past its own end it is worth nothing
        with pytest.raises(UncheckableError):
            await crl(kds)


async def test_who_does_not_wait_gets_no_list_but_the_reason_and_the_next_one_gets_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(answer(503), answer(503), answer(200, b"good 1"))
    async with client(script, patience=12.0) as kds:
        with pytest.raises(UncheckableError) as caught:
            await crl(kds, wait=False)
        assert caught.value.code == "kds.pending"
        await trio.sleep(60)
        with pytest.raises(UncheckableError) as caught:
            await crl(kds, wait=False)
        assert caught.value.code == "kds.unavailable"
        assert "503" in str(caught.value)
        await trio.sleep(60)
        assert await crl(kds, wait=False) == b"good 1"


async def test_a_list_is_asked_for_anew_after_a_day_without_a_cache_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    moment, judge = NOW, FakeJudge()
    script = Script(answer(200, b"good 1"), answer(200, b"good 2"))
    async with client(script, judge=judge, now=lambda: moment) as kds:
        assert await crl(kds) == b"good 1"
        moment += timedelta(hours=23)
        await crl(kds)
        await trio.sleep(60)
        assert len(script.asked) == 1
        moment += timedelta(hours=2)
        await crl(kds)
        await trio.sleep(60)
        assert await crl(kds) == b"good 2"


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_list_from_before_the_one_that_was_seen_is_not_taken(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, *, restarted: bool
) -> None:
    moment, script = NOW, Script(answer(200, b"good 7"), answer(200, b"good 6"))
    options = {"cache": tmp_path, "now": lambda: moment}
    async with client(script, **options) as kds:
        assert await crl(kds) == b"good 7"
        if not restarted:
            moment += timedelta(days=2)
            await crl(kds)
            await trio.sleep(60)
            assert await crl(kds) == b"good 7"
    moment += timedelta(days=30)  # nor when that one has ended

    class Ended(FakeJudge):
        def crl(self, der: bytes, **_: Any) -> Term:
            until = NOW if der == b"good 7" else moment + timedelta(days=30)
            return Term(until=until, number=int(der.removeprefix(b"good")))

    async with client(Script(answer(200, b"good 6")), judge=Ended(), **options) as kds:
        with pytest.raises(VerificationError) as caught:
            await crl(kds)
    assert caught.value.code == "kds.older"
    assert (tmp_path / "crl-vcek-Milan.der").read_bytes() == b"good 7"


async def test_a_list_that_is_past_its_time_is_no_answer(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    judge = FakeJudge()
    judge.until = NOW - timedelta(seconds=1)
    async with client(Script(GOOD), judge=judge, cache=tmp_path) as kds:
        with pytest.raises(UncheckableError) as caught:
            await crl(kds)
    assert caught.value.code == "kds.stale"
    assert list(tmp_path.iterdir()) == []


async def test_what_cannot_be_judged_now_is_not_deleted(tmp_path: Path) -> None:
    class Blind(FakeJudge):
        def _judge(self, data: bytes) -> None:
            del data
            raise UncheckableError("fake.blind", "there is nothing to judge it by")

    kept = tmp_path / "chain-vcek-Milan.pem"
    kept.write_bytes(b"good")
    async with client(Script(GOOD), judge=Blind(), cache=tmp_path) as kds:
        with pytest.raises(UncheckableError, match="nothing to judge"):
            await kds.chain(MILAN, VCEK)
    assert kept.read_bytes() == b"good"


# --- without a network


async def test_an_offline_directory_is_all_that_is_looked_at(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    script = Script(GOOD)
    async with client(script, offline=tmp_path) as kds:
        with pytest.raises(UncheckableError, match="offline directory") as caught:
            await kds.chain(MILAN, VCEK)
        assert "/vcek/v1/Milan/cert_chain" in caught.value.remedy
        (tmp_path / "chain-vcek-Milan.pem").write_bytes(b"good")
        assert await kds.chain(MILAN, VCEK) == b"good"
        (tmp_path / "chain-vcek-Milan.pem").write_bytes(b"bad")
        with pytest.raises(VerificationError):
            await kds.chain(MILAN, VCEK)
        (tmp_path / "crl-vcek-Milan.der").write_bytes(b"good")
        assert await crl(kds) == b"good"
    assert script.asked == []


async def test_an_old_list_of_the_offline_directory_is_refused(tmp_path: Path) -> None:
    judge = FakeJudge()
    judge.until = NOW - timedelta(seconds=1)
    (tmp_path / "crl-vcek-Milan.der").write_bytes(b"good")
    async with client(Script(GOOD), offline=tmp_path, judge=judge) as kds:
        with pytest.raises(UncheckableError) as caught:
            await crl(kds)
    assert caught.value.code == "kds.stale"


# --- over real sockets

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"


async def test_a_real_server_is_understood() -> None:
    async with on_loopback(HEAD % 4 + b"good") as url, client(None, base_url=url) as kds:
        assert await kds.chain(MILAN, VCEK) == b"good"


@pytest.mark.parametrize(
    ("sent", "hang"),
    [
        (b"", True),
        (HEAD % 4 + b"go", True),
        (HEAD % 4 + b"go", False),
        (b"", False),
        (b"nonsense\r\n\r\n", False),
        (b"HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n", False),
    ],
)
async def test_a_server_that_hangs_lies_or_breaks_off_costs_no_more_than_patience(
    sent: bytes, hang: bool
) -> None:
    async with on_loopback(sent, hang=hang) as url, client(None, base_url=url, patience=0.3) as kds:
        with trio.fail_after(5), pytest.raises(UncheckableError) as caught:
            await kds.chain(MILAN, VCEK)
    assert caught.value.code == "kds.unavailable"


async def test_a_server_that_sends_too_much_is_cut_off() -> None:
    body = HEAD % (MAX_ANSWER * 4) + bytes(MAX_ANSWER * 4)
    async with on_loopback(body) as url, client(None, base_url=url) as kds:
        with pytest.raises(UncheckableError, match="more than"):
            await kds.chain(MILAN, VCEK)


# --- the real judge, over real certificates


def pem(snp: SnpVectors, *names: str) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(snp.cert(name)).public_bytes(Encoding.PEM) for name in names
    )


@pytest.fixture
def case(snp: SnpVectors) -> dict[str, Any]:
    return snp.case("19ade1287746f6fb")


@pytest.fixture
def judge(snp: SnpVectors, case: dict[str, Any]) -> RootJudge:
    chain = pem(snp, case["ica"][0], case["ark"][0])
    start = datetime.fromisoformat(case["valid_from"])
    return RootJudge(TrustAnchors.builtin().amd, chain_of=lambda _line: chain, now=lambda: start)


def test_amds_own_certificates_are_accepted(
    snp: SnpVectors, case: dict[str, Any], judge: RootJudge
) -> None:
    chain = pem(snp, case["ica"][0], case["ark"][0])
    judge.chain(chain, line=MILAN, key=VCEK)
    ek = Chain.parse(**snp.certificates(case)).extensions
    assert ek.hwid is not None
    judge.vcek(snp.cert(case["ek"]), line=MILAN, hwid=ek.hwid, tcb=ek.tcb)
    ark = snp.cert(case["ark"][0])
    crl = (snp.folder / "crls" / "53a61dc059e525ef.crl").read_bytes()
    term = judge.crl(crl, line=MILAN, ark=ark)
    assert term == Term(until=datetime(2026, 5, 12, tzinfo=UTC), number=6)


def test_what_belongs_to_another_chip_line_or_kind_is_refused(
    snp: SnpVectors, case: dict[str, Any], judge: RootJudge
) -> None:
    ica, ark = case["ica"][0], case["ark"][0]
    genoa = next(c for c in snp.cases if c["product_ext"].startswith("Genoa"))
    ek = Chain.parse(**snp.certificates(case)).extensions
    hwid = ek.hwid or b""
    lower = Tcb(bootloader=0, tee=0, snp=0, microcode=0)
    der = snp.cert(case["ek"])
    crls, root = snp.folder / "crls", snp.cert(ark)
    milans = (crls / "53a61dc059e525ef.crl").read_bytes()
    genoas = (crls / "a3064b0a61d6beb1.crl").read_bytes()
    genoas_root = snp.cert(genoa["ark"][0])
    refusals: list[Callable[[], object]] = [
        lambda: judge.chain(pem(snp, ica), line=MILAN, key=VCEK),
        lambda: judge.chain(pem(snp, ark, ica), line=MILAN, key=VCEK),
        lambda: judge.chain(pem(snp, ica, ark), line=GENOA, key=VCEK),
        lambda: judge.chain(pem(snp, ica, ark), line=MILAN, key=EndorsementKey.VLEK),
        lambda: judge.chain(pem(snp, "c5e081f59b7efab1", ark), line=MILAN, key=VCEK),
        lambda: judge.chain(pem(snp, genoa["ica"][0], ark), line=MILAN, key=VCEK),
        lambda: judge.chain(b"", line=MILAN, key=VCEK),
        lambda: judge.vcek(der, line=MILAN, hwid=bytes(64), tcb=ek.tcb),
        lambda: judge.vcek(der, line=MILAN, hwid=hwid, tcb=lower),
        lambda: judge.vcek(der, line=GENOA, hwid=hwid, tcb=ek.tcb),
        lambda: judge.vcek(snp.cert(genoa["ek"]), line=MILAN, hwid=hwid, tcb=ek.tcb),
        lambda: judge.vcek(snp.cert("cee96955153de19a"), line=MILAN, hwid=hwid, tcb=ek.tcb),
        lambda: judge.vcek(b"", line=MILAN, hwid=hwid, tcb=ek.tcb),
        lambda: judge.crl(genoas, line=MILAN, ark=root),
        lambda: judge.crl(genoas, line=MILAN, ark=genoas_root),
        lambda: judge.crl(milans, line=GENOA, ark=root),
        lambda: judge.crl(milans, line=MILAN, ark=snp.cert(ica)),
        lambda: judge.crl(milans[:-1] + bytes([milans[-1] ^ 1]), line=MILAN, ark=root),
        lambda: judge.crl(b"", line=MILAN, ark=root),
    ]
    for refusal in refusals:
        with pytest.raises(AttestationError):
            refusal()


def test_without_a_chain_nothing_can_be_judged(snp: SnpVectors, case: dict[str, Any]) -> None:
    judge = RootJudge(TrustAnchors.builtin().amd, chain_of=lambda _line: None)
    ek = Chain.parse(**snp.certificates(case)).extensions
    with pytest.raises(UncheckableError):
        judge.vcek(snp.cert(case["ek"]), line=MILAN, hwid=ek.hwid or b"", tcb=ek.tcb)
    with pytest.raises(UncheckableError):
        judge.crl(b"", line=MILAN, ark=snp.cert(case["ica"][0]))


def test_a_list_from_the_future_or_without_a_number_is_not_taken(
    simulated_vendor: SimulatedVendor,
) -> None:
    roots = frozenset({simulated_vendor.root_sha256()})
    judge = RootJudge(roots, chain_of=lambda _line: None, now=lambda: SIMULATED_NOW)
    ark = simulated_vendor.root.public_bytes(Encoding.DER)
    later = simulated_vendor.crl(SIMULATED_NOW + timedelta(days=3))
    with pytest.raises(UncheckableError, match="future"):
        judge.crl(later, line=GENOA, ark=ark)
    unnumbered = make_crl(simulated_vendor.root_key, line=GENOA, issued=SIMULATED_NOW)
    with pytest.raises(VerificationError, match="number"):
        judge.crl(unnumbered, line=GENOA, ark=ark)
    assert judge.crl(simulated_vendor.crl(SIMULATED_NOW), line=GENOA, ark=ark).number
