"""What the host left out is completed, and only that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.anchors import TrustAnchors
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.evidence import Completed
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.certs import Chain
from attestation.snp.endorse import Endorser
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import verify_report
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.fake_kds import Script
from tests.attestation.snp.synthetic import NOW as SIMULATED_NOW
from tests.attestation.snp.synthetic import table_of

MILAN_V3, TURIN_V5, MILAN_V2, MILAN_VLEK = (
    "40a2778d02fa56e1",
    "56b3ee54977c2602",
    "120d77b213c8868d",
    "decdab949afc5906",
)
AMD = TrustAnchors.builtin().amd


class RealKds(Script):
    """Serves a case's own certificates, and a list where it was given one."""

    def __init__(self, snp: SnpVectors, case: dict[str, Any], crl: bytes = b"") -> None:
        super().__init__(httpx.Response(404))
        self.crl = crl
        self._vcek = snp.cert(case["ek"])
        self._chain = b"".join(
            x509.load_der_x509_certificate(snp.cert(name)).public_bytes(Encoding.PEM)
            for name in (case["ica"][0], case["ark"][0])
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await super().handle_async_request(request)
        if request.url.path.endswith("/crl"):
            return httpx.Response(200, content=self.crl) if self.crl else httpx.Response(503)
        chain = request.url.path.endswith("cert_chain")
        return httpx.Response(200, content=self._chain if chain else self._vcek)


@asynccontextmanager
async def endorser(transport: httpx.AsyncBaseTransport, **options: Any) -> AsyncIterator[Endorser]:
    settings: dict[str, Any] = {"cache": None, "offline": None} | options
    async with trio.open_nursery() as nursery, httpx.AsyncClient(transport=transport) as client:
        yield Endorser(nursery, client, AMD, **settings)
        nursery.cancel_scope.cancel()


def valid(case: dict[str, Any]) -> datetime:
    """A moment in the case's own window: the test must not depend on the day."""
    return datetime.fromisoformat(case["valid_from"])


@pytest.mark.parametrize("name", [MILAN_V3, TURIN_V5])
async def test_a_report_without_certificates_gets_all_it_needs(
    snp: SnpVectors, name: str, autojump_clock: trio.testing.MockClock
) -> None:
    case, report = snp.case(name), snp.report(name)
    script = RealKds(snp, case)
    async with endorser(script, now=lambda: valid(case)) as endorse:
        table = (await endorse.complete(report, b"")).certificates
    extensions = Chain.parse(**snp.certificates(case)).extensions
    assert extensions.hwid is not None
    line = extensions.product_line
    assert [httpx.URL(url).path for _, url in script.asked] == [
        f"/vcek/v1/{line}/cert_chain",
        f"/vcek/v1/{line}/{extensions.hwid.hex()}",
    ]
    chain = Chain.from_table(CertTable.parse(table))
    verify_report(report, chain, roots=AMD, now=valid(case), expected_report_data=None)


async def test_the_hosts_own_table_is_taken_as_it_is(snp: SnpVectors) -> None:
    case = snp.case(MILAN_V3)
    table = table_of(**snp.certificates(case)) + b"padding"
    script = RealKds(snp, case)
    async with endorser(script) as endorse:
        assert (await endorse.complete(snp.report(MILAN_V3), table)).certificates == table
    assert [url for _, url in script.asked if not url.endswith("/crl")] == []


async def test_the_certificate_of_another_chip_is_refused(
    snp: SnpVectors, autojump_clock: trio.testing.MockClock
) -> None:
    case, other = snp.case(MILAN_V3), snp.case("19ade1287746f6fb")
    kds = RealKds(snp, {**case, "ek": other["ek"]})
    async with endorser(kds, now=lambda: valid(other)) as endorse:
        with pytest.raises(VerificationError) as caught:
            await endorse.complete(snp.report(MILAN_V3), b"")
    assert caught.value.code == "kds.other"


@pytest.mark.parametrize(
    ("name", "code"), [(MILAN_V2, "kds.product_line"), (MILAN_VLEK, "kds.vlek")]
)
async def test_what_only_the_host_can_supply_is_not_asked_for(
    snp: SnpVectors, name: str, code: str
) -> None:
    script = RealKds(snp, snp.case(name))
    async with endorser(script) as endorse:
        with pytest.raises(UncheckableError) as caught:
            await endorse.complete(snp.report(name), b"")
    assert caught.value.code == code
    assert "host" in caught.value.remedy
    assert script.asked == []


async def test_an_offline_directory_needs_no_network(snp: SnpVectors, tmp_path: Path) -> None:
    case = snp.case(MILAN_V3)
    script = RealKds(snp, case)
    ek = Chain.parse(**snp.certificates(case)).extensions
    assert ek.hwid is not None
    levels = f"{ek.tcb.bootloader}-{ek.tcb.tee}-{ek.tcb.snp}-{ek.tcb.microcode}"
    (tmp_path / f"vcek-Milan-{ek.hwid.hex()}-{levels}.der").write_bytes(snp.cert(case["ek"]))
    async with endorser(script, offline=tmp_path, now=lambda: valid(case)) as endorse:
        with pytest.raises(UncheckableError, match=r"chain-vcek-Milan\.pem"):
            await endorse.complete(snp.report(MILAN_V3), b"")
        (tmp_path / "chain-vcek-Milan.pem").write_bytes(script._chain)
        completed = await endorse.complete(snp.report(MILAN_V3), b"")
    assert "crl-vcek-Milan.der" in completed.unlisted
    table = completed.certificates
    assert CertTable.parse(table).contents[TableEntry.VCEK] == snp.cert(case["ek"])
    assert script.asked == []


# --- AMD's list

IN_2025 = datetime(2025, 6, 1, tzinfo=UTC)
MILAN_LIST, OLD_MILAN_LIST = "53a61dc059e525ef", "05708666bc867e21"
GENOA_LIST, OLD_GENOA_LIST = "a3064b0a61d6beb1", "db04d2f0a9b2299a"


def real_list(snp: SnpVectors, name: str) -> bytes:
    return (snp.folder / "crls" / f"{name}.crl").read_bytes()


def real_table(snp: SnpVectors, case: dict[str, Any], crl: bytes = b"", **parts: bytes) -> bytes:
    contents = dict(CertTable.parse(table_of(**(snp.certificates(case) | parts))).contents)
    return CertTable(contents | ({TableEntry.CRL: crl} if crl else {})).encode()


def list_of(completed: Completed) -> bytes | None:
    return CertTable.parse(completed.certificates).contents.get(TableEntry.CRL)


@pytest.fixture
def milan(snp: SnpVectors) -> dict[str, Any]:
    return snp.case(MILAN_V3)


async def test_who_needs_the_list_waits_for_it_and_gets_it_with_the_certificates(
    snp: SnpVectors, milan: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    kds = RealKds(snp, milan, real_list(snp, MILAN_LIST))
    async with endorser(kds, require_crl=True, now=lambda: IN_2025) as endorse:
        completed = await endorse.complete(snp.report(MILAN_V3), real_table(snp, milan))
    assert list_of(completed) == real_list(snp, MILAN_LIST)
    assert completed.unlisted == ""
    chain = Chain.from_table(CertTable.parse(completed.certificates))
    report = verify_report(
        snp.report(MILAN_V3),
        chain,
        roots=AMD,
        now=IN_2025,
        expected_report_data=None,
        carried_crl=list_of(completed) or b"",
    )
    assert report.crl is not None
    assert report.crl.number == 6


async def test_who_does_not_need_it_waits_for_nobody_and_has_it_the_next_time(
    snp: SnpVectors, milan: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    table, kds = real_table(snp, milan), RealKds(snp, milan, real_list(snp, MILAN_LIST))
    async with endorser(kds, now=lambda: IN_2025) as endorse:
        began = trio.current_time()
        first = await endorse.complete(snp.report(MILAN_V3), table)
        assert trio.current_time() == began
        assert first.certificates == table
        assert "is being asked" in first.unlisted
        await trio.sleep(1)
        second = await endorse.complete(snp.report(MILAN_V3), table)
    assert list_of(second) == real_list(snp, MILAN_LIST)


@pytest.mark.parametrize(
    ("served", "code"),
    [
        ("", "kds.unavailable"),
        (OLD_MILAN_LIST, "kds.stale"),
        (GENOA_LIST, "snp.crl.not_revoked"),  # another product's: not by this root
        ("forged", "snp.crl.not_revoked"),
        ("nonsense", "snp.crl.format"),
    ],
)
@pytest.mark.parametrize("required", [True, False])
async def test_a_list_that_cannot_be_used_is_never_added(
    snp: SnpVectors,
    milan: dict[str, Any],
    autojump_clock: trio.testing.MockClock,
    *,
    served: str,
    code: str,
    required: bool,
) -> None:
    good = real_list(snp, MILAN_LIST)
    data = {"": b"", "forged": good[:-1] + bytes([good[-1] ^ 1]), "nonsense": b"nonsense"}.get(
        served
    )
    kds = RealKds(snp, milan, real_list(snp, served) if data is None else data)
    table = real_table(snp, milan)
    async with endorser(kds, require_crl=required, now=lambda: IN_2025) as endorse:
        if required:
            with pytest.raises(AttestationError) as caught:
                await endorse.complete(snp.report(MILAN_V3), table)
            assert caught.value.code == code
            return
        await endorse.complete(snp.report(MILAN_V3), table)
        await trio.sleep(120)
        completed = await endorse.complete(snp.report(MILAN_V3), table)
    assert completed.certificates == table, "as if there were no such thing as a list"
    assert completed.unlisted


@pytest.mark.parametrize("required", [True, False])
async def test_the_hosts_list_serves_where_kds_is_away_and_is_not_waited_beside(
    snp: SnpVectors,
    milan: dict[str, Any],
    autojump_clock: trio.testing.MockClock,
    *,
    required: bool,
) -> None:
    table = real_table(snp, milan, real_list(snp, MILAN_LIST))
    async with endorser(RealKds(snp, milan), require_crl=required, now=lambda: IN_2025) as endorse:
        began = trio.current_time()
        completed = await endorse.complete(snp.report(MILAN_V3), table)
        assert trio.current_time() == began
    assert list_of(completed) == real_list(snp, MILAN_LIST)


@pytest.mark.parametrize("hosts", [OLD_GENOA_LIST, MILAN_LIST])
async def test_a_host_cannot_hide_a_revocation_behind_an_old_list(
    snp: SnpVectors, autojump_clock: trio.testing.MockClock, hosts: str
) -> None:
    genoa = next(c for c in snp.cases if c["product_ext"].startswith("Genoa"))
    kds = RealKds(snp, genoa, real_list(snp, GENOA_LIST))
    table = real_table(snp, genoa, real_list(snp, hosts))
    in_time = datetime(2024, 11, 1, tzinfo=UTC)
    async with endorser(kds, require_crl=True, now=lambda: in_time) as endorse:
        completed = await endorse.complete(snp.report(genoa["report"]), table)
    assert list_of(completed) == real_list(snp, GENOA_LIST)


async def test_the_hosts_later_list_goes_before_the_one_that_was_kept(
    simulated_vendor: SimulatedVendor, tmp_path: Path
) -> None:
    now = SIMULATED_NOW
    (tmp_path / "crl-vcek-Genoa.der").write_bytes(simulated_vendor.crl(now - timedelta(days=5)))
    roots = frozenset({simulated_vendor.root_sha256()})
    report = simulated_vendor.sign_report(bytes(64))
    hosts = simulated_vendor.complete(simulated_vendor.certificate_table(), now)
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        endorse = Endorser(nursery, client, roots, cache=None, offline=tmp_path, now=lambda: now)
        completed = await endorse.complete(report, hosts)
        assert list_of(completed) == simulated_vendor.crl(now)
        older = simulated_vendor.complete(
            simulated_vendor.certificate_table(), now - timedelta(days=9)
        )
        completed = await endorse.complete(report, older)
        assert list_of(completed) == simulated_vendor.crl(now - timedelta(days=5))
