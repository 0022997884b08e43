"""Passports on TDX: what the quote and Intel's documents in them have to prove."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from attestation import cbor
from attestation.anchors import TrustAnchors
from attestation.checks import CheckStatus
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.evidence import Evidence
from attestation.examination import Examination, tcb_status_of
from attestation.passport import PROFILE, Passport
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tdx_documents import FMSPC, LIFETIME, tcb_info
from attestation.simulated.tdx_quote import SIMULATED_MRTD
from attestation.snp.policy import SnpPolicy
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.policy import TdxPolicy
from attestation.verifier import examine_passport, verify_passport
from tests.attestation.passports import NOW, Maker, anchors, forged, payload_of


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(SimulatedIntel.create(now=NOW))


@pytest.fixture(scope="module")
def token(maker: Maker) -> bytes:
    return maker.token()


def examine(maker: Maker, token: bytes, **changes: Any) -> Examination:
    settings: dict[str, Any] = {
        "now": NOW,
        "anchors": anchors(maker.vendor),
        "allow_simulated": True,
    }
    return examine_passport(token, **(settings | changes))


def refused(maker: Maker, token: bytes, **changes: Any) -> AttestationError:
    error = examine(maker, token, **changes).error
    assert error is not None
    return error


def with_evidence(maker: Maker, token: bytes, **changes: Any) -> bytes:
    """The passport with other evidence, signed by its own key again."""
    evidence = Evidence.from_cmw(payload_of(token)[299])
    parts = {
        "quote": evidence.quote,
        "certificates": evidence.certificates,
        "claims_buffer": evidence.claims_buffer,
    }
    made = Evidence(format="tdx", **(parts | changes))
    return forged(token, maker.key, {299: made.to_cmw()})


def test_an_issued_passport_verifies_and_claims_no_hardware(maker: Maker, token: bytes) -> None:
    found = examine(maker, token)
    assert found.error is None
    assert not found.hardware_attested
    assert found.tee == "simulated"
    assert found.answer("chain_and_tcb").status == "passed"
    assert found.answer("binding_and_freshness").status == "passed"
    claims = Passport.parse(token).claims
    assert claims.hardware.hwmodel == b"TDX " + FMSPC.hex().encode()
    assert claims.hardware.measurement == SIMULATED_MRTD
    checks = [check.name for answer in found.answers for check in answer.checks]
    assert {"tdx.quote.signature", "tdx.tcb.level", "tdx.chain.not_revoked"} <= set(checks)
    assert len(checks) == len(set(checks))
    assert found.tcb_status == "not_appraised"


def test_the_checks_stand_under_the_answers_that_they_belong_to(maker: Maker, token: bytes) -> None:
    found = examine(maker, token)
    names = {a.name: {check.name for check in a.checks} for a in found.answers}
    assert "tdx.quote.signature" in names["genuine_hardware"]
    assert "tdx.qe.identity" in names["genuine_hardware"]
    assert "tdx.tcb.status" in names["chain_and_tcb"]
    assert "tdx.root_crl.validity" in names["chain_and_tcb"]


def test_it_is_appraised_by_a_policy_for_tdx_only(maker: Maker, token: bytes) -> None:
    found = examine(maker, token, hardware_policy=TdxPolicy())
    assert found.error is None
    assert found.tcb_status == "appraised"
    strict = TdxPolicy(fmspcs=frozenset({bytes(6)}))
    assert refused(maker, token, hardware_policy=strict).code == "tdx.fmspc.allowed"
    other = refused(maker, token, hardware_policy=SnpPolicy())
    assert other.code == "passport.hardware_policy"


@pytest.mark.parametrize("word", ["UpToDate", "OutOfDate", "ConfigurationNeeded"])
def test_without_a_policy_the_tcb_status_is_intels_word_and_a_simulated_intel_has_none(
    maker: Maker, token: bytes, word: str
) -> None:
    assert isinstance(maker.vendor, SimulatedIntel)
    levels = tcb_info(NOW)["tcbLevels"]
    levels[0]["tcbStatus"] = word
    collateral = maker.vendor.collateral(NOW, tcbLevels=levels)
    found = examine(maker, with_evidence(maker, token, certificates=collateral))
    assert found.error is None
    assert found.tcb_status == "not_appraised"
    assert tcb_status_of(found.verified, None, simulated=True) == "not_appraised"
    assert tcb_status_of(found.verified, None, simulated=False) == word
    assert tcb_status_of(found.verified, TdxPolicy(), simulated=False) == "appraised"
    assert tcb_status_of(None, None, simulated=False) == "not_appraised"


def test_code_is_compared_with_mrtd(maker: Maker, token: bytes) -> None:
    found = examine(maker, token, measurement=SIMULATED_MRTD)
    assert found.answer("code_measured").status == "passed"
    # The firmware alone: a kernel and an agent of anybody's can follow it.
    assert "not checked: MRTD is the firmware" in found.answer("code_measured").detail
    some = TdxPolicy(rtmr1=frozenset({bytes(48)}))
    found = examine(maker, token, measurement=SIMULATED_MRTD, hardware_policy=some)
    assert "RTMR2" in found.answer("code_measured").detail
    all_of_it = TdxPolicy(rtmr1=frozenset({bytes(48)}), rtmr2=frozenset({bytes(48)}))
    found = examine(maker, token, measurement=SIMULATED_MRTD, hardware_policy=all_of_it)
    assert found.answer("code_measured").detail == ""
    assert refused(maker, token, measurement=bytes(48)).code == "passport.measurement"


def test_a_td_under_debug_is_refused(maker: Maker) -> None:
    # All eight bits of the group TUD: with any of them the TD is not to be trusted.
    for attributes in (1, *(1 << 28 | 1 << bit for bit in range(8))):
        error = refused(maker, maker.token(td={"td_attributes": attributes}))
        assert error.code == "passport.debug"


@pytest.mark.parametrize("policy", [None, TdxPolicy(statuses=frozenset(TcbStatus))])
def test_a_platform_whose_tcb_intel_revoked_is_refused_whatever_a_policy_allows(
    maker: Maker, token: bytes, policy: TdxPolicy | None
) -> None:
    assert isinstance(maker.vendor, SimulatedIntel)
    levels = tcb_info(NOW)["tcbLevels"]
    levels[0]["tcbStatus"] = "Revoked"
    revoked = with_evidence(
        maker, token, certificates=maker.vendor.collateral(NOW, tcbLevels=levels)
    )
    examination = examine(maker, revoked, hardware_policy=policy)
    assert examination.error is not None
    assert examination.error.code == "passport.revoked"
    assert examination.answer("chain_and_tcb").status == "failed"
    levels[0]["tcbStatus"] = "OutOfDate"  # Intel's word, for a policy to judge
    old = with_evidence(maker, token, certificates=maker.vendor.collateral(NOW, tcbLevels=levels))
    assert examine(maker, old, hardware_policy=policy).error is None


def test_simulated_ones_are_refused_unless_asked_for(maker: Maker, token: bytes) -> None:
    assert isinstance(refused(maker, token, allow_simulated=False), UncheckableError)
    without = refused(maker, token, anchors=TrustAnchors.builtin())
    assert without.code == "passport.simulated_root"
    other = SimulatedIntel.create(now=NOW)
    error = refused(maker, token, anchors=anchors(other))
    assert error.code == "tdx.chain.root_pinned"


def test_simulated_evidence_never_verifies_as_real(maker: Maker, token: bytes) -> None:
    real = forged(token, maker.key, {265: PROFILE, 274: [["tdx", [["check", 1]]]]})
    for allowed in (False, True):
        found = examine(maker, real, allow_simulated=allowed)
        assert found.error is not None
        assert found.error.code == "tdx.chain.root_pinned"
        assert not found.hardware_attested
        assert found.answer("chain_and_tcb").status == "failed"


def test_without_intels_documents_nothing_is_checked(maker: Maker, token: bytes) -> None:
    error = refused(maker, with_evidence(maker, token, certificates=b""))
    assert isinstance(error, UncheckableError)
    assert not any(check.status is CheckStatus.FAILED for check in error.checks)


def test_it_does_not_outlive_intels_documents(maker: Maker, token: bytes) -> None:
    soon = NOW + LIFETIME - timedelta(seconds=100)
    assert isinstance(maker.vendor, SimulatedIntel)
    old = maker.vendor.collateral(NOW - LIFETIME + timedelta(seconds=100))
    error = refused(maker, with_evidence(maker, token, certificates=old))
    assert error.code == "passport.outlives"
    assert refused(maker, token, now=soon).code == "passport.expired"


def test_the_quote_of_another_passport_is_refused(maker: Maker, token: bytes) -> None:
    other = Evidence.from_cmw(payload_of(Maker(maker.vendor).token())[299])
    error = refused(maker, with_evidence(maker, token, quote=other.quote))
    assert error.code == "tdx.report_data.matches"
    found = examine(maker, with_evidence(maker, token, quote=other.quote))
    assert found.answer("binding_and_freshness").status == "failed"


def test_documents_of_another_vendor_are_refused(maker: Maker, token: bytes) -> None:
    foreign = SimulatedIntel.create(now=NOW).collateral(NOW)
    assert isinstance(
        refused(maker, with_evidence(maker, token, certificates=foreign)), VerificationError
    )


def test_no_flipped_bit_is_accepted(maker: Maker, token: bytes) -> None:
    rng = random.Random(7)
    for position in range(0, len(token), 61):
        altered = bytearray(token)
        altered[position] ^= 1 << rng.randrange(8)
        with pytest.raises(AttestationError):
            verify_passport(
                bytes(altered), now=NOW, anchors=anchors(maker.vendor), allow_simulated=True
            )


def test_its_size_is_within_the_bounds_of_everything_that_carries_it(token: bytes) -> None:
    assert len(token) < 64 * 1024
    assert cbor.decode(token, max_size=2**18, max_depth=4)
