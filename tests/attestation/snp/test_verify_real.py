"""Reports of real hardware: accepted inside their window, refused outside and when bent."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.anchors import TrustAnchors
from attestation.checks import CheckStatus
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.simulated.report import ReportFields, sign
from attestation.snp.abi import Report
from attestation.snp.certs import Chain
from attestation.snp.product import EndorsementKey, ProductLine
from attestation.snp.verify import VerifiedReport, verify_report
from tests.attestation.snp.conftest import SnpVectors

AMD = TrustAnchors.builtin().amd
SECOND = timedelta(seconds=1)
MILAN_V3, TURIN_V5, MILAN_VLEK = "19ade1287746f6fb", "56b3ee54977c2602", "decdab949afc5906"


def window(case: dict[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(case["valid_from"]), datetime.fromisoformat(case["valid_to"])


def middle(case: dict[str, Any]) -> datetime:
    start, end = window(case)
    return start + (end - start) / 2


def verify(report: bytes, chain: Chain, now: datetime, **options: Any) -> VerifiedReport:
    options = {"roots": AMD, "expected_report_data": None} | options
    return verify_report(report, chain, now=now, **options)


def code_of(report: bytes, chain: Chain, now: datetime, **options: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(report, chain, now, **options)
    return caught.value.code


def test_every_case_is_accepted_inside_its_window_and_refused_outside(snp: SnpVectors) -> None:
    kinds: Counter[tuple[str, str]] = Counter()
    for case in snp.cases:
        report = snp.report(case["report"])
        chain = Chain.parse(**snp.certificates(case))
        start, end = window(case)
        for now in (start, middle(case), end):
            verified = verify(report, chain, now, expected_report_data=report[0x50:0x90])
            assert (verified.not_before, verified.not_after) == (start, end)
        assert verified.product_line == case["product_ext"].split("-")[0]
        assert f"SEV-{verified.endorsement_key.upper()}" == case["kind"]
        assert verified.csp_id == case["csp_id"]
        assert verified.report.raw == report
        kinds[verified.product_line, verified.endorsement_key] += 1
        assert code_of(report, chain, start - SECOND) == "snp.chain.validity"
        assert code_of(report, chain, end + SECOND) == "snp.chain.validity"
    assert set(kinds) == {
        (ProductLine.MILAN, EndorsementKey.VCEK),
        (ProductLine.MILAN, EndorsementKey.VLEK),
        (ProductLine.GENOA, EndorsementKey.VCEK),
        (ProductLine.TURIN, EndorsementKey.VCEK),
    }


def test_an_endorsement_key_of_another_chip_or_tcb_never_verifies_a_report(
    snp: SnpVectors,
) -> None:
    refused: Counter[str] = Counter()
    for case in snp.cases:
        report, now = snp.report(case["report"]), datetime(2026, 9, 1, tzinfo=UTC)
        for other in snp.cases:
            chain = Chain.parse(**snp.certificates(other))
            same_key = chain.ek_key == Chain.parse(**snp.certificates(case)).ek_key
            try:
                verify(report, chain, now)
            except AttestationError as error:
                refused[error.code] += 1
            else:
                # Two certificates for one chip and TCB carry the same key.
                assert same_key
    for code in (
        "snp.chain.product_line",
        "snp.chain.names",
        "snp.chain.validity",
        "snp.chip.matches_certificate",
    ):
        assert refused[code], code


def test_an_intermediate_of_another_kind_or_line_is_refused(snp: SnpVectors) -> None:
    intermediates = [
        known["h"]
        for known in snp.certs
        if known["kind"] == "cert" and known["issuer"].startswith("CN=ARK") and not known["ek"]
    ]
    assert len(intermediates) >= 10
    refused = 0
    for name in (MILAN_V3, TURIN_V5, MILAN_VLEK, "6d1ceffae6ad5cae"):
        case = snp.case(name)
        for ica in intermediates:
            if ica in case["ica"]:
                continue
            chain = Chain.parse(**(snp.certificates(case) | {"ica": snp.cert(ica)}))
            assert code_of(snp.report(name), chain, middle(case)) in {
                "snp.chain.names",
                "snp.chain.signatures",
            }
            refused += 1
    assert refused > 30


def test_no_bit_of_a_report_can_be_changed(snp: SnpVectors) -> None:
    for name in (MILAN_V3, TURIN_V5, MILAN_VLEK):
        case, report = snp.case(name), snp.report(name)
        chain, now = Chain.parse(**snp.certificates(case)), middle(case)
        for offset in range(len(report)):
            bent = bytearray(report)
            bent[offset] ^= 1 << offset % 8
            with pytest.raises(AttestationError):
                verify(bytes(bent), chain, now)


def test_the_signature_check_is_what_refuses_a_bent_field(snp: SnpVectors) -> None:
    case, report = snp.case(MILAN_V3), snp.report(MILAN_V3)
    chain, now = Chain.parse(**snp.certificates(case)), middle(case)
    free = {
        "guest svn": 0x04,
        "family id": 0x10,
        "image id": 0x20,
        "vmpl": 0x30,
        "current tcb": 0x38,
        "platform info": 0x40,
        "report data": 0x50,
        "measurement": 0x90,
        "host data": 0xC0,
        "id key digest": 0xE0,
        "report id": 0x140,
        "report id of the agent": 0x160,
        "stepping": 0x18A,
        "committed tcb": 0x1E0,
        "current build": 0x1E8,
        "committed build": 0x1EC,
        "launch tcb": 0x1F0,
        "r": 0x2A0,
        "s": 0x2E8,
    }
    for field, offset in free.items():
        bent = bytearray(report)
        bent[offset] ^= 1
        assert code_of(bytes(bent), chain, now) == "snp.report.signature", field


@pytest.mark.parametrize("part", ["ark", "ica", "ek"])
def test_no_bit_of_a_certificate_can_be_changed(snp: SnpVectors, part: str) -> None:
    case = snp.case(MILAN_V3)
    report, now, parts = snp.report(MILAN_V3), middle(case), snp.certificates(case)
    for offset in range(0, len(parts[part]), 5):
        bent = bytearray(parts[part])
        bent[offset] ^= 1 << offset % 8
        with pytest.raises(AttestationError):
            verify(report, Chain.parse(**(parts | {part: bytes(bent)})), now)


def test_a_root_that_is_not_the_pinned_one_is_refused(snp: SnpVectors) -> None:
    case, report = snp.case(MILAN_V3), snp.report(MILAN_V3)
    chain, now = Chain.parse(**snp.certificates(case)), middle(case)
    swapped = {"Milan": AMD["Genoa"], "Genoa": AMD["Milan"]}
    assert code_of(report, chain, now, roots=swapped) == "snp.chain.ark_pinned"
    one_bit = frozenset(bytes((pin[0] ^ 1,)) + pin[1:] for pin in AMD["Milan"])
    assert code_of(report, chain, now, roots={"Milan": one_bit}) == "snp.chain.ark_pinned"


@pytest.mark.parametrize("roots", [{}, {"Milan": frozenset()}, MappingProxyType({"Genoa": {b""}})])
def test_without_a_pin_for_the_product_line_nothing_is_proved(
    snp: SnpVectors, roots: dict[str, frozenset[bytes]]
) -> None:
    case = snp.case(MILAN_V3)
    chain = Chain.parse(**snp.certificates(case))
    with pytest.raises(UncheckableError) as caught:
        verify(snp.report(MILAN_V3), chain, middle(case), roots=roots)
    assert caught.value.code == "snp.chain.ark_pinned"


def test_real_hardware_is_not_accepted_as_simulated(snp: SnpVectors) -> None:
    case = snp.case(MILAN_V3)
    chain = Chain.parse(**snp.certificates(case))
    code = code_of(snp.report(MILAN_V3), chain, middle(case), roots=AMD["Milan"])
    assert code == "snp.chain.product_line"


def test_a_certificate_that_the_vendor_did_not_sign_is_refused_for_its_signature(
    snp: SnpVectors,
) -> None:
    parts = snp.certificates(snp.case(MILAN_V3)) | {"ek": snp.cert("cee96955153de19a")}
    chain = Chain.parse(**parts)
    assert chain.extensions.hwid is not None
    # A report that fits the forged certificate in everything: only the signature is left.
    fields = ReportFields(
        report_data=bytes(64),
        chip_id=chain.extensions.hwid,
        cpuid=(0x19, 1, 1),
        tcb=chain.extensions.tcb.encode(ProductLine.MILAN),
    )
    report = sign(fields.encode(), ec.generate_private_key(ec.SECP384R1()))
    assert code_of(report, chain, datetime(2025, 1, 1, tzinfo=UTC)) == "snp.chain.signatures"


def test_an_altered_tcb_does_not_fit_the_certificate(snp: SnpVectors) -> None:
    for name, offset in ((MILAN_V3, 0x187), (TURIN_V5, 0x180), (MILAN_VLEK, 0x186)):
        case, report = snp.case(name), bytearray(snp.report(name))
        report[offset] += 1
        chain = Chain.parse(**snp.certificates(case))
        assert code_of(bytes(report), chain, middle(case)) == "snp.tcb.matches_certificate"


def test_a_report_of_another_product_line_does_not_fit_the_chain(snp: SnpVectors) -> None:
    case, report = snp.case(MILAN_V3), bytearray(snp.report(MILAN_V3))
    report[0x189] = 0x11  # a Genoa chip's model
    chain = Chain.parse(**snp.certificates(case))
    assert code_of(bytes(report), chain, middle(case)) == "snp.chain.product_line"
    report[0x189] = 0x50  # no chip's
    with pytest.raises(VerificationError) as caught:
        verify(bytes(report), chain, middle(case))
    # Its signature is wrong too; that no line is known for it is one of the rows.
    assert caught.value.code == "snp.report.signature"
    unsettled = [c.name for c in caught.value.checks if c.status is CheckStatus.SKIPPED]
    assert "snp.chain.product_line" in unsettled
    assert "snp.tcb.matches_certificate" in unsettled


def test_chip_and_provider_keys_are_not_confused(snp: SnpVectors) -> None:
    vcek, vlek = snp.case(MILAN_V3), snp.case(MILAN_VLEK)
    now = datetime(2025, 11, 1, tzinfo=UTC)
    vcek_chain = Chain.parse(**snp.certificates(snp.case("40a2778d02fa56e1")))
    vlek_chain = Chain.parse(**snp.certificates(vlek))
    assert code_of(snp.report(MILAN_VLEK), vcek_chain, now) == "snp.chain.names"
    assert code_of(snp.report(vcek["report"]), vlek_chain, now) == "snp.chain.names"
    mixed = Chain.parse(**(snp.certificates(vlek) | {"ica": snp.cert(vcek["ica"][0])}))
    assert code_of(snp.report(MILAN_VLEK), mixed, now) == "snp.chain.names"


def test_other_report_data_than_expected_are_refused(snp: SnpVectors) -> None:
    case, report = snp.case(MILAN_V3), snp.report(MILAN_V3)
    chain = Chain.parse(**snp.certificates(case))
    data = bytearray(Report.parse(report).report_data)
    data[63] ^= 1
    code = code_of(report, chain, middle(case), expected_report_data=bytes(data))
    assert code == "snp.report_data.matches"
    with pytest.raises(ValueError, match="64 bytes"):
        verify(report, chain, middle(case), expected_report_data=b"")


def test_what_was_not_checked_is_listed_with_its_reason(snp: SnpVectors) -> None:
    case = snp.case(MILAN_V3)
    chain = Chain.parse(**snp.certificates(case))
    checks = verify(snp.report(MILAN_V3), chain, middle(case)).checks
    assert len({check.name for check in checks}) == len(checks)
    by_status = {
        status: {check.name for check in checks if check.status is status} for status in CheckStatus
    }
    assert by_status[CheckStatus.FAILED] == set()
    assert by_status[CheckStatus.SKIPPED] == {
        "snp.report_data.matches",
        "snp.crl.not_revoked",
    }
    assert by_status[CheckStatus.PASSED] == {
        "snp.report.format",
        "snp.report.signature",
        "snp.chain.product_line",
        "snp.chain.ark_pinned",
        "snp.chain.names",
        "snp.chain.constraints",
        "snp.chain.validity",
        "snp.chain.signatures",
        "snp.chip.matches_certificate",
        "snp.tcb.matches_certificate",
    }
    assert all(check.detail for check in checks)


def test_a_moment_without_a_time_zone_is_a_mistake_of_the_caller(snp: SnpVectors) -> None:
    case = snp.case(MILAN_V3)
    chain = Chain.parse(**snp.certificates(case))
    naive = middle(case).replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        verify(snp.report(MILAN_V3), chain, naive)


def test_any_time_zone_will_do(snp: SnpVectors) -> None:
    case = snp.case(MILAN_V3)
    chain = Chain.parse(**snp.certificates(case))
    start, _ = window(case)
    east = timezone(timedelta(hours=14))
    verify(snp.report(MILAN_V3), chain, start.astimezone(east))
    early = (start - SECOND).astimezone(east)
    assert code_of(snp.report(MILAN_V3), chain, early) == "snp.chain.validity"
