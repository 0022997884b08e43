"""Does this report come from genuine hardware? Signatures, chain and binding; no policy.

Checks follow AMD publications 56860 (report) and 57230 (certificates). Cheap checks run before
expensive ones, so which error a doubly bad report gets is not fixed; that it gets one is. Nothing
here reads a clock, a file or a socket: one `now` is used for everything.

The roots decide whose names the certificates must bear. A mapping pins AMD's root per product line;
a bare set pins roots of simulated vendors. So AMD's pins can never vouch for a simulated chain, nor
the other way round, even if a pin were put in the wrong place.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.checks import Check, passed, skipped
from attestation.errors import UncheckableError, VerificationError
from attestation.snp.abi import EndorsementKey, ProductLine, Report, Tcb
from attestation.snp.certs import Certificate, Chain
from attestation.snp.names import AMD, SIMULATED, VendorNames

Roots = frozenset[bytes] | Mapping[str, frozenset[bytes]]

# Order of the P-384 group (SEC 2, section 2.5.1).
P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_SHA384: Final = hashes.SHA384()
_PSS: Final = padding.PSS(mgf=padding.MGF1(_SHA384), salt_length=48)
_NO_CHIP_ID: Final = bytes(64)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport:
    """A report whose signature, chain and binding hold. Whether its contents are *good* is policy.

    Attributes:
        product_line: by the certificates, and by the report where it states a CPU.
        endorsement_key: what signed the report.
        not_before, not_after: when all three certificates are valid, inclusive.
        reported_tcb, committed_tcb, current_tcb, launch_tcb: decoded for the product line.
        csp_id: the cloud provider that a VLEK names; None for a VCEK.
        root_sha256: SHA-256 of the root's SubjectPublicKeyInfo: the pin that matched.
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
    root_sha256: bytes
    checks: tuple[Check, ...]


def verify_report(
    report: bytes,
    chain: Chain,
    *,
    roots: Roots,
    now: datetime,
    expected_report_data: bytes | None,
) -> VerifiedReport:
    """Verify one report with the certificates that came with it.

    Args:
        report: 1184 bytes.
        roots: SHA-256 pins of root keys: AMD's by product line, or a bare set of simulated ones.
        now: the moment at which all certificates must be valid; with a time zone.
        expected_report_data: the 64 bytes that the report must carry; None skips that check.

    Raises:
        MalformedError: the report is not a report, `snp.report.*`.
        VerificationError: it does not prove what it claims, `snp.chain.*`, `snp.binding.*`,
            `snp.report.signature`.
        UncheckableError: no root is pinned for this product line, or the CPU is unknown.
    """
    if now.tzinfo is None:
        raise ValueError("`now` needs a time zone")
    names = AMD if isinstance(roots, Mapping) else SIMULATED
    parsed = Report.parse(report)
    checks = [passed("snp.report.format", f"version {parsed.version}, reserved fields are zero")]

    line = _product_line(parsed, chain, names)
    checks.append(passed("snp.chain.product", f"{line} by certificates{_by_cpuid(parsed)}"))
    _check_root(chain, line, roots)
    checks.append(passed("snp.chain.root", f"ARK-{line}, key {chain.ark.spki_sha256.hex()}"))
    _check_names(parsed, chain, line, names)
    checks.append(passed("snp.chain.names", f"{parsed.signing_key.upper()} of {line}"))
    _check_constraints(chain)
    checks.append(passed("snp.chain.constraints", "only root and intermediate certify others"))
    not_before, not_after = _check_validity(chain, now)
    checks.append(passed("snp.chain.validity", f"until {_utc(not_after)}"))
    checks.append(passed("snp.binding.chip", _check_chip(parsed, chain, line)))
    reported_tcb = _check_tcb(parsed, chain, line)
    checks.append(passed("snp.binding.tcb", str(reported_tcb)))
    checks.append(_check_report_data(parsed, expected_report_data))

    _check_issued(chain.ark, chain.ark_key, "root is not signed by itself")
    _check_issued(chain.ica, chain.ark_key, "intermediate is not signed by the root")
    _check_issued(chain.ek, chain.ica_key, "endorsement key is not signed by the intermediate")
    checks.append(passed("snp.chain.signatures", "root, intermediate, endorsement key"))
    _check_signature(parsed, chain.ek_key)
    checks.append(passed("snp.report.signature", "ECDSA P-384 with SHA-384"))

    return VerifiedReport(
        report=parsed,
        product_line=line,
        endorsement_key=parsed.signing_key,
        not_before=not_before,
        not_after=not_after,
        reported_tcb=reported_tcb,
        committed_tcb=Tcb.decode(parsed.committed_tcb, line),
        current_tcb=Tcb.decode(parsed.current_tcb, line),
        launch_tcb=Tcb.decode(parsed.launch_tcb, line),
        csp_id=chain.extensions.csp_id,
        root_sha256=chain.ark.spki_sha256,
        checks=(*checks, *_NOT_APPRAISED),
    )


