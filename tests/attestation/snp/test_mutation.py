"""Every byte of real evidence, flipped: not one of them may be accepted."""

from __future__ import annotations

from datetime import datetime

import pytest

from attestation.anchors import TrustAnchors
from attestation.errors import AttestationError
from attestation.snp.abi import SIGNED_SIZE
from attestation.snp.certs import Chain
from attestation.snp.verify import verify_report
from tests.attestation.snp.conftest import SnpVectors

AMD = TrustAnchors.builtin().amd
# One for each report version, line and kind of key that there is a real case of.
CASES = ("120d77b213c8868d", "19ade1287746f6fb", "56b3ee54977c2602", "decdab949afc5906")


def accepted(report: bytes, chain: Chain, now: datetime) -> bool:
    try:
        verify_report(report, chain, roots=AMD, now=now, expected_report_data=None)
    except AttestationError:
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_no_byte_of_a_report_and_no_bit_of_what_is_signed_can_be_changed(
    snp: SnpVectors, name: str
) -> None:
    case, report = snp.case(name), bytearray(snp.report(name))
    chain, now = Chain.parse(**snp.certificates(case)), datetime.fromisoformat(case["valid_from"])
    assert accepted(bytes(report), chain, now)
    for offset in range(len(report)):
        bits = [1 << bit for bit in range(8)] if offset < SIGNED_SIZE else [0xFF]
        for mask in bits:
            report[offset] ^= mask
            assert not accepted(bytes(report), chain, now), (offset, mask)
            report[offset] ^= mask


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("part", ["ark", "ica", "ek"])
def test_no_byte_of_a_certificate_can_be_changed(snp: SnpVectors, name: str, part: str) -> None:
    case, report = snp.case(name), snp.report(name)
    parts, now = snp.certificates(case), datetime.fromisoformat(case["valid_from"])
    original = parts[part]
    for offset in range(len(original)):
        for mask in (0xFF, 1 << offset % 8):
            bent = bytearray(original)
            bent[offset] ^= mask
            try:
                chain = Chain.parse(**(parts | {part: bytes(bent)}))
            except AttestationError:
                continue
            assert not accepted(report, chain, now), (offset, mask)


def test_only_the_own_certificates_of_a_report_are_accepted(snp: SnpVectors) -> None:
    chains = {
        (case["report"], case["ek"]): Chain.parse(**snp.certificates(case)) for case in snp.cases
    }
    swapped = 0
    for case in snp.cases:
        own = chains[case["report"], case["ek"]]
        now = datetime.fromisoformat(case["valid_from"])
        for other in chains.values():
            if other.ek_key.public_numbers() != own.ek_key.public_numbers():
                assert not accepted(snp.report(case["report"]), other, now)
                swapped += 1
    assert swapped > 400
