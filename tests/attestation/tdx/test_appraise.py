"""Each demand of a policy: met, not met, and listed as skipped where nobody asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestation.checks import CheckStatus
from attestation.errors import MalformedError, VerificationError
from attestation.simulated.tdx_quote import MRSEAM, SIMULATED_MRTD
from attestation.tdx.abi import Quote
from attestation.tdx.appraise import appraise_quote, demands
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.policy import TdRules, TdxPolicy
from attestation.tdx.verify import VerifiedQuote
from tests.attestation.tdx.conftest import TdxVectors, moment
from tests.attestation.tdx.synthetic import REPORT_DATA, TD_1_5, intel, verify
from tests.attestation.tdx.test_verify import verify as verify_real

SEPT = 1 << 28


def quoted(**td: Any) -> VerifiedQuote:
    return verify(intel().quote(REPORT_DATA, **td))


def refused(verified: VerifiedQuote, policy: TdxPolicy | None = None) -> str:
    with pytest.raises(VerificationError) as caught:
        appraise_quote(verified, policy or TdxPolicy())
    checks = caught.value.checks
    assert [c.name for c in checks if c.status is CheckStatus.FAILED] == [caught.value.code]
    return caught.value.code


def accepted(verified: VerifiedQuote, policy: TdxPolicy | None = None) -> bool:
    checks = appraise_quote(verified, policy or TdxPolicy())
    assert [c.name for c in checks[len(verified.checks) :]] == list(demands())
    return True


def rules(**changes: bool) -> TdxPolicy:
    return TdxPolicy(td=TdRules(**changes))


@pytest.mark.parametrize("td", [{}, TD_1_5])
def test_a_quiet_td_on_a_good_platform_is_accepted(td: dict[str, Any]) -> None:
    assert accepted(quoted(**td))


# --- the TD


def test_a_td_that_its_host_can_debug_is_refused_unless_that_is_allowed() -> None:
    debug = quoted(td_attributes=SEPT | 1)
    assert refused(debug) == "tdx.td.no_debug"
    assert accepted(debug, rules(allow_debug=True))


@pytest.mark.parametrize("bit", range(1, 8))
def test_the_other_bits_of_the_debug_group_are_always_refused(bit: int) -> None:
    bent = quoted(td_attributes=SEPT | 1 << bit)
    assert refused(bent, rules(allow_debug=True)) == "tdx.td.not_under_debug"


@pytest.mark.parametrize("bit", [*range(8, 28), *range(32, 63)])
def test_an_attribute_that_nobody_knows_is_refused(bit: int) -> None:
    assert refused(quoted(td_attributes=SEPT | 1 << bit)) == "tdx.td.reserved"


@pytest.mark.parametrize(
    ("attributes", "forbid", "allow", "name"),
    [
        (0, {}, {"require_sept_ve_disable": False}, "tdx.td.sept_ve_disable"),
        (SEPT | 1 << 29, {}, {"allow_migration": True}, "tdx.td.no_migration"),
        (SEPT | 1 << 30, {"allow_pks": False}, {}, "tdx.td.no_pks"),
        (SEPT | 1 << 31, {"allow_key_locker": False}, {}, "tdx.td.no_key_locker"),
        (SEPT | 1 << 63, {"allow_perfmon": False}, {}, "tdx.td.no_perfmon"),
    ],
)
def test_each_attribute_is_judged_by_its_own_rule(
    attributes: int, forbid: dict[str, bool], allow: dict[str, bool], name: str
) -> None:
    found = quoted(td_attributes=attributes)
    assert refused(found, rules(**forbid)) == name
    assert accepted(found, rules(**allow))


@pytest.mark.parametrize("xfam", [0, 1, 2, 0xE7 | 1 << 3, 0xE7 | 1 << 20, 1 << 63 | 3])
def test_impossible_features_are_refused(xfam: int) -> None:
    assert refused(quoted(xfam=xfam)) == "tdx.td.xfam"


def test_a_service_td_is_refused_unless_it_is_named() -> None:
    bound = quoted(**(TD_1_5 | {"mrservicetd": b"\1" * 48}))
    assert refused(bound) == "tdx.td.service_td"
    assert refused(bound, TdxPolicy(mrservicetd=frozenset({b"\2" * 48}))) == "tdx.td.service_td"
    assert accepted(bound, TdxPolicy(mrservicetd=frozenset({b"\1" * 48})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mrtd", SIMULATED_MRTD),
        ("mrseam", MRSEAM),
        ("mrconfigid", b"\1" * 48),
        ("mrowner", b"\2" * 48),
        ("mrownerconfig", b"\3" * 48),
        ("rtmr0", b"\4" * 48),
        ("rtmr1", b"\5" * 48),
        ("rtmr2", b"\6" * 48),
        ("rtmr3", b"\7" * 48),
    ],
)
def test_each_measurement_has_to_be_one_of_those_allowed(name: str, value: bytes) -> None:
    found = quoted(
        mrconfigid=b"\1" * 48,
        mrowner=b"\2" * 48,
        mrownerconfig=b"\3" * 48,
        rtmr=(b"\4" * 48, b"\5" * 48, b"\6" * 48, b"\7" * 48),
    )
    right: Any = {name: frozenset({value, bytes(48)})}
    assert accepted(found, TdxPolicy(**right))
    wrong: Any = {name: frozenset({b"\xff" * 48})}
    assert refused(found, TdxPolicy(**wrong)) == f"tdx.{name}.allowed"


def test_platforms_have_to_be_of_those_allowed() -> None:
    found = quoted()
    pck = found.pck
    assert pck.platform_instance is not None
    here = TdxPolicy(
        fmspcs=frozenset({pck.fmspc}), platform_instances=frozenset({pck.platform_instance})
    )
    assert accepted(found, here)
    assert refused(found, TdxPolicy(fmspcs=frozenset({b"\1" * 6}))) == "tdx.fmspc.allowed"
    elsewhere = TdxPolicy(platform_instances=frozenset({b"\1" * 16}))
    assert refused(found, elsewhere) == "tdx.platform_instance.allowed"
    single = replace(found, pck=replace(pck, platform_instance=None))
    assert refused(single, elsewhere) == "tdx.platform_instance.allowed"


# --- the TCB


def rated(status: TcbStatus, *advisories: str, age: int = 100) -> VerifiedQuote:
    found = quoted()
    date = found.verified_at - timedelta(days=age)
    assessment = replace(found.assessment, status=status, advisories=advisories, date=date)
    return replace(found, assessment=assessment)


@pytest.mark.parametrize("status", [s for s in TcbStatus if s is not TcbStatus.UP_TO_DATE])
def test_only_up_to_date_is_accepted_unless_another_status_is_allowed(status: TcbStatus) -> None:
    assert refused(rated(status)) == "tdx.tcb.status"
    assert accepted(rated(status), TdxPolicy(statuses=frozenset({status})))


@pytest.mark.parametrize(
    ("status", "allowed", "age", "holds"),
    [
        (TcbStatus.OUT_OF_DATE, TcbStatus.UP_TO_DATE, 30, True),
        (TcbStatus.OUT_OF_DATE, TcbStatus.UP_TO_DATE, 31, False),
        (TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, TcbStatus.CONFIGURATION_NEEDED, 30, True),
        (TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, TcbStatus.UP_TO_DATE, 1, False),
        (TcbStatus.REVOKED, TcbStatus.UP_TO_DATE, 1, False),
        (TcbStatus.SW_HARDENING_NEEDED, TcbStatus.UP_TO_DATE, 1, False),
    ],
)
def test_grace_is_for_platforms_that_are_out_of_date_and_ends(
    status: TcbStatus, allowed: TcbStatus, age: int, holds: bool
) -> None:
    policy = TdxPolicy(statuses=frozenset({allowed}), grace_days=30)
    if holds:
        assert accepted(rated(status, age=age), policy)
    else:
        assert refused(rated(status, age=age), policy) == "tdx.tcb.status"


def test_every_advisory_has_to_be_accepted_where_any_is_named() -> None:
    found = rated(TcbStatus.UP_TO_DATE, "INTEL-SA-00001", "INTEL-SA-00002")
    assert accepted(found)
    both = frozenset({"INTEL-SA-00001", "INTEL-SA-00002"})
    assert accepted(found, TdxPolicy(accepted_advisories=both))
    one = TdxPolicy(accepted_advisories=frozenset({"INTEL-SA-00001"}))
    assert refused(found, one) == "tdx.tcb.advisories"


def test_documents_of_an_older_evaluation_are_refused() -> None:
    found = quoted()
    assert found.evaluation_number == 19
    assert accepted(found, TdxPolicy(minimum_evaluation_number=19))
    later = TdxPolicy(minimum_evaluation_number=20)
    assert refused(found, later) == "tdx.tcb.evaluation_number"


# --- real ones


def test_where_another_library_refuses_a_real_td_our_default_policy_does(tdx: TdxVectors) -> None:
    """`dcap_qvl` refuses TDs for their attributes and service TDs; what it says is our policy's."""
    names = {
        "SEPT_VE_DISABLE is not enabled": "tdx.td.sept_ve_disable",
        "Invalid MR service TD": "tdx.td.service_td",
    }
    every = TdxPolicy(statuses=frozenset(TcbStatus))
    seen = set()
    for case in tdx.cases:
        if case["intel_algo"]["status"] == "NotSupported":
            continue
        found = verify_real(tdx, case, now=moment(case))
        if case["dcap_qvl"]["ok"]:
            assert accepted(found, every)
            continue
        name = names[case["dcap_qvl"]["err"].removeprefix("Verification failed: ")]
        assert refused(found, every) == name
        seen.add(name)
    assert seen == set(names.values())