_NOT_APPRAISED: Final = (
    skipped("snp.chain.revocation", "no certificate revocation list was appraised"),
    skipped("snp.policy.minimum_tcb", "no minimum TCB was given"),
    skipped("snp.policy.guest", "debug, migration and VMPL are appraised by policy, not here"),
    skipped("snp.policy.measurement", "the launch measurement is appraised by policy, not here"),
)


def _by_cpuid(report: Report) -> str:
    if report.cpuid is None:
        return "; a version 2 report states no CPU"
    return " and CPU {:#x}/{:#x}/{:#x}".format(*report.cpuid)


def _product_line(report: Report, chain: Chain, names: VendorNames) -> ProductLine:
    """The line that the root's name, the certificate's product and the CPU agree on."""
    line = chain.extensions.product_line
    if names.common_name(chain.ark.subject) != names.ark(line):
        raise VerificationError(
            "snp.chain.product",
            f"the endorsement key is for {line}, the root is {_text(chain.ark.subject)}",
        )
    if report.product_line not in (None, line):
        raise VerificationError(
            "snp.chain.product",
            f"the report is from {report.product_line}, the certificates are for {line}",
        )
    return line


def _check_root(chain: Chain, line: ProductLine, roots: Roots) -> None:
    pins = roots.get(line, frozenset()) if isinstance(roots, Mapping) else roots
    if not pins:
        raise UncheckableError("snp.chain.no_root", f"no root is pinned for {line}")
    if chain.ark.spki_sha256 not in pins:
        raise VerificationError(
            "snp.chain.root",
            f"the root key {chain.ark.spki_sha256.hex()} is not the pinned one of {line}",
        )


def _check_names(report: Report, chain: Chain, line: ProductLine, names: VendorNames) -> None:
    """Subjects are exact; each issuer is the next subject, byte by byte."""
    key = report.signing_key
    if names.common_name(chain.ek.subject) != names.ek(key):
        raise VerificationError(
            "snp.chain.endorsement_key",
            f"the report is signed by a {key.upper()}, the certificate is for "
            f"{_text(chain.ek.subject)}",
        )
    if names.common_name(chain.ica.subject) != names.ica(line, key):
        raise VerificationError(
            "snp.chain.names",
            f"the intermediate of a {key.upper()} of {line} is not {_text(chain.ica.subject)}",
        )
    for certificate, issuer in (
        (chain.ark, chain.ark),
        (chain.ica, chain.ark),
        (chain.ek, chain.ica),
    ):
        if certificate.issuer.public_bytes() != issuer.subject.public_bytes():
            raise VerificationError(
                "snp.chain.names",
                f"{_text(certificate.subject)} names another issuer, {_text(certificate.issuer)}",
            )


def _check_constraints(chain: Chain) -> None:
    """CA rights where they belong, and no critical extension that nobody here understands."""
    for certificate, is_ca in ((chain.ark, True), (chain.ica, True), (chain.ek, False)):
        rights = False
        key_usage = True
        for extension in certificate.extensions:
            match extension.value:
                case x509.BasicConstraints(ca=ca):
                    rights = ca
                case x509.KeyUsage(key_cert_sign=key_cert_sign):
                    key_usage = key_cert_sign
                case _ if extension.critical:
                    raise VerificationError(
                        "snp.chain.constraints",
                        f"{_text(certificate.subject)} has a critical extension "
                        f"{extension.oid.dotted_string} that is not understood",
                    )
        if rights is not is_ca or (is_ca and not key_usage):
            raise VerificationError(
                "snp.chain.constraints",
                f"{_text(certificate.subject)} {'may not' if is_ca else 'may'} certify others",
            )


