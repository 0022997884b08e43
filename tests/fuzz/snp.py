"""Coverage-guided fuzzing of what reads hostile SNP bytes (`make fuzz`).

The first byte of the input chooses the parser. Only the package's own errors may come out; any
other exception, a hang of ten seconds or a gigabyte of memory ends the run.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports():
    from attestation.anchors import TrustAnchors
    from attestation.errors import AttestationError
    from attestation.snp.abi import REPORT_SIZE, Report
    from attestation.snp.certs import Certificate, Chain
    from attestation.snp.collect import collect_chain, split_certificates
    from attestation.snp.crl import Crl
    from attestation.snp.fields import report_fields
    from attestation.snp.policy import SnpPolicy
    from attestation.snp.table import CertTable
    from attestation.snp.verify import verify_report

ROOTS = TrustAnchors.builtin().amd
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def report_and_table(data: bytes) -> None:
    report = Report.parse(data[:REPORT_SIZE])
    report_fields(report)
    table = CertTable.parse(data[REPORT_SIZE:])
    chain = Chain.from_table(table, report.signing_key)
    verify_report(report.raw, chain, roots=ROOTS, now=NOW, expected_report_data=None)


def loose_certificates(data: bytes) -> None:
    parts = split_certificates(data)
    collect_chain(parts[0], parts[1:])


def certificate(data: bytes) -> None:
    Certificate.parse(data, "certificate")


TARGETS = (
    report_and_table,
    CertTable.parse,
    certificate,
    loose_certificates,
    Crl.parse,
    SnpPolicy.parse,
)


def one_input(data: bytes) -> None:
    if data:
        with suppress(AttestationError):
            TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
