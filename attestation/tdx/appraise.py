"""Is what a verified quote says *good*? Each demand of the policy is one check in the list.

What the policy does not demand is listed as skipped, with that reason: a reader sees what nobody
looked at. Sources: "Intel TDX Module Base Architecture Specification" (TD attributes, XFAM), Intel
"Quote appraisal policy" (statuses, grace period, advisories).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attestation.checks import Check
from attestation.ledger import Ledger
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import VerifiedQuote

# TD attributes (bits): what is not named here is reserved and must be zero.
_DEBUG: Final = 1 << 0
_UNDER_DEBUG: Final = 0xFE  # the other bits of the group that puts a TD at its host's mercy
_SEPT_VE_DISABLE: Final = 1 << 28
_MIGRATABLE: Final = 1 << 29
_PKS: Final = 1 << 30
_KEY_LOCKER: Final = 1 << 31
_PERFMON: Final = 1 << 63
_ATTRIBUTES: Final = (
    _DEBUG | _UNDER_DEBUG | _SEPT_VE_DISABLE | _MIGRATABLE | _PKS | _KEY_LOCKER | _PERFMON
)
# XFAM: x87 and SSE always, and what there is no TDX of yet never.
_XFAM_ALWAYS: Final = 0x3
_XFAM_POSSIBLE: Final = 0x0006DBE7
_NO_SERVICE_TD: Final = bytes(48)

_MEASUREMENTS: Final = (
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mrconfigid",
    "mrowner",
    "mrownerconfig",
    "mrseam",
)
_NAMES: Final = (
    "tdx.tcb.status",
    "tdx.tcb.advisories",
    "tdx.tcb.evaluation_number",
    "tdx.td.no_debug",
    "tdx.td.not_under_debug",
    "tdx.td.sept_ve_disable",
    "tdx.td.no_migration",
    "tdx.td.no_pks",
    "tdx.td.no_key_locker",
    "tdx.td.no_perfmon",
    "tdx.td.reserved",
    "tdx.td.xfam",
    "tdx.td.service_td",
    *(f"tdx.{name}.allowed" for name in _MEASUREMENTS),
    "tdx.fmspc.allowed",
    "tdx.platform_instance.allowed",
)
_S = TcbStatus
# What a platform would be if it had been brought up to date.
_MENDED: Final = {
    _S.OUT_OF_DATE: _S.UP_TO_DATE,
    _S.OUT_OF_DATE_CONFIGURATION_NEEDED: _S.CONFIGURATION_NEEDED,
}


def appraise_quote(verified: VerifiedQuote, policy: TdxPolicy) -> tuple[Check, ...]:
    """Hold a verified quote to a policy; gives every check, those of the verification first.

    Raises:
        VerificationError: a demand is not met; the code is the check's name, and `checks` are all.
    """
    ledger = Ledger()
    ledger.checks.extend(verified.checks)
    _tcb(ledger, verified, policy)
    _attributes(ledger, verified, policy)
    _identity(ledger, verified, policy)
    return ledger.settle()


def demands() -> tuple[str, ...]:
    """The names of all checks that an appraisal makes, in their order."""
    return _NAMES


def _tcb(ledger: Ledger, verified: VerifiedQuote, policy: TdxPolicy) -> None:
    found = verified.assessment
    allowed = found.status in policy.statuses
    grace = found.date + timedelta(days=policy.grace_days)
    pardoned = _MENDED.get(found.status) in policy.statuses and verified.verified_at <= grace
    since = f"{found.status}, of the level of {found.date:%Y-%m-%d}"
    ledger.demand(
        "tdx.tcb.status",
        holds=allowed or (policy.grace_days > 0 and pardoned),
        found=since if allowed else f"{since}, in grace until {grace:%Y-%m-%d}",
        otherwise=f"Intel says {since}; allowed are {', '.join(sorted(policy.statuses))}"
        + (f"; the grace ended on {grace:%Y-%m-%d}" if policy.grace_days else ""),
    )
    accepted = policy.accepted_advisories
    others = [name for name in found.advisories if name not in accepted]
    ledger.demand(
        "tdx.tcb.advisories",
        demanded=bool(accepted),
        holds=not others,
        found=f"{len(found.advisories)} of Intel's, all accepted",
        otherwise=f"not accepted: {', '.join(others)}",
    )
    minimum, number = policy.minimum_evaluation_number, verified.evaluation_number
    ledger.demand(
        "tdx.tcb.evaluation_number",
        demanded=minimum > 0,
        holds=number >= minimum,
        found=str(number),
        otherwise=f"Intel's documents are of evaluation {number}, not {minimum} or later",
    )


def _attributes(ledger: Ledger, verified: VerifiedQuote, policy: TdxPolicy) -> None:
    attributes, rules = verified.quote.report.td_attributes, policy.td
    for name, demanded, holds, found, otherwise in (
        (
            "tdx.td.no_debug",
            not rules.allow_debug,
            not attributes & _DEBUG,
            "the host cannot debug the TD",
            "the TD allows debugging: its host can read and change its memory",
        ),
        (
            "tdx.td.not_under_debug",
            True,
            not attributes & _UNDER_DEBUG,
            "no other bit of that kind",
            f"the TD is at its host's mercy: attributes {attributes & _UNDER_DEBUG:#x}",
        ),
        (
            "tdx.td.sept_ve_disable",
            rules.require_sept_ve_disable,
            bool(attributes & _SEPT_VE_DISABLE),
            "set",
            "the host can take pages away without the TD stopping (SEPT_VE_DISABLE is not set)",
        ),
        (
            "tdx.td.no_migration",
            not rules.allow_migration,
            not attributes & _MIGRATABLE,
            "the TD stays on its machine",
            "the TD can be moved to another machine",
        ),
        ("tdx.td.no_pks", not rules.allow_pks, not attributes & _PKS, "off", "PKS is on"),
        (
            "tdx.td.no_key_locker",
            not rules.allow_key_locker,
            not attributes & _KEY_LOCKER,
            "off",
            "Key Locker is on",
        ),
        (
            "tdx.td.no_perfmon",
            not rules.allow_perfmon,
            not attributes & _PERFMON,
            "off",
            "performance monitoring is on",
        ),
        (
            "tdx.td.reserved",
            True,
            not attributes & ~_ATTRIBUTES,
            "no unknown attribute",
            f"unknown attributes {attributes & ~_ATTRIBUTES:#x}",
        ),
    ):
        ledger.demand(name, demanded=demanded, holds=holds, found=found, otherwise=otherwise)
    xfam = verified.quote.report.xfam
    ledger.demand(
        "tdx.td.xfam",
        holds=xfam & _XFAM_ALWAYS == _XFAM_ALWAYS and not xfam & ~_XFAM_POSSIBLE,
        found=f"{xfam:#x}",
        otherwise=f"XFAM {xfam:#x} is impossible",
    )


def _identity(ledger: Ledger, verified: VerifiedQuote, policy: TdxPolicy) -> None:
    report = verified.quote.report
    service = report.mrservicetd
    named = service is not None and service in policy.mrservicetd
    if service is None:
        ledger.skip("tdx.td.service_td", "a report of TD 1.0 names no service TDs")
    else:
        ledger.demand(
            "tdx.td.service_td",
            holds=named or service == _NO_SERVICE_TD,
            found=service.hex() if named else "none is bound",
            otherwise=f"a service TD is bound that the policy does not name: {service.hex()}",
        )
    values = {name: getattr(report, name) for name in _MEASUREMENTS if hasattr(report, name)}
    values |= {f"rtmr{number}": value for number, value in enumerate(report.rtmr)}
    for name in _MEASUREMENTS:
        ledger.one_of(f"tdx.{name}.allowed", getattr(policy, name), values[name], bytes.hex)
    ledger.one_of("tdx.fmspc.allowed", policy.fmspcs, verified.pck.fmspc, bytes.hex)
    instance = verified.pck.platform_instance
    ledger.one_of(
        "tdx.platform_instance.allowed",
        policy.platform_instances,
        instance,
        lambda value: "a platform without an instance" if value is None else value.hex(),
    )
