"""Revocation: who signed the list, how old it is, and that it is the intermediate that counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.anchors import TrustAnchors
from attestation.checks import CheckStatus
from attestation.crl import MAX_CRL_SIZE
from attestation.errors import (
    AttestationError,
    MalformedError,
    UncheckableError,
    VerificationError,
)
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.appraise import appraise_report
from attestation.snp.certs import Chain
from attestation.snp.chain import check_intermediate
from attestation.snp.crl import Crl, check_crls, check_list
from attestation.snp.names import SIMULATED
from attestation.snp.policy import SnpPolicy
from attestation.snp.product import EndorsementKey, ProductLine
from attestation.snp.verify import VerifiedReport, verify_report
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.synthetic import NOW, Evidence, make

AMD = TrustAnchors.builtin().amd
REVOKED_ASK, NEW_GENOA_CRL, OLD_GENOA_CRL = (
    "54467b96b8baf21d",
    "a3064b0a61d6beb1",
    "db04d2f0a9b2299a",
)
IN_2025 = datetime(2025, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def crl(snp: SnpVectors, name: str) -> Crl:
    return Crl.parse((snp.folder / "crls" / f"{name}.crl").read_bytes())


def genoa(snp: SnpVectors, **parts: bytes) -> Chain:
    case = next(c for c in snp.cases if c["product_ext"].startswith("Genoa"))
    return Chain.parse(**(snp.certificates(case) | parts))


def make_crl(
    key: rsa.RSAPrivateKey,
    *serials: int,
    line: ProductLine = ProductLine.GENOA,
    issued: datetime = NOW,
    salt: int = 48,
    change: Callable[
        [x509.CertificateRevocationListBuilder], x509.CertificateRevocationListBuilder
    ] = lambda builder: builder,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(SIMULATED.name(SIMULATED.ark(line)))
        .last_update(issued)
        .next_update(issued + 30 * DAY)
    )
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued).build()
        )
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=salt)
    signed = change(builder).sign(key, hashes.SHA384(), rsa_padding=pss)
    return signed.public_bytes(Encoding.DER)


def failed(error: AttestationError) -> list[str]:
    return [check.name for check in error.checks if check.status is CheckStatus.FAILED]


def verify(evidence: Evidence, *lists: bytes, now: datetime = NOW) -> None:
    verify_report(
        evidence.report,
        evidence.chain,
        roots=evidence.roots,
        now=now,
        expected_report_data=None,
        crls=[Crl.parse(data) for data in lists],
    )


def verify_carried(evidence: Evidence, carried: bytes, *given: bytes) -> VerifiedReport:
    return verify_report(
        evidence.report,
        evidence.chain,
        roots=evidence.roots,
        now=NOW,
        expected_report_data=None,
        crls=[Crl.parse(data) for data in given],
        carried_crl=carried,
    )


def refused_for_want_of_a_list(verified: VerifiedReport) -> str:
    with pytest.raises(UncheckableError) as caught:
        appraise_report(verified, SnpPolicy(require_crl=True, sb_3019=False))
    assert caught.value.code == "snp.crl.required"
    return str(caught.value)


@pytest.fixture
def evidence(simulated_vendor: SimulatedVendor) -> Evidence:
    return make(simulated_vendor)


# --- the really revoked intermediate


def test_the_revoked_intermediate_of_genoa_is_refused_by_its_list_alone(snp: SnpVectors) -> None:
    chain = genoa(snp, ica=snp.cert(REVOKED_ASK))
    # All else about it is right: the pinned root signed it, its names and dates are AMD's.
    check_intermediate(
        chain.ica,
        chain.ark,
        line=ProductLine.GENOA,
        key=EndorsementKey.VCEK,
        roots=AMD,
        now=IN_2025,
    )
    with pytest.raises(VerificationError) as caught:
        check_crls([crl(snp, NEW_GENOA_CRL)], chain, IN_2025)
    assert caught.value.code == "snp.crl.not_revoked"
    assert "0x20001" in str(caught.value)


def test_a_report_below_the_revoked_intermediate_says_so(snp: SnpVectors) -> None:
    case = next(c for c in snp.cases if c["product_ext"].startswith("Genoa"))
    with pytest.raises(VerificationError) as caught:
        verify_report(
            snp.report(case["report"]),
            genoa(snp, ica=snp.cert(REVOKED_ASK)),
            roots=AMD,
            now=datetime.fromisoformat(case["valid_from"]) + DAY,
            expected_report_data=None,
            crls=[crl(snp, NEW_GENOA_CRL), crl(snp, OLD_GENOA_CRL)],
        )
    # No endorsement key under it is known to us: the second row is that this one is not.
    assert failed(caught.value) == ["snp.chain.signatures", "snp.crl.not_revoked"]


def test_the_present_intermediates_are_not_revoked(snp: SnpVectors) -> None:
    detail, best = check_crls([crl(snp, NEW_GENOA_CRL)], genoa(snp), IN_2025)
    assert "1 revoked, this one not" in detail
    assert best.revokes(0x20001)
    assert len(best) == 1


def test_a_revocation_is_for_ever_though_its_list_is_old(snp: SnpVectors) -> None:
    chain = genoa(snp, ica=snp.cert(REVOKED_ASK))
    with pytest.raises(VerificationError):
        check_crls([crl(snp, OLD_GENOA_CRL)], chain, datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "now", [datetime(2024, 10, 22, tzinfo=UTC), datetime(2025, 11, 4, tzinfo=UTC)]
)
def test_a_list_that_is_not_fresh_checks_nothing(snp: SnpVectors, now: datetime) -> None:
    with pytest.raises(UncheckableError, match="good at"):
        check_crls([crl(snp, NEW_GENOA_CRL)], genoa(snp), now)


def test_a_list_of_another_root_checks_nothing(snp: SnpVectors) -> None:
    with pytest.raises(UncheckableError, match="none of the 1"):
        check_crls([crl(snp, "53a61dc059e525ef")], genoa(snp), IN_2025)


def test_no_byte_of_a_list_can_be_changed(snp: SnpVectors) -> None:
    data = (snp.folder / "crls" / f"{NEW_GENOA_CRL}.crl").read_bytes()
    der = x509.load_pem_x509_crl(data).public_bytes(Encoding.DER) if data[:1] == b"-" else data
    chain = genoa(snp)
    check_crls([Crl.parse(der)], chain, IN_2025)
    for offset in range(len(der)):
        bent = bytearray(der)
        bent[offset] ^= 1 << offset % 8
        with pytest.raises(AttestationError):
            check_crls([Crl.parse(bytes(bent))], chain, IN_2025)


# --- lists of a simulated root


def test_a_list_that_names_another_certificate_accepts(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    verify(evidence, make_crl(simulated_vendor.root_key, 1, 2, 3))


def test_a_list_that_names_the_intermediate_is_all_that_refuses(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    serial = evidence.chain.ica.serial_number
    with pytest.raises(VerificationError) as caught:
        verify(evidence, make_crl(simulated_vendor.root_key, serial))
    assert failed(caught.value) == ["snp.crl.not_revoked"]


def test_a_list_by_the_intermediate_is_refused(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    with pytest.raises(VerificationError, match="not signed by the root"):
        verify(evidence, make_crl(simulated_vendor.intermediate_key))


def test_one_bad_list_among_good_ones_is_refused(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    good = make_crl(simulated_vendor.root_key)
    with pytest.raises(VerificationError, match="not signed by the root"):
        verify(evidence, good, make_crl(simulated_vendor.intermediate_key))


def test_one_fresh_list_is_enough(simulated_vendor: SimulatedVendor, evidence: Evidence) -> None:
    old = make_crl(simulated_vendor.root_key, issued=NOW - 60 * DAY)
    verify(evidence, old, make_crl(simulated_vendor.root_key))
    with pytest.raises(UncheckableError):
        verify(evidence, old)


def test_a_list_with_another_salt_is_not_of_the_vendors_kind(
    simulated_vendor: SimulatedVendor,
) -> None:
    with pytest.raises(MalformedError, match="PSS"):
        Crl.parse(make_crl(simulated_vendor.root_key, salt=32))


@pytest.mark.parametrize("critical", [True, False])
def test_a_delta_list_is_refused(simulated_vendor: SimulatedVendor, critical: bool) -> None:
    delta = x509.DeltaCRLIndicator(1)
    with pytest.raises(MalformedError, match="not understood"):
        Crl.parse(
            make_crl(
                simulated_vendor.root_key,
                change=lambda builder: builder.add_extension(delta, critical=critical),
            )
        )


def test_what_is_critical_is_not_understood(simulated_vendor: SimulatedVendor) -> None:
    number = x509.CRLNumber(7)
    with pytest.raises(MalformedError, match="not understood"):
        Crl.parse(
            make_crl(
                simulated_vendor.root_key, change=lambda b: b.add_extension(number, critical=True)
            )
        )


def test_a_list_by_the_roots_key_in_another_name_is_not_the_roots(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    other = make_crl(simulated_vendor.root_key, line=ProductLine.TURIN)
    with pytest.raises(VerificationError, match="not signed by the root"):
        check_list(Crl.parse(other), evidence.chain.ark)
    with pytest.raises(UncheckableError, match="none of the 1"):
        verify(evidence, other)


def test_a_list_number_is_understood(simulated_vendor: SimulatedVendor, evidence: Evidence) -> None:
    number = x509.CRLNumber(7)
    data = make_crl(
        simulated_vendor.root_key, change=lambda b: b.add_extension(number, critical=False)
    )
    verify(evidence, data)


# --- a list that came with the report


def test_a_fresh_list_that_came_with_the_report_meets_require_crl(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    verified = verify_carried(evidence, simulated_vendor.crl(NOW))
    assert verified.crl is not None
    checks = appraise_report(verified, SnpPolicy(require_crl=True, sb_3019=False))
    held = {check.name for check in checks if check.status is CheckStatus.PASSED}
    assert {"snp.crl.not_revoked", "snp.crl.required"} <= held


@pytest.mark.parametrize("kind", ["none", "stale", "future", "other product", "nonsense", "huge"])
def test_one_that_cannot_be_used_checks_nothing_and_says_why(
    simulated_vendor: SimulatedVendor, evidence: Evidence, kind: str
) -> None:
    key = simulated_vendor.root_key
    carried, said = {
        "none": (b"", "no revocation list came"),
        "stale": (simulated_vendor.crl(NOW - 60 * DAY), "no longer good"),
        "future": (simulated_vendor.crl(NOW + 60 * DAY), "not yet good"),
        "other product": (make_crl(key, line=ProductLine.MILAN), "by the root of this chain"),
        "nonsense": (b"nonsense", "not a certificate revocation list"),
        "huge": (bytes(MAX_CRL_SIZE + 1), "bytes"),
    }[kind]
    verified = verify_carried(evidence, carried)
    assert verified.crl is None
    (check,) = (check for check in verified.checks if check.name == "snp.crl.not_revoked")
    assert check.status is CheckStatus.SKIPPED
    assert said in check.detail
    assert said in refused_for_want_of_a_list(verified)


def test_one_that_names_the_intermediate_refuses_unasked_and_though_it_is_old(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    serial = evidence.chain.ica.serial_number
    for day in (NOW, NOW - 60 * DAY):
        with pytest.raises(VerificationError, match="revoked the intermediate") as caught:
            verify_carried(evidence, simulated_vendor.crl(day, [serial]))
        assert failed(caught.value) == ["snp.crl.not_revoked"]


def test_one_that_bears_the_roots_name_and_is_not_signed_by_it_refuses(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    with pytest.raises(VerificationError, match="not signed by the root"):
        verify_carried(evidence, make_crl(simulated_vendor.intermediate_key))


def test_a_list_that_was_given_is_a_demand_whatever_came_with_the_report(
    simulated_vendor: SimulatedVendor, evidence: Evidence
) -> None:
    fresh, stale = simulated_vendor.crl(NOW), simulated_vendor.crl(NOW - 60 * DAY)
    revoking = simulated_vendor.crl(NOW - 60 * DAY, [evidence.chain.ica.serial_number])
    assert verify_carried(evidence, b"nonsense", fresh).crl is not None
    assert verify_carried(evidence, stale, fresh).crl is not None
    with pytest.raises(UncheckableError):
        verify_carried(evidence, fresh, stale)
    with pytest.raises(UncheckableError):
        verify_carried(evidence, fresh, make_crl(simulated_vendor.root_key, line=ProductLine.MILAN))
    with pytest.raises(UncheckableError):
        verify_carried(evidence, b"", stale)
    with pytest.raises(UncheckableError):
        verify_carried(evidence, b"nonsense", stale)
    with pytest.raises(VerificationError):
        verify_carried(evidence, revoking, fresh)


@pytest.mark.parametrize(("name", "number"), [(NEW_GENOA_CRL, 4), (OLD_GENOA_CRL, 2)])
def test_amds_lists_bear_numbers(snp: SnpVectors, name: str, number: int) -> None:
    assert crl(snp, name).number == number


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(MalformedError, match="bytes"):
        Crl.parse(bytes(MAX_CRL_SIZE + 1))


@given(st.binary(max_size=400))
def test_any_bytes_end_in_our_own_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Crl.parse(data)


@given(st.data())
def test_a_bent_list_ends_in_our_own_error(vectors: Path, data: st.DataObject) -> None:
    real = bytearray((vectors / "snp" / "crls" / f"{NEW_GENOA_CRL}.crl").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        real[data.draw(st.integers(0, len(real) - 1))] = data.draw(st.integers(0, 255))
    with suppress(AttestationError):
        Crl.parse(bytes(real))