def test_no_real_quote_of_the_vectors_is_debugged_and_the_flag_says_so(tdx: TdxVectors) -> None:
    for row in tdx.quotes:
        if "fmspc" in row:
            report = Quote.parse(tdx.quote(row["h"])).report
            assert report.debug == bool(bytes.fromhex(row["attr"])[0])


# --- the file


def test_everything_that_can_be_said_is_read() -> None:
    policy = TdxPolicy.parse(
        b"""
        statuses = ["UpToDate", "SWHardeningNeeded"]
        grace_days = 30
        accepted_advisories = ["INTEL-SA-00615"]
        minimum_evaluation_number = 17
        mrtd = ["%(m)b"]
        rtmr0 = ["%(m)b"]
        rtmr1 = ["%(m)b"]
        rtmr2 = ["%(m)b"]
        rtmr3 = ["%(m)b"]
        mrconfigid = ["%(m)b"]
        mrowner = ["%(m)b"]
        mrownerconfig = ["%(m)b"]
        mrseam = ["%(m)b"]
        mrservicetd = ["%(m)b"]
        fmspcs = ["00806f050000"]
        platform_instances = ["%(p)b"]
        [td]
        allow_debug = true
        allow_migration = true
        require_sept_ve_disable = false
        allow_pks = false
        allow_key_locker = false
        allow_perfmon = false
        """
        % {b"m": b"ab" * 48, b"p": b"cd" * 16}
    )
    default = TdxPolicy()
    for name in TdxPolicy.__dataclass_fields__:
        assert getattr(policy, name) != getattr(default, name), name
    for name in TdRules.__dataclass_fields__:
        assert getattr(policy.td, name) is not getattr(default.td, name), name


def test_an_empty_file_is_the_default() -> None:
    assert TdxPolicy.parse(b"") == TdxPolicy()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"x", "TOML"),
        (b"\xff", "TOML"),
        (b"grace_days = " + b"9" * 5000, "TOML"),  # more digits than Python converts
        (b"mrtds = []", "mrtds"),
        (b"mrtd = []", "not empty"),
        (b'mrtd = ["00"]', "48 bytes"),
        (b'fmspcs = ["zz"]', "6 bytes"),
        (b'statuses = ["Fine"]', "UpToDate"),
        (b"statuses = []", "not empty"),
        (b"grace_days = -1", "0 to"),
        (b"grace_days = true", "0 to"),
        (b"accepted_advisories = [1]", "strings"),
        (b"[td]\nallow_debug = 1", "true or false"),
        (b"[td]\ndebug = true", "td: unknown key 'debug'"),
        (b"td = 1", "table"),
    ],
)
def test_a_mistake_is_refused_and_named(text: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says) as caught:
        TdxPolicy.parse(text)
    assert caught.value.code == "tdx.policy.format"
