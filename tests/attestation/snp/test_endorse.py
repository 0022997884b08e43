"""What the host left out is completed, and only that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.anchors import TrustAnchors
from attestation.errors import UncheckableError, VerificationError
from attestation.snp.certs import Chain
from attestation.snp.endorse import Endorser
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import verify_report
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.fake_kds import Script
from tests.attestation.snp.synthetic import table_of

MILAN_V3, TURIN_V5, MILAN_V2, MILAN_VLEK = (
    "40a2778d02fa56e1",
    "56b3ee54977c2602",
    "120d77b213c8868d",
    "decdab949afc5906",
)
AMD = TrustAnchors.builtin().amd


class RealKds(Script):
    """Serves a case's own certificates."""

    def __init__(self, snp: SnpVectors, case: dict[str, Any]) -> None:
        super().__init__(httpx.Response(404))
        self._vcek = snp.cert(case["ek"])
        self._chain = b"".join(
            x509.load_der_x509_certificate(snp.cert(name)).public_bytes(Encoding.PEM)
            for name in (case["ica"][0], case["ark"][0])
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await super().handle_async_request(request)
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
        table = await endorse.complete(report, b"")
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
        assert await endorse.complete(snp.report(MILAN_V3), table) == table
    assert script.asked == []


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
        table = await endorse.complete(snp.report(MILAN_V3), b"")
    assert CertTable.parse(table).contents[TableEntry.VCEK] == snp.cert(case["ek"])
    assert script.asked == []
