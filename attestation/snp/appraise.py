"""Is what a verified report says *good*? Each demand of the policy is one check in the list.

What the policy does not demand is listed as skipped, with that reason: a reader sees what nobody
looked at. Source: AMD publication 56860 (guest policy, platform info).
"""

from __future__ import annotations

from typing import Final

from attestation.certificates import utc
from attestation.checks import Check
from attestation.errors import UncheckableError
from attestation.ledger import NOT_DEMANDED, Ledger
from attestation.snp.appraise_identity import appraise_identity
from attestation.snp.appraise_levels import appraise_levels, appraise_mitigations
from attestation.snp.crl import CHECK as CRL_CHECK
from attestation.snp.policy import SnpPolicy
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
    _platform_kind(ledger, verified, policy)
    appraise_levels(ledger, verified, policy)
    _guest(ledger, verified, policy)
    _platform(ledger, verified, policy)
    appraise_identity(ledger, verified, policy)
    appraise_mitigations(ledger, verified, policy)
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
        if verified.crl is None:
            (reason,) = (check.detail for check in verified.checks if check.name == CRL_CHECK)
            raise UncheckableError(
                "snp.crl.required",
                f"the policy demands a fresh revocation list: {reason}",
                remedy="give the root's list (--crl); an agent gets it by [kds] fetch or offline",
            )
        return f"one is good until {utc(verified.crl.next_update)}", None

    ledger.run("snp.crl.required", fresh_list)


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
        ledger.demand(name, demanded=demanded, holds=holds, found=found, otherwise=otherwise)
    vmpl = verified.report.vmpl
    ledger.demand(
        "snp.guest.vmpl",
        holds=vmpl in policy.vmpl,
        found=f"VMPL {vmpl}",
        otherwise=f"VMPL {vmpl} asked for the report, {sorted(policy.vmpl)} may",
    )
    svn = verified.report.guest_svn
    ledger.demand(
        "snp.guest.minimum_svn",
        demanded=policy.minimum_guest_svn > 0,
        holds=svn >= policy.minimum_guest_svn,
        found=str(svn),
        otherwise=f"the guest's SVN is {svn}, not {policy.minimum_guest_svn} or more",
    )


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
        ledger.demand(name, demanded=demanded, holds=holds, found="as demanded", otherwise=what)
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
