"""Does this report come from genuine hardware? Signatures, chain and binding; no policy.

Checks follow AMD publications 56860 (report) and 57230 (certificates). All of them run that can,
and each is listed; then the first that did not hold is raised. Nothing here reads a clock, a file
or a socket: one `now` is used for everything. The chain's own checks are in
`attestation.snp.chain`, revocation in `attestation.snp.crl`, and whether the contents are *good* in
`attestation.snp.appraise`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.checks import Check
from attestation.errors import VerificationError
from attestation.ledger import Ledger
from attestation.snp import chain as chains
from attestation.snp.abi import Report
from attestation.snp.certs import Chain
from attestation.snp.chain import Roots
from attestation.snp.crl import Crl, check_revocation
from attestation.snp.names import VendorNames
from attestation.snp.product import EndorsementKey, ProductLine, Tcb

# Order of the P-384 group (SEC 2, section 2.5.1).
P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_SHA384: Final = hashes.SHA384()
_ECDSA: Final = ec.ECDSA(_SHA384)
_NO_CHIP_ID: Final = bytes(64)
# What can be said only once the product line is known.
_BY_LINE: Final = (
    "snp.chain.ark_pinned",
    "snp.chain.names",
    "snp.chip.matches_certificate",
    "snp.tcb.matches_certificate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport:
    """A report whose signature, chain and binding hold. Whether its contents are *good* is policy.

    Attributes:
        product_line: by the certificates, and by the report where it states a CPU.
        endorsement_key: what signed the report.
        not_before, not_after: when all three certificates are valid, inclusive.
        reported_tcb, committed_tcb, current_tcb, launch_tcb: decoded for the product line.
        csp_id: the cloud provider that a VLEK names; None for a VCEK.
        hwid: the chip that a VCEK names; None for a VLEK.
        root_sha256: SHA-256 of the root's SubjectPublicKeyInfo: the pin that matched.
        crl: the fresh list that does not name the intermediate; None: `checks` say why.
        checks: what ran and passed, and what did not run with the reason.
    """

    report: Report
    product_line: ProductLine
    endorsement_key: EndorsementKey
    not_before: datetime
    not_after: datetime
    reported_tcb: Tcb
    committed_tcb: Tcb
    current_tcb: Tcb
    launch_tcb: Tcb
    csp_id: str | None
    hwid: bytes | None
    root_sha256: bytes
    crl: Crl | None
    checks: tuple[Check, ...]


def verify_report(
    report: bytes,
    chain: Chain,
    *,
    roots: Roots,
    now: datetime,
    expected_report_data: bytes | None,
    crls: Sequence[Crl] = (),
    carried_crl: bytes = b"",
    crls_at: datetime | None = None,
) -> VerifiedReport:
    """Verify one report with the certificates that came with it.

    Args:
        report: 1184 bytes.
        roots: SHA-256 pins of root keys: AMD's by product line, or a bare set of simulated ones.
        now: the moment at which all certificates must be valid; with a time zone.
        expected_report_data: the 64 bytes that the report must carry; None skips that check.
        crls: revocation lists; where any is given, one must be the root's, genuine and fresh.
        carried_crl: the list that came with the report: refuses what it revokes, or where it is
            forged; where it cannot be used, the check is skipped.
        crls_at: the moment at which one of `crls` must be fresh, where that is another one: of
            evidence from before, a list of today says more than one of then.

    Raises:
        MalformedError: the report is not a report, `snp.report.*`; its `checks` are empty.
        VerificationError: it does not prove what it claims; the code is the check's name.
        UncheckableError: no root is pinned for this product line, the CPU is unknown, no given
            list is usable.
    """
    if now.tzinfo is None:
        raise ValueError("`now` needs a time zone")
    parsed = Report.parse(report)
    if expected_report_data is not None and len(expected_report_data) != len(parsed.report_data):
        raise ValueError(
            f"report data have {len(parsed.report_data)} bytes, not {len(expected_report_data)}"
        )
    names, run = chains.vendor(roots), (ledger := Ledger()).run
    run("snp.report.format", lambda: _format(parsed))
    line = run("snp.chain.product_line", lambda: _product_line(parsed, chain, names))
    tcb = _check_by_line(ledger, parsed, chain, line, roots) if line else None
    if line is None:
        for name in _BY_LINE:
            ledger.skip(name, "the product line is not settled")
    run("snp.chain.constraints", lambda: chains.check_constraints(chain))
    run("snp.chain.validity", lambda: chains.check_validity(chain, now))
    run("snp.chain.signatures", lambda: chains.check_signatures(chain))
    run("snp.report.signature", lambda: _check_signature(parsed, chain.ek_key))
    if expected_report_data is None:
        ledger.skip("snp.report_data.matches", "no expected report data were given")
    else:
        run("snp.report_data.matches", lambda: _check_report_data(parsed, expected_report_data))
    at = crls_at if crls and crls_at else now
    crl = check_revocation(ledger, crls, carried_crl, chain, at)
    checks = ledger.settle()

    assert line is not None  # or `settle` had raised
    assert tcb is not None
    not_before, not_after = chains.window(chain)
    return VerifiedReport(
        report=parsed,
        product_line=line,
        endorsement_key=parsed.signing_key,
        not_before=not_before,
        not_after=not_after,
        reported_tcb=tcb,
        committed_tcb=Tcb.decode(parsed.committed_tcb, line),
        current_tcb=Tcb.decode(parsed.current_tcb, line),
        launch_tcb=Tcb.decode(parsed.launch_tcb, line),
        csp_id=chain.extensions.csp_id,
        hwid=chain.extensions.hwid,
        root_sha256=chain.ark.spki_sha256,
        crl=crl,
        checks=checks,
    )


def _check_by_line(
    ledger: Ledger, report: Report, chain: Chain, line: ProductLine, roots: Roots
) -> Tcb | None:
    run, names = ledger.run, chains.vendor(roots)
    run("snp.chain.ark_pinned", lambda: chains.check_root(chain, line, roots))
    run(
        "snp.chain.names",
        lambda: chains.check_names(chain, line, report.signing_key, names),
    )
    run("snp.chip.matches_certificate", lambda: _check_chip(report, chain, line))
    return run("snp.tcb.matches_certificate", lambda: _check_tcb(report, chain, line))


def _format(report: Report) -> tuple[str, None]:
    detail = f"version {report.version}, reserved fields are zero"
    if report.platform_info.unknown:
        detail += f"; warning: platform_info has unknown bits {report.platform_info.unknown:#x}"
    return detail, None


def _product_line(report: Report, chain: Chain, names: VendorNames) -> tuple[str, ProductLine]:
    """The line that the root's name, the certificate's product and the CPU agree on."""
    line = chains.check_product_line(chain, names)
    if report.product_line not in (None, line):
        raise VerificationError(
            "snp.chain.product_line",
            f"the report is from {report.product_line}, the certificates are for {line}",
        )
    if report.cpuid is None:
        return f"{line} by certificates; a version 2 report states no CPU", line
    return f"{line} by certificates and CPU {{:#x}}/{{:#x}}/{{:#x}}".format(*report.cpuid), line


def _check_chip(report: Report, chain: Chain, line: ProductLine) -> tuple[str, None]:
    """The certificate is for this chip (VCEK) or for a provider (VLEK)."""
    hwid, csp_id = chain.extensions.hwid, chain.extensions.csp_id
    if report.signing_key is EndorsementKey.VLEK:
        if csp_id is None or hwid is not None:
            raise _no_chip("a VLEK certificate names a provider and no chip; this does not")
        if report.chip_id != _NO_CHIP_ID:
            raise _no_chip("a report signed by a VLEK has no chip id; this has one")
        return f"a key of {csp_id}", None
    if hwid is None or csp_id is not None:
        raise _no_chip("a VCEK certificate names a chip and no provider; this does not")
    if report.chip_id == _NO_CHIP_ID:
        raise VerificationError(
            "snp.chip.matches_certificate",
            "the chip id is masked: nothing ties the report to the chip of the certificate",
            remedy="the platform's owner has to clear MASK_CHIP_ID",
        )
    size = 8 if line is ProductLine.TURIN else 64
    same = hwid[:8] == report.chip_id[:8]
    if len(hwid) != size or report.chip_id != hwid.ljust(64, b"\0"):
        raise _no_chip(
            f"the certificate is for the chip {hwid[:8].hex()}…, the report is from "
            f"{report.chip_id[:8].hex()}…"
            + (", which begins alike and goes on otherwise" if same else "")
        )
    return f"chip {hwid[:8].hex()}…", None


def _no_chip(message: str) -> VerificationError:
    return VerificationError("snp.chip.matches_certificate", message)


def _check_tcb(report: Report, chain: Chain, line: ProductLine) -> tuple[str, Tcb]:
    reported, certified = Tcb.decode(report.reported_tcb, line), chain.extensions.tcb
    for other in (report.committed_tcb, report.current_tcb, report.launch_tcb):
        Tcb.decode(other, line)
    if reported != certified:
        raise VerificationError(
            "snp.tcb.matches_certificate",
            f"the certificate is for the TCB ({certified}), the report states ({reported})",
        )
    return str(reported), reported


def _check_report_data(report: Report, expected: bytes) -> tuple[str, None]:
    if not hmac.compare_digest(report.report_data, expected):
        raise VerificationError(
            "snp.report_data.matches", "the report was made over other data than expected"
        )
    return "the report was made over the expected data", None


def _check_signature(report: Report, key: ec.EllipticCurvePublicKey) -> tuple[str, None]:
    r, s = report.signature_r, report.signature_s
    if report.mask_chip_key and not r and not s:
        raise VerificationError(
            "snp.report.signature",
            "the report is not signed, because the platform masks its chip key",
            remedy="the platform's owner has to clear MASK_CHIP_KEY",
        )
    if not (0 < r < P384_ORDER and 0 < s < P384_ORDER):
        raise VerificationError("snp.report.signature", "r or s is not in the range of P-384")
    try:
        key.verify(encode_dss_signature(r, s), report.signed_bytes, _ECDSA)
    except InvalidSignature:
        raise VerificationError(
            "snp.report.signature", "the report's signature is not by the endorsement key"
        ) from None
    return "ECDSA P-384 with SHA-384", None
