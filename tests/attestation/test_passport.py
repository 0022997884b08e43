"""A passport verifies only as issued, only for what was asked, and never proves too much."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor, cose
from attestation.anchors import TrustAnchors
from attestation.claims_buffer import ClaimsBuffer
from attestation.errors import (
    AttestationError,
    MalformedError,
    UncheckableError,
    VerificationError,
)
from attestation.examination import QUESTIONS, Answer, AnswerStatus
from attestation.passport import MEDIA_TYPE, PROFILE, Passport
from attestation.simulated.vendor import SimulatedVendor
from attestation.verifier import examine_passport, verify_passport
from tests.attestation.passports import (
    DIGEST,
    NOW,
    Maker,
    Vendor,
    anchors,
    forged,
    payload_of,
    reencoded,
    signed,
)


@pytest.fixture(scope="module")
def maker(simulated_vendor: SimulatedVendor) -> Maker:
    return Maker(simulated_vendor)


@pytest.fixture(scope="module")
def token(maker: Maker) -> bytes:
    return maker.token()


def verify(vendor: Vendor, token: bytes, **kwargs: Any) -> Any:
    settings: dict[str, Any] = {"now": NOW, "anchors": anchors(vendor), "allow_simulated": True}
    return verify_passport(token, **(settings | kwargs))


def refused(vendor: Vendor, token: bytes, **kwargs: Any) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        verify(vendor, token, **kwargs)
    return caught.value


def test_an_issued_passport_verifies_and_claims_no_hardware(maker: Maker, token: bytes) -> None:
    examination = verify(maker.vendor, token)
    assert examination.passport_id == "pass-" + "70" * 16
    assert examination.simulated
    assert not examination.hardware_attested
    assert examination.answer("genuine_hardware").status == "failed"
    assert examination.answer("chain_and_tcb").status == "passed"
    assert examination.answer("binding_and_freshness").status == "passed"
    assert examination.answer("code_measured").status == "not_checked"
    assert examination.answer("policy_enforced").status == "not_checked"
    assert examination.answer("simulated").status == "true"


def test_what_is_expected_is_compared(maker: Maker, token: bytes) -> None:
    measurement = Passport.parse(token).claims.hardware.measurement
    examination = verify(maker.vendor, token, measurement=measurement, bundle_digest=DIGEST)
    assert examination.answer("code_measured").status == "passed"
    assert examination.answer("policy_enforced").status == "passed"
    error = refused(maker.vendor, token, measurement=bytes(48))
    assert error.code == "passport.measurement"
    assert refused(maker.vendor, token, bundle_digest=bytes(32)).code == "passport.bundle_digest"


def test_simulated_passports_are_refused_unless_they_are_asked_for(
    maker: Maker, token: bytes
) -> None:
    error = refused(maker.vendor, token, allow_simulated=False)
    assert isinstance(error, UncheckableError)
    error = refused(maker.vendor, token, anchors=TrustAnchors.builtin())
    assert error.code == "passport.simulated_root"


def test_another_simulated_root_is_not_this_one(token: bytes, maker: Maker) -> None:
    other = TrustAnchors(amd=TrustAnchors.builtin().amd, simulated=frozenset({bytes(32)}))
    assert refused(maker.vendor, token, anchors=other).code == "snp.chain.ark_pinned"


def test_simulated_evidence_never_verifies_as_real(maker: Maker, token: bytes) -> None:
    claims = {265: PROFILE}
    real = forged(token, maker.key, claims)
    # The label in the measurement results gives it away first; without that the root does.
    assert refused(maker.vendor, real).code == "passport.claims"
    claims[274] = [["sev-snp", [["check", 1]]]]  # type: ignore[assignment]
    real = forged(token, maker.key, claims)
    for allowed in (False, True):
        examination = examine_passport(
            real, now=NOW, anchors=anchors(maker.vendor), allow_simulated=allowed
        )
        assert examination.error is not None
        assert examination.error.code.startswith("snp.chain.")
        assert not examination.hardware_attested


def test_a_simulated_root_pinned_as_amds_still_bears_the_wrong_names(
    maker: Maker, token: bytes
) -> None:
    assert isinstance(maker.vendor, SimulatedVendor)
    mistake = TrustAnchors(amd={"Genoa": frozenset({maker.vendor.root_sha256()})})
    real = forged(token, maker.key, {265: PROFILE, 274: [["sev-snp", [["check", 1]]]]})
    examination = examine_passport(real, now=NOW, anchors=mistake)
    assert examination.error is not None
    assert examination.error.code == "snp.chain.product_line"
    assert not examination.hardware_attested


@pytest.mark.parametrize(
    ("shift", "code"),
    [
        (timedelta(seconds=899), None),
        (timedelta(seconds=900), "passport.expired"),
        (timedelta(days=400), "passport.expired"),
        (timedelta(seconds=-60), None),
        (timedelta(seconds=-61), "passport.not_yet"),
    ],
)
def test_a_passport_is_valid_from_its_issue_to_its_end(
    maker: Maker, token: bytes, shift: timedelta, code: str | None
) -> None:
    if code is None:
        verify(maker.vendor, token, now=NOW + shift)
    else:
        assert refused(maker.vendor, token, now=NOW + shift).code == code


def test_a_lifetime_that_is_never_issued_is_refused(maker: Maker) -> None:
    token = Maker(maker.vendor, lifetime=100_000).token()
    assert refused(maker.vendor, token).code == "passport.lifetime"
    token = maker.token(expires_at=maker.issued_at)
    assert refused(maker.vendor, token, now=NOW - timedelta(seconds=1)).code == "passport.lifetime"


def test_a_challenge_is_answered_with_its_nonce_for_its_audience(maker: Maker) -> None:
    challenged = Maker(maker.vendor, nonce=b"n" * 16, audience="bank")
    token = challenged.token()
    verify(maker.vendor, token, nonce=b"n" * 16, audience="bank")
    refusals = {
        "passport.asked_nonce": {"nonce": b"x" * 16, "audience": "bank"},
        "passport.audience": {"nonce": b"n" * 16, "audience": "insurer"},
    }
    for code, asked in refusals.items():
        assert refused(maker.vendor, token, **asked).code == code
    assert refused(maker.vendor, token, nonce=b"n" * 16).code == "passport.audience"


def test_a_nonce_that_the_quote_is_not_over_cannot_be_stated(maker: Maker) -> None:
    challenged = Maker(maker.vendor, nonce=b"n" * 16)
    other = forged(challenged.token(), challenged.key, {10: b"x" * 16})
    assert refused(maker.vendor, other).code == "passport.nonce"
    assert refused(maker.vendor, other, nonce=b"x" * 16).code == "passport.nonce"


def test_a_passport_without_a_nonce_answers_no_challenge(maker: Maker, token: bytes) -> None:
    assert refused(maker.vendor, token, nonce=b"n" * 16).code == "passport.asked_nonce"


def test_a_quote_for_another_purpose_is_no_passport(maker: Maker) -> None:
    for purpose in ("channel", "challenge"):
        token = Maker(maker.vendor, purpose=purpose).token()
        assert refused(maker.vendor, token).code == "passport.purpose"


def test_a_key_that_the_quote_does_not_bind_signs_no_passport(maker: Maker, token: bytes) -> None:
    thief = ec.generate_private_key(ec.SECP256R1())
    stolen = forged(token, thief, {8: {1: cose.cose_key(thief.public_key())}})
    assert refused(maker.vendor, stolen).code == "passport.key"
    # Keeping the honest key in cnf, the thief's signature or kid gives it away.
    assert refused(maker.vendor, forged(token, thief, {})).code == "passport.kid"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({268: b"x" * 32}, "passport.boot_seed"),
        ({-70101: ["test", "1", b"x" * 32]}, "passport.bundle"),
        ({-70102: [b"x" * 32, 7]}, "passport.journal"),
        ({10: b"n" * 16, 275: 5}, "passport.purpose"),
        ({256: b"\x01" + b"x" * 32}, "passport.hardware_claims"),
        ({259: b"Turin"}, "passport.hardware_claims"),
        ({273: [[42, b"x" * 48]]}, "passport.hardware_claims"),
        ({263: 0}, "passport.debug"),
    ],
)
def test_even_the_right_key_cannot_state_what_the_quote_does_not_prove(
    maker: Maker, token: bytes, claims: dict[int, Any], code: str
) -> None:
    # Submodules repeat some claims; a careful forger keeps them in step.
    submods = payload_of(token)[266]
    cpu = submods["cpu"] | {k: v for k, v in claims.items() if k in (256, 259)}
    policy = {-70101: claims.get(-70101, submods["policy"][-70101])}
    whole = claims | {266: submods | {"cpu": cpu, "policy": policy}}
    assert refused(maker.vendor, forged(token, maker.key, whole)).code == code


def test_claims_that_contradict_one_another_are_malformed(maker: Maker, token: bytes) -> None:
    for claims in ({259: b"Turin"}, {270: "other"}, {-70101: ["other", "1", DIGEST]}, {275: 5}):
        with pytest.raises(MalformedError):
            Passport.parse(forged(token, maker.key, claims))


@pytest.mark.parametrize(
    "label", [1, 2, 4, 6, 7, 8, 256, 259, 263, 265, 266, 268, 273, 299, -70101]
)
def test_a_missing_claim_is_malformed(maker: Maker, token: bytes, label: int) -> None:
    with pytest.raises(MalformedError):
        Passport.parse(forged(token, maker.key, {}, label))


@pytest.mark.parametrize(
    "claims",
    [
        {5: 1},
        {-80000: "x"},
        {4: 1.5},
        {4: "soon"},
        {7: b"short"},
        {10: b"short"},
        {265: "tag:example.org,2026:other"},
        {299: ["text/plain", b"", 4]},
        {2: "x" * 1000},
        {-70105: {"deny": -1}},
        {-70104: ["x"] * 1000},
        {274: []},
        {6: 253_402_300_800},  # the year 10,000: no calendar here goes so far
        {4: 2**40 - 1},
        {6: -1},
    ],
)
def test_unknown_or_ill_typed_claims_are_malformed(
    maker: Maker, token: bytes, claims: dict[int, Any]
) -> None:
    try:
        changed = forged(token, maker.key, claims)
    except TypeError:  # a float, which our own encoder refuses
        return
    with pytest.raises(MalformedError):
        Passport.parse(changed)


def test_a_swapped_claims_buffer_is_refused(maker: Maker, token: bytes) -> None:
    cmw = payload_of(token)[299]
    parts = cbor.decode(cmw[1])
    assert isinstance(parts, dict)
    other = Maker(maker.vendor).buffer()
    swapped = [cmw[0], cbor.encode(parts | {3: other}), cmw[2]]
    error = refused(maker.vendor, forged(token, maker.key, {299: swapped}))
    assert error.code == "snp.report_data.matches"


def test_evidence_of_one_vendor_is_not_taken_for_the_others(maker: Maker, token: bytes) -> None:
    cmw = payload_of(token)[299]
    tdx = [cmw[0].replace("sev-snp", "tdx"), cmw[1], cmw[2]]
    error = refused(maker.vendor, forged(token, maker.key, {299: tdx}))
    assert isinstance(error, MalformedError)
    assert error.code == "tdx.endorsements.format"


# -- one form only -------------------------------------------------------------------------------


def test_the_second_form_of_a_signature_is_refused(maker: Maker, token: bytes) -> None:
    order = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)

    def high(parts: list[Any]) -> None:
        r, s = parts[3][:32], int.from_bytes(parts[3][32:], "big")
        parts[3] = r + (order - s).to_bytes(32, "big")

    assert refused(maker.vendor, reencoded(token, high)).code == "passport.signature"


def test_the_protected_header_has_one_form(token: bytes) -> None:
    payload = cose.Sign1.parse(token).payload
    assert payload is not None
    key = ec.generate_private_key(ec.SECP256R1())
    larger = ec.generate_private_key(ec.SECP384R1())
    kid = cose.thumbprint(key.public_key())
    good = {cose.ALG: cose.ES256, cose.KID: kid, cose.TYP: MEDIA_TYPE}
    Passport.parse(cose.sign1(payload, key, protected=good))
    for signer, protected in (
        (key, good | {cose.TYP: "application/cwt"}),
        (key, good | {99: 1}),
        (key, {cose.ALG: cose.ES256, cose.KID: kid}),
        (key, {cose.ALG: cose.ES256, cose.TYP: MEDIA_TYPE}),
        (larger, good | {cose.ALG: cose.ES384}),
    ):
        with pytest.raises(MalformedError) as caught:
            Passport.parse(cose.sign1(payload, signer, protected=protected))
        assert caught.value.code == "passport.header"


def test_nothing_may_stand_in_the_unprotected_header(token: bytes) -> None:
    def add(parts: list[Any]) -> None:
        parts[1] = {99: b"x"}

    with pytest.raises(MalformedError):
        Passport.parse(reencoded(token, add))


def test_other_encodings_of_the_same_passport_are_refused(maker: Maker, token: bytes) -> None:
    payload = cbor.encode(payload_of(token))
    others = {
        "untagged": signed(payload, maker.key, tagged=False),
        "trailing": token + b"\x00",
        "long head": token[:1] + b"\x98\x04" + token[2:],
        "tag 61": b"\xd8\x3d" + token,
        "padded payload": signed(payload + b"\x00", maker.key),
    }
    for other in others.values():
        with pytest.raises(MalformedError):
            Passport.parse(other)


@pytest.mark.parametrize(
    "claims",
    [
        {275: True},
        {274: [["simulated", [["check", True]]]]},
        {-70105: {"deny": True}},
        {-70102: [b"h" * 32, True]},
    ],
)
def test_true_is_not_taken_for_one(maker: Maker, token: bytes, claims: dict[int, Any]) -> None:
    with pytest.raises(MalformedError):
        Passport.parse(forged(token, maker.key, claims))


def test_a_passport_of_a_hundred_thousand_items_is_not_read(maker: Maker, token: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        Passport.parse(forged(token, maker.key, {-70104: [[]] * 100_000}))
    assert caught.value.code == "cbor.items"


def test_a_claims_buffer_has_one_form(maker: Maker) -> None:
    buffer = maker.buffer()
    assert ClaimsBuffer.decode(buffer).encode() == buffer
    fields = cbor.decode(buffer)
    assert isinstance(fields, list)
    for other in (
        [*fields, b""],
        fields[:-1],
        ["lucid.checkpoint", *fields[1:]],
        [fields[0], True, *fields[2:]],
        [fields[0], 2, *fields[2:]],
        [*fields[:2], "anything", *fields[3:]],
        [*fields[:3], fields[3][:-1], *fields[4:]],
        [*fields[:4], b"short", *fields[5:]],
    ):
        with pytest.raises(MalformedError):
            ClaimsBuffer.decode(cbor.encode(other))


def test_hardware_is_attested_where_three_answers_hold_and_nothing_is_simulated(
    maker: Maker, token: bytes
) -> None:
    found = verify(maker.vendor, token)
    claims = replace(found.passport.claims, simulated=False)
    passed = tuple(Answer(name=name, status=AnswerStatus.PASSED) for name in QUESTIONS)
    real = replace(found, passport=replace(found.passport, claims=claims), answers=passed)
    assert real.hardware_attested
    assert not replace(real, passport=found.passport).hardware_attested
    assert not replace(real, error=VerificationError("a", "b")).hardware_attested
    for number in range(3):
        for status in (AnswerStatus.FAILED, AnswerStatus.NOT_CHECKED):
            answers = list(passed)
            answers[number] = replace(answers[number], status=status)
            assert not replace(real, answers=tuple(answers)).hardware_attested


def test_a_time_without_a_zone_is_a_mistake_of_the_caller(maker: Maker, token: bytes) -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(maker.vendor, token, now=NOW.replace(tzinfo=None))


def flips(token: bytes) -> list[tuple[int, int]]:
    if os.environ.get("LUCID_EXHAUSTIVE"):
        return [(place, bit) for place in range(len(token)) for bit in range(8)]
    chance = random.Random(2026)
    return [(place, chance.randrange(8)) for place in range(len(token))]


def test_one_flipped_bit_anywhere_never_verifies(maker: Maker, token: bytes) -> None:
    known = anchors(maker.vendor)
    for place, bit in flips(token):
        bent = bytearray(token)
        bent[place] ^= 1 << bit
        try:
            examination = examine_passport(
                bytes(bent), now=NOW, anchors=known, allow_simulated=True
            )
        except MalformedError:
            continue
        assert examination.error is not None, (place, bit)
        assert not examination.hardware_attested, (place, bit)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_of_a_stranger_are_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Passport.parse(data)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_bent_passports_raise_our_errors_only(
    maker: Maker, token: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(token) - 1))
    cut = data.draw(st.integers(0, 40))
    bent = token[:place] + data.draw(st.binary(max_size=40)) + token[place + cut :]
    if bent == token:
        return
    try:
        examination = examine_passport(
            bent, now=NOW, anchors=anchors(maker.vendor), allow_simulated=True
        )
    except MalformedError:
        return
    assert isinstance(examination.error, (VerificationError, UncheckableError, MalformedError))