def _check_validity(chain: Chain, now: datetime) -> tuple[datetime, datetime]:
    """The window in which all three are valid; `now` must be inside it."""
    for certificate in (chain.ark, chain.ica, chain.ek):
        if now < certificate.not_before:
            raise VerificationError(
                "snp.chain.not_yet_valid",
                f"{_text(certificate.subject)} is valid from {_utc(certificate.not_before)}, "
                f"it is {_utc(now)}",
                remedy="check the clock",
            )
        if now > certificate.not_after:
            raise VerificationError(
                "snp.chain.expired",
                f"{_text(certificate.subject)} was valid until {_utc(certificate.not_after)}, "
                f"it is {_utc(now)}",
                remedy="check the clock; the host has to supply a current certificate",
            )
    certificates = (chain.ark, chain.ica, chain.ek)
    return max(c.not_before for c in certificates), min(c.not_after for c in certificates)


def _check_chip(report: Report, chain: Chain, line: ProductLine) -> str:
    """The certificate is for this chip (VCEK) or for a provider (VLEK); what was found."""
    hwid, csp_id = chain.extensions.hwid, chain.extensions.csp_id
    if report.signing_key is EndorsementKey.VLEK:
        if csp_id is None or hwid is not None:
            raise VerificationError(
                "snp.binding.vlek", "a VLEK certificate names a provider and no chip; this does not"
            )
        if report.chip_id != _NO_CHIP_ID:
            raise VerificationError(
                "snp.binding.vlek", "a report signed by a VLEK has no chip id; this has one"
            )
        return f"a key of {csp_id}"
    if hwid is None or csp_id is not None:
        raise VerificationError(
            "snp.binding.chip", "a VCEK certificate names a chip and no provider; this does not"
        )
    if report.chip_id == _NO_CHIP_ID:
        raise VerificationError(
            "snp.binding.chip_masked",
            "the chip id is masked: nothing ties the report to the chip of the certificate",
            remedy="the platform's owner has to clear MASK_CHIP_ID",
        )
    size = 8 if line is ProductLine.TURIN else 64
    if len(hwid) != size or report.chip_id != hwid.ljust(64, b"\0"):
        raise VerificationError(
            "snp.binding.chip",
            f"the certificate is for the chip {hwid[:8].hex()}…, the report is from "
            f"{report.chip_id[:8].hex()}…",
        )
    return f"chip {hwid[:8].hex()}…"


def _check_tcb(report: Report, chain: Chain, line: ProductLine) -> Tcb:
    reported, certified = Tcb.decode(report.reported_tcb, line), chain.extensions.tcb
    if reported != certified:
        raise VerificationError(
            "snp.binding.tcb",
            f"the certificate is for the TCB ({certified}), the report states ({reported})",
        )
    return reported


def _check_report_data(report: Report, expected: bytes | None) -> Check:
    if expected is None:
        return skipped("snp.binding.report_data", "no expected report data were given")
    if len(expected) != len(report.report_data):
        raise ValueError(f"report data have {len(report.report_data)} bytes, not {len(expected)}")
    if not hmac.compare_digest(report.report_data, expected):
        raise VerificationError(
            "snp.binding.report_data", "the report was made over other data than expected"
        )
    return passed("snp.binding.report_data", "the report was made over the expected data")


def _check_issued(certificate: Certificate, key: rsa.RSAPublicKey, otherwise: str) -> None:
    try:
        key.verify(certificate.signature, certificate.signed, _PSS, _SHA384)
    except InvalidSignature:
        raise VerificationError("snp.chain.signature", f"the {otherwise}") from None


def _check_signature(report: Report, key: ec.EllipticCurvePublicKey) -> None:
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
        key.verify(encode_dss_signature(r, s), report.signed_bytes, ec.ECDSA(_SHA384))
    except InvalidSignature:
        raise VerificationError(
            "snp.report.signature", "the report's signature is not by the endorsement key"
        ) from None


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(name: x509.Name) -> str:
    """A name for people; it is hostile, so it is bounded and printable."""
    return repr(name.rfc4514_string()[:160])
