"""Chains and reports under a simulated root, each wrong in a way that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.simulated import ca
from attestation.simulated.report import ReportFields, sign
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.certs import Chain
from attestation.snp.names import SIMULATED
from attestation.snp.product import EndorsementKey, ProductLine, Tcb
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import VerifiedReport, verify_report

NOW = datetime(2026, 6, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
CSP = "CN=cc-test.example"
CPUID = {
    ProductLine.MILAN: (0x19, 0x01, 0x01),
    ProductLine.GENOA: (0x19, 0x11, 0x01),
    ProductLine.TURIN: (0x1A, 0x02, 0x01),
}
TCB = {
    ProductLine.MILAN: Tcb(bootloader=4, tee=0, snp=24, microcode=219),
    ProductLine.GENOA: Tcb(bootloader=10, tee=0, snp=25, microcode=84),
    ProductLine.TURIN: Tcb(fmc=1, bootloader=3, tee=2, snp=5, microcode=97),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A report, its certificates and the pin; `verify` runs the product's code over it."""

    report: bytes
    ark: bytes
    ica: bytes
    ek: bytes
    roots: frozenset[bytes]

    @property
    def chain(self) -> Chain:
        return Chain.parse(ark=self.ark, ica=self.ica, ek=self.ek)

    def verify(self, now: datetime = NOW) -> VerifiedReport:
        return verify_report(
            self.report, self.chain, roots=self.roots, now=now, expected_report_data=REPORT_DATA
        )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def make(
    vendor: SimulatedVendor,
    *,
    line: ProductLine = ProductLine.GENOA,
    kind: EndorsementKey = EndorsementKey.VCEK,
    chip_id: bytes | None = None,
    change_values: Callable[[dict[str, bytes]], object] = lambda _: None,
    change_fields: Callable[[ReportFields], ReportFields] = lambda fields: fields,
    ark_issued: datetime = NOW,
    ica_issued: datetime = NOW,
    ek_issued: datetime = NOW,
) -> Evidence:
    """Evidence that verifies, except for what the arguments change.

    Args:
        change_values: changes AMD's extensions of the endorsement key, raw values by OID.
        change_fields: returns other fields for the report, before it is signed.
    """
    root = ca.Issuer(common_name=SIMULATED.ark(line), key=vendor.root_key)
    ica = ca.Issuer(common_name=SIMULATED.ica(line, kind), key=vendor.intermediate_key)
    key = ec.generate_private_key(ec.SECP384R1())
    vlek = kind is EndorsementKey.VLEK
    hwid = bytes(range(1, 9 if line is ProductLine.TURIN else 65))
    values = ca.amd_values(
        line=line,
        tcb=TCB[line],
        hwid=None if vlek else hwid,
        csp_id=CSP if vlek else None,
    )
    change_values(values)
    if chip_id is None:
        chip_id = bytes(64) if vlek else hwid.ljust(64, b"\0")
    fields = ReportFields(
        report_data=REPORT_DATA,
        chip_id=chip_id,
        signing_key=kind,
        cpuid=CPUID[line],
        tcb=TCB[line].encode(line),
    )
    return Evidence(
        report=sign(change_fields(fields).encode(), key),
        ark=der(ca.issue_root(root, now=ark_issued)),
        ica=der(ca.issue_intermediate(ica, root, now=ica_issued)),
        ek=der(
            ca.issue_endorsement_key(key.public_key(), ica, now=ek_issued, values=values, kind=kind)
        ),
        roots=frozenset({vendor.root_sha256()}),
    )


def with_fields(**changes: object) -> Callable[[ReportFields], ReportFields]:
    """For `change_fields`."""
    return lambda fields: replace(fields, **changes)  # type: ignore[arg-type] # a test's own names


def table_of(*, ark: bytes, ica: bytes, ek: bytes) -> bytes:
    """The host's certificate table with these three; `ek` as VCEK."""
    contents = {TableEntry.ARK: ark, TableEntry.ICA: ica, TableEntry.VCEK: ek}
    return CertTable(contents).encode()
