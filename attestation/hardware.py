"""Evidence of either vendor behind one set of questions.

What the questions mean differs: `attestation.snp` and `attestation.tdx` say how.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from attestation.anchors import TrustAnchors
from attestation.checks import Check
from attestation.claims_buffer import report_data
from attestation.errors import UncheckableError, VerificationError
from attestation.evidence import Evidence, Format
from attestation.snp import appraise as snp
from attestation.snp.abi import Report
from attestation.snp.certs import Chain
from attestation.snp.crl import CHECK as CRL_CHECK
from attestation.snp.crl import Crl
from attestation.snp.policy import SnpPolicy
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import VerifiedReport, verify_report
from attestation.tdx import appraise as tdx
from attestation.tdx import names
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import VerifiedQuote, verify_quote

Verified = VerifiedReport | VerifiedQuote
HardwarePolicy = SnpPolicy | TdxPolicy

_TDX_NOT_REVOKED: Final = "tdx.chain.not_revoked"

# How the names of checks begin that are about the vendor's word: chain, revocation, TCB.
_OF_CHAIN_AND_TCB: Final = (
    *("snp.chain", "snp.tcb", "snp.crl", "snp.policy"),
    *("tdx.chain", "tdx.signer", "tdx.pck", "tdx.root_crl", "tdx.crl", "tdx.tcb"),
    *("tdx.qe_identity", "tdx.module", "tdx.collateral", "tdx.endorsements", "tdx.policy"),
)


def verify_evidence(
    evidence: Evidence,
    *,
    simulated: bool,
    anchors: TrustAnchors,
    now: datetime,
    crls: Sequence[Crl] = (),
    crls_at: datetime | None = None,
) -> Verified:
    """Verify evidence with one of the two sets of roots.

    Args:
        crls: AMD's revocation lists, beside the one that evidence may carry; where any is given,
            one of this root's must be fresh. TDX evidence brings its own.
        crls_at: the moment at which a list of `crls` must be fresh; None: `now`.

    Raises:
        MalformedError, VerificationError: it does not prove what it claims.
        UncheckableError: a root or certificate that is not there.
    """
    if simulated and not anchors.simulated:
        raise UncheckableError(
            "passport.simulated_root",
            "no root of a simulated TEE was given",
            remedy="give the root certificate that the simulated TEE made (--simulated-root)",
        )
    expected = report_data(evidence.claims_buffer)
    if evidence.format == "tdx":
        return verify_quote(
            evidence.quote,
            Endorsements.parse(evidence.certificates) if evidence.certificates else Endorsements(),
            now=now,
            expected_report_data=expected,
            vendor=names.simulated(anchors.simulated) if simulated else names.INTEL,
        )
    report, table = Report.parse(evidence.quote), CertTable.parse(evidence.certificates)
    return verify_report(
        evidence.quote,
        Chain.from_table(table, report.signing_key),
        roots=anchors.simulated if simulated else anchors.amd,
        now=now,
        expected_report_data=expected,
        crls=crls,
        carried_crl=table.contents.get(TableEntry.CRL, b""),
        crls_at=crls_at,
    )


def measurement_of(verified: Verified) -> bytes:
    """What was launched (48 bytes): the report's measurement, or MRTD."""
    if isinstance(verified, VerifiedQuote):
        return verified.quote.report.mrtd
    return verified.report.measurement


def left_out_of(verified: Verified, policy: HardwarePolicy | None) -> str:
    """What of the code that was launched `measurement_of` does not cover and the policy does not
    demand either; empty where nothing is known to be left out.
    """
    if not isinstance(verified, VerifiedQuote):
        return ""
    if isinstance(policy, TdxPolicy) and policy.rtmr1 and policy.rtmr2:
        return ""
    return "MRTD is the firmware; what it booted is in RTMR1 and RTMR2, which no policy demands"


