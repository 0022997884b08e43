"""Whose guest is it, of which code, on whose machine? What a report names, held to a policy."""

from __future__ import annotations

from attestation.ledger import NOT_DEMANDED, Ledger
from attestation.snp.policy import SnpPolicy
from attestation.snp.product import EndorsementKey
from attestation.snp.verify import VerifiedReport


def appraise_identity(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    """The checks of what was launched, who signed for it, and on whose machine it runs."""
    report = verified.report
    for name, allowed, value in (
        ("snp.measurement.allowed", policy.measurements, report.measurement),
        ("snp.host_data.allowed", policy.host_data, report.host_data),
        ("snp.family_id.allowed", policy.family_ids, report.family_id),
        ("snp.image_id.allowed", policy.image_ids, report.image_id),
        ("snp.report_id.allowed", policy.report_ids, report.report_id),
    ):
        ledger.one_of(name, allowed, value, bytes.hex)
    _keys(ledger, verified, policy)
    _machine(ledger, verified, policy)


def _machine(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    """A known chip (VCEK) or provider (VLEK). A list of the one allows none of the other."""
    chip, csp = "snp.chip_id.allowed", "snp.csp_id.allowed"
    if not (policy.chip_ids or policy.csp_ids):
        ledger.skip(chip, NOT_DEMANDED)
        ledger.skip(csp, NOT_DEMANDED)
    elif verified.endorsement_key is EndorsementKey.VLEK:
        ledger.skip(chip, "a VLEK names no chip")
        ledger.one_of(csp, policy.csp_ids, verified.csp_id, str, always=True)
    else:
        ledger.one_of(chip, policy.chip_ids, verified.report.chip_id, bytes.hex, always=True)
        ledger.skip(csp, "a VCEK names no provider")


def _keys(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    """Who signed the guest's identity: its ID key, or the author key that signed that one."""
    report, name = verified.report, "snp.id_key.allowed"
    by_author = report.author_key_en and report.author_key_digest in policy.author_keys
    ledger.demand(
        name,
        demanded=bool(policy.id_keys or policy.author_keys),
        holds=report.id_key_digest in policy.id_keys or by_author,
        found="by its author key" if by_author else "by its ID key",
        otherwise="neither the ID key nor the author key of the guest is trusted",
    )
