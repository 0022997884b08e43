"""Is what a verified report says *good*? Each demand of the policy is one check in the list.

What the policy does not demand is listed as skipped, with that reason: a reader sees what nobody
looked at. Sources: AMD publication 56860 (guest policy, platform info, TCB), AMD-SB-3019.
"""

from __future__ import annotations

from typing import Final

from attestation.checks import Check, CheckStatus
from attestation.errors import UncheckableError
from attestation.ledger import NOT_DEMANDED, Ledger
from attestation.snp.abi import EndorsementKey, Tcb, product_line
from attestation.snp.crl import CHECK as CRL_CHECK
from attestation.snp.policy import SB_3019, SB_3019_MICROCODE, SnpPolicy
from attestation.snp.verify import VerifiedReport

_NAMES: Final = (
    "snp.product_line.allowed",
    "snp.crl.required",
    "snp.tcb.minimum_reported",
    "snp.tcb.minimum_committed",
    "snp.tcb.minimum_launch",
    "snp.tcb.sb_3019",
    "snp.tcb.order",
    "snp.tcb.not_provisional",
    "snp.guest.no_debug",
    "snp.guest.no_migration",
    "snp.guest.no_smt",
    "snp.guest.single_socket",
    "snp.guest.ciphertext_hiding",
    "snp.guest.rapl_disabled",
    "snp.guest.aes_256_xts",
    "snp.guest.minimum_abi",
    "snp.guest.vmpl",
    "snp.guest.minimum_svn",
    "snp.platform.smt_off",
    "snp.platform.tsme",
    "snp.platform.ecc",
    "snp.platform.rapl_disabled",
    "snp.platform.ciphertext_hiding",
    "snp.platform.alias_check",
    "snp.platform.tio",
    "snp.platform.unknown_bits",
    "snp.platform.keeps_guest_policy",
    "snp.measurement.allowed",
    "snp.host_data.allowed",
    "snp.family_id.allowed",
    "snp.image_id.allowed",
    "snp.report_id.allowed",
    "snp.chip_id.allowed",
    "snp.csp_id.allowed",
    "snp.id_key.allowed",
    "snp.mitigations.launch",
    "snp.mitigations.current",
)


def appraise_report(verified: VerifiedReport, policy: SnpPolicy) -> tuple[Check, ...]:
    """Hold a verified report to a policy; gives every check, those of the verification first.

    Raises:
        VerificationError: a demand is not met; the code is the check's name, and `checks` are all.
        UncheckableError: a demand could not be checked (an old report, no revocation list).
    """
    ledger = Ledger()
    ledger.checks.extend(verified.checks)
    for check in (_platform_kind, _tcb, _guest, _platform, _identity, _mitigations):
        check(ledger, verified, policy)
    return ledger.settle()


def demands() -> tuple[str, ...]:
    """The names of all checks that an appraisal makes, in their order."""
    return _NAMES