def debug_of(verified: Verified) -> bool:
    """Whether the host may look into the guest."""
    if isinstance(verified, VerifiedQuote):
        return verified.quote.report.debug
    return verified.report.debug


def revocation_of(verified: Verified) -> Check:
    """The check that the vendor has not revoked who certified this platform's key."""
    name = CRL_CHECK if isinstance(verified, VerifiedReport) else _TDX_NOT_REVOKED
    return next(check for check in verified.checks if check.name == name)


def list_window_of(verified: Verified) -> tuple[datetime, datetime] | None:
    """When AMD's list that was checked is good, both ends inclusive; None: none was. Intel's count
    among the documents of `window_of`.
    """
    crl = verified.crl if isinstance(verified, VerifiedReport) else None
    return None if crl is None else (crl.this_update, crl.next_update)


def window_of(verified: Verified, policy: HardwarePolicy | None) -> tuple[datetime, datetime]:
    """When all that vouches for the platform is valid, both ends inclusive. AMD's list counts where
    the policy demands one: otherwise evidence is worth no less when the list has ended.
    """
    listed = list_window_of(verified)
    if listed is None or not (isinstance(policy, SnpPolicy) and policy.require_crl):
        return verified.not_before, verified.not_after
    return max(verified.not_before, listed[0]), min(verified.not_after, listed[1])


def revoked_of(verified: Verified) -> bool | None:
    """Whether the vendor's documents call this platform's TCB revoked; None: there are no such
    documents (AMD's lists revoke certificates, which ends a verification by itself).
    """
    if isinstance(verified, VerifiedQuote):
        return verified.assessment.status is TcbStatus.REVOKED
    return None


def tcb_word_of(verified: Verified) -> str | None:
    """What the vendor calls this platform's TCB in the signed documents that came with the quote
    (`UpToDate`, `OutOfDate`, …); None: there is no such word (AMD publishes levels, no verdict).
    """
    if isinstance(verified, VerifiedQuote):
        return verified.assessment.status.value
    return None


def model_of(verified: Verified) -> str:
    """The kind of machine: `Genoa`, or `TDX 00806f050000` with the FMSPC."""
    if isinstance(verified, VerifiedQuote):
        return f"TDX {verified.pck.fmspc.hex()}"
    return str(verified.product_line)


def machine_of(verified: Verified) -> bytes:
    """What names the very machine: SNP's chip id, TDX's PPID. Private: it outlives tenants."""
    if isinstance(verified, VerifiedQuote):
        return verified.pck.ppid
    return verified.report.chip_id


def appraise_hardware(verified: Verified, policy: HardwarePolicy) -> tuple[Check, ...]:
    """Hold verified evidence to a policy; gives every check, those of the verification first.

    Raises:
        VerificationError: a demand is not met; or `passport.hardware_policy`: the policy is for
            the other vendor's hardware, whose demands this could never meet.
    """
    if isinstance(verified, VerifiedQuote) and isinstance(policy, TdxPolicy):
        return tdx.appraise_quote(verified, policy)
    if isinstance(verified, VerifiedReport) and isinstance(policy, SnpPolicy):
        return snp.appraise_report(verified, policy)
    raise VerificationError(
        "passport.hardware_policy", "the policy is for other hardware than the evidence is of"
    )


def demands_on(evidence: Format) -> tuple[str, ...]:
    """The names of the checks of an appraisal."""
    return tdx.demands() if evidence == "tdx" else snp.demands()


def read_hardware_policy(data: bytes, evidence: Format) -> HardwarePolicy:
    """Read a policy for this kind of evidence.

    Raises:
        MalformedError: it is none, or one for other hardware.
    """
    return TdxPolicy.parse(data) if evidence == "tdx" else SnpPolicy.parse(data)


def is_about_chain_and_tcb(check: str) -> bool:
    """Whether a check is about the vendor's word; the others are about the quote itself."""
    return check.startswith(_OF_CHAIN_AND_TCB)
