"""Is the platform patched well enough? Security patch levels and mitigations, held to a policy.

Sources: AMD publication 56860 (TCB), AMD-SB-3019.
"""

from __future__ import annotations

from attestation.ledger import NOT_DEMANDED, Ledger
from attestation.snp.policy import SB_3019, SB_3019_MICROCODE, SnpPolicy
from attestation.snp.product import Tcb, product_line
from attestation.snp.verify import VerifiedReport


def appraise_levels(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    """The checks `snp.tcb.*`."""
    line = verified.product_line
    reported, committed = verified.reported_tcb, verified.committed_tcb
    for name, levels, minimum in (
        ("snp.tcb.minimum_reported", reported, policy.minimum_reported.get(line)),
        ("snp.tcb.minimum_committed", committed, policy.minimum_committed.get(line)),
        ("snp.tcb.minimum_launch", verified.launch_tcb, policy.minimum_launch.get(line)),
    ):
        if minimum is None:
            ledger.skip(name, f"the policy demands nothing of {line}")
        else:
            _demand_levels(ledger, name, levels, minimum)
    if policy.sb_3019:
        _sb_3019(ledger, verified)
    else:
        ledger.skip("snp.tcb.sb_3019", NOT_DEMANDED)
    below = _below(committed, reported)
    ledger.demand(
        "snp.tcb.order",
        holds=not below and not _below(verified.current_tcb, committed),
        found="reported ≤ committed ≤ current",
        otherwise=f"reported ({reported}), committed ({committed}) and current"
        f" ({verified.current_tcb}) do not rise",
    )
    firm = (verified.current_tcb, verified.report.current_version)
    settled = (committed, verified.report.committed_version)
    ledger.demand(
        "snp.tcb.not_provisional",
        demanded=not policy.allow_provisional_firmware,
        holds=firm == settled,
        found="the running firmware is committed",
        otherwise=f"the running firmware ({firm[1]}; {firm[0]}) is not the committed one"
        f" ({settled[1]}; {settled[0]}): the host can still go back",
    )


def _demand_levels(ledger: Ledger, name: str, levels: Tcb, minimum: Tcb) -> None:
    ledger.demand(
        name,
        holds=not _below(levels, minimum),
        found=str(levels),
        otherwise=f"{', '.join(_below(levels, minimum))} below the minimum: ({levels}), not"
        f" ({minimum})",
    )


def _below(levels: Tcb, minimum: Tcb) -> list[str]:
    """The components in which `levels` is lower."""
    names = ("fmc", "bootloader", "tee", "snp", "microcode")
    return [name for name in names if (getattr(levels, name) or 0) < (getattr(minimum, name) or 0)]


def _sb_3019(ledger: Ledger, verified: VerifiedReport) -> None:
    name, line = "snp.tcb.sb_3019", verified.product_line
    minimum = SB_3019.get(line)
    if minimum is None:
        ledger.skip(name, f"AMD-SB-3019 names no level for {line}")
        return
    microcode = _microcode(verified)
    demanded = Tcb(bootloader=0, tee=0, snp=minimum.snp, microcode=microcode)
    levels = verified.reported_tcb
    ledger.demand(
        name,
        holds=not _below(levels, demanded),
        found=f"snp {levels.snp}, microcode {levels.microcode}",
        otherwise=f"AMD-SB-3019 (forged microcode, CVE-2024-56161) is mended from snp"
        f" {demanded.snp} and microcode {microcode} on; this is snp {levels.snp}, microcode"
        f" {levels.microcode}",
    )


def _microcode(verified: VerifiedReport) -> int:
    """The level for this part; the highest of its line where the report does not say which it is,
    or says one that the bulletin does not name."""
    levels = {
        cpu: level
        for cpu, level in SB_3019_MICROCODE.items()
        if product_line(*cpu[:2]) is verified.product_line
    }
    cpuid = verified.report.cpuid
    return levels.get(cpuid, max(levels.values())) if cpuid else max(levels.values())


def appraise_mitigations(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    """The checks `snp.mitigations.*`."""
    report = verified.report
    for name, demanded, vector in (
        ("snp.mitigations.launch", policy.launch_mitigations, report.launch_mit_vector),
        ("snp.mitigations.current", policy.current_mitigations, report.current_mit_vector),
    ):
        if not demanded:
            ledger.skip(name, NOT_DEMANDED)
        elif vector is None:
            ledger.cannot(
                name, f"a version {report.version} report states no mitigations; version 5 does"
            )
        else:
            ledger.demand(
                name,
                holds=vector & demanded == demanded,
                found=f"{vector:#x}",
                otherwise=f"the mitigations {demanded & ~vector:#x} are missing in {vector:#x}",
            )