def _platform_kind(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    line = verified.product_line
    ledger.demand(
        "snp.product_line.allowed",
        holds=line in policy.product_lines,
        found=str(line),
        otherwise=f"{line} is not one of the allowed product lines,"
        f" {', '.join(sorted(policy.product_lines))}",
    )
    if not policy.require_crl:
        ledger.skip("snp.crl.required", NOT_DEMANDED)
        return

    def fresh_list() -> tuple[str, None]:
        held = any(c.name == CRL_CHECK and c.status is CheckStatus.PASSED for c in verified.checks)
        if not held:
            raise UncheckableError(
                "snp.crl.required",
                "the policy demands a revocation list, none was given",
                remedy="give the root's list (--crl)",
            )
        return "one was checked", None

    ledger.run("snp.crl.required", fresh_list)


# --- patch levels


def _tcb(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
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
    if policy.allow_provisional_firmware:
        ledger.skip("snp.tcb.not_provisional", NOT_DEMANDED)
    else:
        ledger.demand(
            "snp.tcb.not_provisional",
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


# --- the guest's own policy


def _guest(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    rules, guest = policy.guest, verified.report.policy
    for name, demanded, holds, found, otherwise in (
        (
            "snp.guest.no_debug",
            not rules.allow_debug,
            not guest.debug,
            "the host cannot debug the guest",
            "the guest allows debugging: its host can read and change its memory",
        ),
        (
            "snp.guest.no_migration",
            not rules.allow_migration,
            not guest.migrate_ma,
            "no migration agent",
            "the guest allows a migration agent to move it",
        ),
        ("snp.guest.no_smt", not rules.allow_smt, not guest.smt, "no SMT", "SMT is allowed"),
        (
            "snp.guest.single_socket",
            rules.require_single_socket,
            guest.single_socket,
            "one socket",
            "the guest may run on more than one socket",
        ),
        (
            "snp.guest.ciphertext_hiding",
            rules.require_ciphertext_hiding,
            guest.ciphertext_hiding,
            "demanded",
            "the guest does not demand ciphertext hiding",
        ),
        (
            "snp.guest.rapl_disabled",
            rules.require_rapl_disabled,
            guest.rapl_dis,
            "demanded",
            "the guest does not demand that RAPL is off",
        ),
        (
            "snp.guest.aes_256_xts",
            rules.require_aes_256_xts,
            guest.mem_aes_256_xts,
            "demanded",
            "the guest does not demand AES-256-XTS for its memory",
        ),
        (
            "snp.guest.minimum_abi",
            rules.minimum_abi > (0, 0),
            (guest.abi_major, guest.abi_minor) >= rules.minimum_abi,
            f"{guest.abi_major}.{guest.abi_minor}",
            f"the guest demands firmware ABI {guest.abi_major}.{guest.abi_minor} only",
        ),
    ):
        if demanded:
            ledger.demand(name, holds=holds, found=found, otherwise=otherwise)
        else:
            ledger.skip(name, NOT_DEMANDED)
    vmpl = verified.report.vmpl
    ledger.demand(
        "snp.guest.vmpl",
        holds=vmpl in policy.vmpl,
        found=f"VMPL {vmpl}",
        otherwise=f"VMPL {vmpl} asked for the report, {sorted(policy.vmpl)} may",
    )
    svn = verified.report.guest_svn
    if policy.minimum_guest_svn:
        ledger.demand(
            "snp.guest.minimum_svn",
            holds=svn >= policy.minimum_guest_svn,
            found=str(svn),
            otherwise=f"the guest's SVN is {svn}, not {policy.minimum_guest_svn} or more",
        )
    else:
        ledger.skip("snp.guest.minimum_svn", NOT_DEMANDED)


# --- the platform


def _platform(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    info, rules = verified.report.platform_info, policy.platform
    for name, demanded, holds, what in (
        ("snp.platform.smt_off", rules.require_smt_off, not info.smt, "SMT is on"),
        ("snp.platform.tsme", rules.require_tsme, info.tsme, "TSME is off"),
        ("snp.platform.ecc", rules.require_ecc, info.ecc, "memory has no ECC"),
        ("snp.platform.rapl_disabled", rules.require_rapl_disabled, info.rapl_dis, "RAPL is on"),
        (
            "snp.platform.ciphertext_hiding",
            rules.require_ciphertext_hiding,
            info.ciphertext_hiding,
            "ciphertext hiding is off",
        ),
        (
            "snp.platform.alias_check",
            rules.require_alias_check,
            info.alias_check_complete,
            "memory was not checked for aliases since the last reset (BadRAM, AMD-SB-3015)",
        ),
        ("snp.platform.tio", rules.require_tio, info.tio, "trusted I/O is off"),
        (
            "snp.platform.unknown_bits",
            rules.refuse_unknown_bits,
            not info.unknown,
            f"platform_info has unknown bits {info.unknown:#x}",
        ),
    ):
        if demanded:
            ledger.demand(name, holds=holds, found="as demanded", otherwise=what)
        else:
            ledger.skip(name, NOT_DEMANDED)
    _consistent(ledger, verified)


def _consistent(ledger: Ledger, verified: VerifiedReport) -> None:
    """The firmware launches no guest whose policy the platform does not meet; a signed report that
    says otherwise comes from a firmware that does not keep its word."""
    guest, info = verified.report.policy, verified.report.platform_info
    broken = [
        what
        for what, is_broken in (
            ("SMT", not guest.smt and info.smt),
            ("RAPL", guest.rapl_dis and not info.rapl_dis),
            ("ciphertext hiding", guest.ciphertext_hiding and not info.ciphertext_hiding),
        )
        if is_broken
    ]
    ledger.demand(
        "snp.platform.keeps_guest_policy",
        holds=not broken,
        found="SMT, RAPL and ciphertext hiding are as the guest demands",
        otherwise=f"the platform does not keep what the guest demands of {', '.join(broken)}",
    )


# --- who and what


def _identity(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
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
    if not (policy.id_keys or policy.author_keys):
        ledger.skip(name, NOT_DEMANDED)
        return
    by_author = report.author_key_en and report.author_key_digest in policy.author_keys
    ledger.demand(
        name,
        holds=report.id_key_digest in policy.id_keys or by_author,
        found="by its author key" if by_author else "by its ID key",
        otherwise="neither the ID key nor the author key of the guest is trusted",
    )


def _mitigations(ledger: Ledger, verified: VerifiedReport, policy: SnpPolicy) -> None:
    report = verified.report
    for name, demanded, vector in (
        ("snp.mitigations.launch", policy.launch_mitigations, report.launch_mit_vector),
        ("snp.mitigations.current", policy.current_mitigations, report.current_mit_vector),
    ):
        if not demanded:
            ledger.skip(name, NOT_DEMANDED)
        elif vector is None:
            _uncheckable(ledger, name, report.version)
        else:
            ledger.demand(
                name,
                holds=vector & demanded == demanded,
                found=f"{vector:#x}",
                otherwise=f"the mitigations {demanded & ~vector:#x} are missing in {vector:#x}",
            )


def _uncheckable(ledger: Ledger, name: str, version: int) -> None:
    def check() -> tuple[str, None]:
        raise UncheckableError(
            name, f"a version {version} report states no mitigations; version 5 does"
        )

    ledger.run(name, check)
