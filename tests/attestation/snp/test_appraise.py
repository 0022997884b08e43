"""Appraisal: every demand refuses what breaks it, and what nobody demanded is listed so."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from attestation.anchors import TrustAnchors
from attestation.checks import CheckStatus
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.abi import FirmwareVersion, PlatformInfo, Policy
from attestation.snp.appraise import appraise_report, demands
from attestation.snp.certs import Chain
from attestation.snp.policy import GuestRules, PlatformRules, SnpPolicy
from attestation.snp.product import EndorsementKey, ProductLine
from attestation.snp.verify import VerifiedReport, verify_report
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.synthetic import CSP, TCB, make

MILAN, GENOA, TURIN = ProductLine.MILAN, ProductLine.GENOA, ProductLine.TURIN
AMD = TrustAnchors.builtin().amd
PLAIN_POLICY = 0x30000  # bit 17, SMT
DEBUG_REPORT = "377e6241d3b373ab"


def real(snp: SnpVectors, case: dict[str, Any]) -> VerifiedReport:
    return verify_report(
        snp.report(case["report"]),
        Chain.parse(**snp.certificates(case)),
        roots=AMD,
        now=datetime.fromisoformat(case["valid_from"]),
        expected_report_data=None,
    )


@pytest.fixture
def good(simulated_vendor: SimulatedVendor) -> VerifiedReport:
    """A Genoa report that the default policy accepts."""
    verified = make(simulated_vendor).verify()
    report = replace(verified.report, policy=Policy.parse(PLAIN_POLICY))
    return replace(verified, report=report)


def with_report(verified: VerifiedReport, **changes: Any) -> VerifiedReport:
    return replace(verified, report=replace(verified.report, **changes))


def refused(verified: VerifiedReport, policy: SnpPolicy) -> str:
    """The one check that fails."""
    with pytest.raises(VerificationError) as caught:
        appraise_report(verified, policy)
    failed = [c.name for c in caught.value.checks if c.status is CheckStatus.FAILED]
    assert failed == [caught.value.code]
    assert {check.name for check in caught.value.checks} >= set(demands())
    return caught.value.code


def status(verified: VerifiedReport, policy: SnpPolicy, name: str) -> CheckStatus:
    (found,) = [c.status for c in appraise_report(verified, policy) if c.name == name]
    return found


def test_every_check_is_listed_once_and_in_order(good: VerifiedReport) -> None:
    names = [check.name for check in appraise_report(good, SnpPolicy())]
    assert len(set(names)) == len(names)
    assert sorted(names[-len(demands()) :]) == sorted(demands())
    assert all(check.detail for check in appraise_report(good, SnpPolicy()))


# --- real reports


def test_debug_is_refused_by_appraisal_and_accepted_where_it_is_allowed(snp: SnpVectors) -> None:
    verified = real(snp, snp.case(DEBUG_REPORT))
    rules = SnpPolicy(sb_3019=False, allow_provisional_firmware=True)
    assert refused(verified, rules) == "snp.guest.no_debug"
    appraise_report(verified, replace(rules, guest=GuestRules(allow_debug=True)))


def test_real_reports_below_the_bulletin_are_refused_and_others_are_not(snp: SnpVectors) -> None:
    ended: dict[str, set[str]] = {}
    for case in snp.cases:
        verified = real(snp, case)
        try:
            appraise_report(verified, SnpPolicy())
            found = "accepted"
        except AttestationError as error:
            failed = [c.name for c in error.checks if c.status is CheckStatus.FAILED]
            found = "sb_3019" if "snp.tcb.sb_3019" in failed else error.code
        ended.setdefault(found, set()).add(case["report"])
        old = verified.product_line is MILAN and verified.reported_tcb.snp < 0x18
        assert not old or found == "sb_3019"
    assert ended["accepted"]
    assert ended["sb_3019"]


# --- what a newcomer gets


@pytest.mark.parametrize(
    ("bits", "check"), [(1 << 19, "snp.guest.no_debug"), (1 << 18, "snp.guest.no_migration")]
)
def test_the_default_refuses_guests_that_their_host_can_open(
    good: VerifiedReport, bits: int, check: str
) -> None:
    bent = with_report(good, policy=Policy.parse(PLAIN_POLICY | bits))
    assert refused(bent, SnpPolicy()) == check


@pytest.mark.parametrize("line", [MILAN, GENOA])
@pytest.mark.parametrize("component", ["snp", "microcode"])
def test_the_default_refuses_what_amd_sb_3019_mends(
    good: VerifiedReport, line: ProductLine, component: str
) -> None:
    cpuid = (0x19, 0x01, 1) if line is MILAN else (0x19, 0x11, 1)
    least = TCB[line] if line is MILAN else replace(TCB[line], snp=0x17, microcode=0x54)
    levels: dict[str, Any] = dict.fromkeys(("reported_tcb", "committed_tcb", "current_tcb"), least)
    verified = replace(with_report(good, cpuid=cpuid), product_line=line, **levels)
    assert status(verified, SnpPolicy(), "snp.tcb.sb_3019") is CheckStatus.PASSED
    lower = replace(least, **{component: getattr(least, component) - 1})
    levels = dict.fromkeys(levels, lower)
    bent = replace(verified, **levels)
    assert refused(bent, SnpPolicy()) == "snp.tcb.sb_3019"
    assert status(bent, SnpPolicy(sb_3019=False), "snp.tcb.sb_3019") is CheckStatus.SKIPPED


def test_parts_of_a_line_have_microcode_levels_of_their_own(good: VerifiedReport) -> None:
    for cpuid, level in (((0x19, 0x11, 2), 0x4F), ((0x19, 0xA0, 2), 0x19)):
        levels = replace(TCB[GENOA], microcode=level)
        verified = replace(
            with_report(good, cpuid=cpuid),
            reported_tcb=levels,
            committed_tcb=levels,
            current_tcb=levels,
        )
        appraise_report(verified, SnpPolicy())
        for unknown in (None, (0x19, 0x11, 9)):  # the highest level of the line applies then
            assert refused(with_report(verified, cpuid=unknown), SnpPolicy()) == "snp.tcb.sb_3019"


def test_provisional_firmware_is_refused_unless_it_is_allowed(good: VerifiedReport) -> None:
    newer = replace(good, current_tcb=replace(good.current_tcb, snp=good.current_tcb.snp + 1))
    build = with_report(good, current_version=FirmwareVersion(major=99, minor=0, build=0))
    for bent in (newer, build):
        assert refused(bent, SnpPolicy()) == "snp.tcb.not_provisional"
        appraise_report(bent, SnpPolicy(allow_provisional_firmware=True))


def test_levels_that_do_not_rise_are_refused(good: VerifiedReport) -> None:
    lower = replace(good.committed_tcb, tee=good.committed_tcb.tee, bootloader=0)
    bent = replace(good, committed_tcb=lower, current_tcb=lower)
    assert refused(bent, SnpPolicy()) == "snp.tcb.order"
    bent = replace(good, current_tcb=lower)
    assert refused(bent, SnpPolicy(allow_provisional_firmware=True)) == "snp.tcb.order"


# --- what a policy can demand


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        (SnpPolicy(product_lines=frozenset({TURIN})), "snp.product_line.allowed"),
        (
            SnpPolicy(minimum_reported={GENOA: replace(TCB[GENOA], tee=1)}),
            "snp.tcb.minimum_reported",
        ),
        (
            SnpPolicy(minimum_committed={GENOA: replace(TCB[GENOA], snp=26)}),
            "snp.tcb.minimum_committed",
        ),
        (
            SnpPolicy(minimum_launch={GENOA: replace(TCB[GENOA], bootloader=11)}),
            "snp.tcb.minimum_launch",
        ),
        (SnpPolicy(guest=GuestRules(allow_smt=False)), "snp.guest.no_smt"),
        (SnpPolicy(guest=GuestRules(require_single_socket=True)), "snp.guest.single_socket"),
        (
            SnpPolicy(guest=GuestRules(require_ciphertext_hiding=True)),
            "snp.guest.ciphertext_hiding",
        ),
        (SnpPolicy(guest=GuestRules(require_rapl_disabled=True)), "snp.guest.rapl_disabled"),
        (SnpPolicy(guest=GuestRules(require_aes_256_xts=True)), "snp.guest.aes_256_xts"),
        (SnpPolicy(guest=GuestRules(minimum_abi=(1, 51))), "snp.guest.minimum_abi"),
        (SnpPolicy(vmpl=frozenset({3})), "snp.guest.vmpl"),
        (SnpPolicy(minimum_guest_svn=2**32 - 1), "snp.guest.minimum_svn"),
        (SnpPolicy(platform=PlatformRules(require_tsme=True)), "snp.platform.tsme"),
        (SnpPolicy(platform=PlatformRules(require_tio=True)), "snp.platform.tio"),
        (
            SnpPolicy(platform=PlatformRules(require_rapl_disabled=True)),
            "snp.platform.rapl_disabled",
        ),
        (
            SnpPolicy(platform=PlatformRules(require_ciphertext_hiding=True)),
            "snp.platform.ciphertext_hiding",
        ),
        (SnpPolicy(measurements=frozenset({b"x" * 48})), "snp.measurement.allowed"),
        (SnpPolicy(host_data=frozenset({b"x" * 32})), "snp.host_data.allowed"),
        (SnpPolicy(family_ids=frozenset({b"x" * 16})), "snp.family_id.allowed"),
        (SnpPolicy(image_ids=frozenset({b"x" * 16})), "snp.image_id.allowed"),
        (SnpPolicy(report_ids=frozenset({b"x" * 32})), "snp.report_id.allowed"),
        (SnpPolicy(id_keys=frozenset({b"x" * 48})), "snp.id_key.allowed"),
        (SnpPolicy(author_keys=frozenset({bytes(48)})), "snp.id_key.allowed"),
        (SnpPolicy(chip_ids=frozenset({b"x" * 64})), "snp.chip_id.allowed"),
        (SnpPolicy(csp_ids=frozenset({CSP})), "snp.chip_id.allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_demand_that_is_not_met_refuses(
    good: VerifiedReport, policy: SnpPolicy, check: str
) -> None:
    plain = with_report(good, platform_info=PlatformInfo.parse(1))
    assert refused(plain, policy) == check


@pytest.mark.parametrize(
    ("bits", "rules", "check"),
    [
        (1, PlatformRules(require_smt_off=True), "snp.platform.smt_off"),
        (1, PlatformRules(require_ecc=True), "snp.platform.ecc"),
        (1, PlatformRules(require_alias_check=True), "snp.platform.alias_check"),
        (1 | 1 << 6, PlatformRules(refuse_unknown_bits=True), "snp.platform.unknown_bits"),
    ],
)
def test_demands_on_the_platform(
    good: VerifiedReport, bits: int, rules: PlatformRules, check: str
) -> None:
    bent = with_report(good, platform_info=PlatformInfo.parse(bits))
    assert refused(bent, SnpPolicy(platform=rules)) == check


@pytest.mark.parametrize(
    ("guest", "platform", "what"),
    [
        (1 << 17, 1, "SMT"),
        (PLAIN_POLICY | 1 << 23, 0, "RAPL"),
        (PLAIN_POLICY | 1 << 24, 0, "ciphertext hiding"),
    ],
)
def test_a_platform_that_breaks_the_guests_policy_is_refused_without_any_demand(
    good: VerifiedReport, guest: int, platform: int, what: str
) -> None:
    bent = with_report(good, policy=Policy.parse(guest), platform_info=PlatformInfo.parse(platform))
    with pytest.raises(VerificationError, match=what) as caught:
        appraise_report(bent, SnpPolicy())
    assert caught.value.code == "snp.platform.keeps_guest_policy"


def test_an_author_key_vouches_only_where_it_was_used(good: VerifiedReport) -> None:
    policy = SnpPolicy(author_keys=frozenset({b"a" * 48}))
    named = with_report(good, author_key_digest=b"a" * 48)
    assert refused(named, policy) == "snp.id_key.allowed"
    appraise_report(with_report(named, author_key_en=True), policy)


def test_a_provider_that_is_not_allowed_is_refused(simulated_vendor: SimulatedVendor) -> None:
    verified = make(simulated_vendor, kind=EndorsementKey.VLEK).verify()
    verified = with_report(verified, policy=Policy.parse(PLAIN_POLICY))
    appraise_report(verified, SnpPolicy(csp_ids=frozenset({CSP})))
    other = SnpPolicy(csp_ids=frozenset({"CN=elsewhere"}))
    assert refused(verified, other) == "snp.csp_id.allowed"
    # A list of chips allows no provider.
    chips = SnpPolicy(chip_ids=frozenset({b"x" * 64}))
    assert refused(verified, chips) == "snp.csp_id.allowed"


def test_mitigations_must_all_be_there(good: VerifiedReport) -> None:
    verified = with_report(good, launch_mit_vector=0b101, current_mit_vector=0b111)
    appraise_report(verified, SnpPolicy(launch_mitigations=0b101, current_mitigations=0b111))
    assert refused(verified, SnpPolicy(launch_mitigations=0b111)) == "snp.mitigations.launch"
    assert refused(verified, SnpPolicy(current_mitigations=8)) == "snp.mitigations.current"


def test_an_old_report_cannot_state_mitigations(good: VerifiedReport) -> None:
    verified = with_report(good, version=3, launch_mit_vector=None, current_mit_vector=None)
    with pytest.raises(UncheckableError) as caught:
        appraise_report(verified, SnpPolicy(launch_mitigations=1))
    assert caught.value.code == "snp.mitigations.launch"


def test_a_demanded_list_that_was_not_given_is_not_checked(good: VerifiedReport) -> None:
    with pytest.raises(UncheckableError) as caught:
        appraise_report(good, SnpPolicy(require_crl=True))
    assert caught.value.code == "snp.crl.required"


def test_all_that_fails_is_listed_together(good: VerifiedReport) -> None:
    bent = with_report(good, policy=Policy.parse(PLAIN_POLICY | 3 << 18), vmpl=3)
    with pytest.raises(VerificationError) as caught:
        appraise_report(bent, SnpPolicy(vmpl=frozenset({0})))
    failed = [c.name for c in caught.value.checks if c.status is CheckStatus.FAILED]
    assert failed == ["snp.guest.no_debug", "snp.guest.no_migration", "snp.guest.vmpl"]
