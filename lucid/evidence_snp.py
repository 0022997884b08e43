"""SEV-SNP reports for `lucid evidence`."""

from __future__ import annotations

from typing import Any, Final

from attestation.anchors import TrustAnchors
from attestation.checks import Check
from attestation.errors import MalformedError
from attestation.snp.abi import REPORT_SIZE, Report
from attestation.snp.appraise import appraise_report, demands
from attestation.snp.certs import Certificate
from attestation.snp.collect import collect_chain, split_certificates
from attestation.snp.crl import Crl
from attestation.snp.fields import report_fields
from attestation.snp.policy import SnpPolicy
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import VerifiedReport, verify_report
from lucid.evidence_kinds import Options
from lucid.sources import read_file

OPTIONS: Final = frozenset({"endorsement-key", "chain", "crl"})


class SnpEvidence:
    """A report and the host's certificate table behind it. Implements `Kind`."""

    tee_type = "sev-snp"
    options = OPTIONS

    def __init__(self, data: bytes) -> None:
        """Raises MalformedError."""
        self._report = Report.parse(data[:REPORT_SIZE])
        try:
            self._table = CertTable.parse(data[REPORT_SIZE:])
        except MalformedError as error:
            what = "what follows the report is no certificate table of a host"
            raise MalformedError(error.code, f"{what}: {error}") from None

    def enclosed(self) -> dict[str, Any]:
        return {"table": [entry.name.lower() for entry in self._table.contents]}

    def fields(self, verified: VerifiedReport | None) -> dict[str, Any]:
        return report_fields(self._report, None if verified is None else verified.product_line)

    def findings(self, verified: VerifiedReport | None) -> dict[str, Any]:
        return {"product_line": None if verified is None else verified.product_line}

    def headline(self, verified: VerifiedReport) -> str:
        return f"SEV-SNP on {verified.product_line}"

    def policy(self, data: bytes | None) -> SnpPolicy:
        return SnpPolicy() if data is None else SnpPolicy.parse(data)

    def verify(self, options: Options) -> VerifiedReport:
        contents = self._table.contents
        ek = contents.get(TableEntry[self._report.signing_key.name])
        given = options.one("endorsement-key", _certificates)
        chains = options.every("chain", _certificates)
        crls = [Crl.parse(data) for data in options.every("crl", Crl.parse)]
        hosts = [contents[entry] for entry in (TableEntry.ICA, TableEntry.ARK) if entry in contents]
        others = [der for data in (*chains, *hosts) for der in split_certificates(data)]
        anchors, root = TrustAnchors.builtin(), options.simulated_root
        if root is not None:
            anchors = anchors.with_simulated_root(read_file(root))
        return verify_report(
            self._report.raw,
            collect_chain(ek if given is None else given, others),
            roots=anchors.amd if root is None else anchors.simulated,
            now=options.now,
            expected_report_data=options.report_data,
            crls=crls,
            carried_crl=contents.get(TableEntry.CRL, b""),
        )

    def checks(self, verified: VerifiedReport) -> tuple[Check, ...]:
        return verified.checks

    def appraise(self, verified: VerifiedReport, policy: SnpPolicy) -> tuple[Check, ...]:
        return appraise_report(verified, policy)

    def demands(self) -> tuple[str, ...]:
        return demands()


def _certificates(data: bytes) -> None:
    for der in split_certificates(data):
        Certificate.parse(der, "content")
