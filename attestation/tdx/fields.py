"""A quote's fields as plain values for people and JSON: numbers, booleans, hex."""

from __future__ import annotations

from typing import Any

from attestation.errors import AttestationError
from attestation.tdx.abi import QeReport, Quote, TdReport
from attestation.tdx.chain import Chain
from attestation.tdx.pck import PckExtensions


def quote_fields(quote: Quote) -> dict[str, Any]:
    """Every field by its name in Intel's quote format, JSON-ready.

    `pck` is what the certificate in the quote says of the platform, None where it cannot be read.
    The PPID is left out: it follows a machine from tenant to tenant.
    """
    return {
        "version": quote.header.version,
        "user_data": quote.header.user_data.hex(),
        **_report(quote.report),
        "qe_report": _enclave(quote.qe_report),
        "pck": _platform(quote.pck_chain),
    }


def _report(report: TdReport) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "mrseam": report.mrseam.hex(),
        "mrsignerseam": report.mrsignerseam.hex(),
        "seam_attributes": report.seam_attributes.hex(),
        "td_attributes": f"{report.td_attributes:#018x}",
        "debug": report.debug,
        "xfam": f"{report.xfam:#018x}",
        "mrtd": report.mrtd.hex(),
        "mrconfigid": report.mrconfigid.hex(),
        "mrowner": report.mrowner.hex(),
        "mrownerconfig": report.mrownerconfig.hex(),
    }
    fields |= {f"rtmr{number}": value.hex() for number, value in enumerate(report.rtmr)}
    fields["report_data"] = report.report_data.hex()
    for name in ("tee_tcb_svn2", "mrservicetd"):
        value = getattr(report, name)
        fields[name] = None if value is None else value.hex()
    return fields


def _enclave(report: QeReport) -> dict[str, Any]:
    return {
        "cpusvn": report.cpusvn.hex(),
        "miscselect": report.miscselect,
        "attributes": report.attributes.hex(),
        "mrenclave": report.mrenclave.hex(),
        "mrsigner": report.mrsigner.hex(),
        "isvprodid": report.isvprodid,
        "isvsvn": report.isvsvn,
    }


def _platform(pck_chain: bytes) -> dict[str, Any] | None:
    try:
        pck = PckExtensions.decode(Chain.parse(pck_chain).leaf.sgx_extensions or b"")
    except AttestationError:
        return None
    instance = pck.platform_instance
    return {
        "fmspc": pck.fmspc.hex(),
        "pceid": pck.pceid.hex(),
        "components": list(pck.components),
        "pcesvn": pck.pcesvn,
        "sgx_type": pck.sgx_type,
        "platform_instance": None if instance is None else instance.hex(),
    }
