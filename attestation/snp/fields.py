"""A report's fields as plain values for people and JSON: numbers, booleans, hex."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attestation.errors import AttestationError
from attestation.snp.abi import Report
from attestation.snp.product import ProductLine, Tcb


def report_fields(report: Report, line: ProductLine | None = None) -> dict[str, Any]:
    """Every field by its name in AMD publication 56860, JSON-ready.

    Args:
        line: the verified product line. Without it the one that the report states is used; a
            version 2 report states none, and its TCBs stay raw hex.
    """
    if line is None:
        try:
            line = report.product_line
        except AttestationError:
            line = None
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": asdict(report.policy),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "signature_algo": "ECDSA P-384 with SHA-384",
        "current_tcb": _tcb(report.current_tcb, line),
        "platform_info": asdict(report.platform_info),
        "author_key_en": report.author_key_en,
        "mask_chip_key": report.mask_chip_key,
        "signing_key": report.signing_key.value,
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "reported_tcb": _tcb(report.reported_tcb, line),
        "cpuid": _cpuid(report),
        "chip_id": report.chip_id.hex(),
        "committed_tcb": _tcb(report.committed_tcb, line),
        "current_version": str(report.current_version),
        "committed_version": str(report.committed_version),
        "launch_tcb": _tcb(report.launch_tcb, line),
        "launch_mit_vector": report.launch_mit_vector,
        "current_mit_vector": report.current_mit_vector,
    }


def _tcb(raw: bytes, line: ProductLine | None) -> dict[str, Any] | str:
    if line is None:
        return raw.hex()
    try:
        levels = asdict(Tcb.decode(raw, line))
    except AttestationError:
        return raw.hex()
    return {name: level for name, level in levels.items() if level is not None}


def _cpuid(report: Report) -> dict[str, int] | None:
    if report.cpuid is None:
        return None
    return dict(zip(("family", "model", "stepping"), report.cpuid, strict=True))
