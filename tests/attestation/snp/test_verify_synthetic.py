"""Each check fires: chains and reports that are right in everything but one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509

from attestation.checks import CheckStatus
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.simulated import ca
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp import extensions as amd
from attestation.snp.names import AMD, SIMULATED
from attestation.snp.product import EndorsementKey, ProductLine
from attestation.snp.verify import P384_ORDER, verify_report
from tests.attestation.snp.synthetic import (
    CSP,
    NOW,
    REPORT_DATA,
    TCB,
    Evidence,
    der,
    make,
    with_fields,
)

GENOA, TURIN = ProductLine.GENOA, ProductLine.TURIN
VLEK = EndorsementKey.VLEK


def code_of(evidence: Evidence, now: datetime = NOW) -> str:
    with pytest.raises(VerificationError) as caught:
        evidence.verify(now)
    return caught.value.code


def put(oid: str, value: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda values: values.update({oid: value})


@pytest.mark.parametrize("line", ProductLine)
@pytest.mark.parametrize("kind", EndorsementKey)
def test_evidence_with_nothing_wrong_verifies(
    simulated_vendor: SimulatedVendor, line: ProductLine, kind: EndorsementKey
) -> None:
    verified = make(simulated_vendor, line=line, kind=kind).verify()
    assert verified.product_line is line
    assert verified.endorsement_key is kind
    assert verified.reported_tcb == verified.launch_tcb == TCB[line]
    assert verified.csp_id == (CSP if kind is VLEK else None)
    assert verified.root_sha256 == simulated_vendor.root_sha256()


# --- binding to the chip


def test_a_report_of_another_chip_is_refused(simulated_vendor: SimulatedVendor) -> None:
    for line, index in ((GENOA, 0), (GENOA, 63), (TURIN, 0), (TURIN, 7)):
        size = 8 if line is TURIN else 64
        chip = bytearray(bytes(range(1, size + 1)).ljust(64, b"\0"))
        chip[index] ^= 1
        bent = make(simulated_vendor, line=line, chip_id=bytes(chip))
        assert code_of(bent) == "snp.chip.matches_certificate"


def test_on_turin_the_rest_of_the_chip_id_must_be_zero(simulated_vendor: SimulatedVendor) -> None:
    chip = bytes(range(1, 9)).ljust(63, b"\0") + b"\1"
    assert (
        code_of(make(simulated_vendor, line=TURIN, chip_id=chip)) == "snp.chip.matches_certificate"
    )


def test_a_short_hardware_id_does_not_match_by_its_prefix(
    simulated_vendor: SimulatedVendor,
) -> None:
    short = bytes(range(1, 9))
    bent = make(
        simulated_vendor,
        chip_id=short.ljust(64, b"\0"),
        change_values=put(amd.OID_HWID, short),
    )
    assert code_of(bent) == "snp.chip.matches_certificate"
    long = make(
        simulated_vendor,
        line=TURIN,
        change_values=put(amd.OID_HWID, short.ljust(64, b"\0")),
    )
    assert code_of(long) == "snp.chip.matches_certificate"


def test_a_masked_chip_id_is_refused(simulated_vendor: SimulatedVendor) -> None:
    assert code_of(make(simulated_vendor, chip_id=bytes(64))) == "snp.chip.matches_certificate"
    zeros = make(simulated_vendor, chip_id=bytes(64), change_values=put(amd.OID_HWID, bytes(64)))
    assert code_of(zeros) == "snp.chip.matches_certificate"


def test_a_vcek_without_chip_or_with_a_provider_is_refused(
    simulated_vendor: SimulatedVendor,
) -> None:
    no_chip = make(simulated_vendor, change_values=lambda values: values.pop(amd.OID_HWID))
    assert code_of(no_chip) == "snp.chip.matches_certificate"
    provider = make(simulated_vendor, change_values=put(amd.OID_CSP_ID, b"\x16\x01A"))
    assert code_of(provider) == "snp.chip.matches_certificate"


def test_a_vlek_with_chip_or_without_a_provider_is_refused(
    simulated_vendor: SimulatedVendor,
) -> None:
    for change in (
        put(amd.OID_HWID, bytes(64)),
        lambda values: values.pop(amd.OID_CSP_ID),
    ):
        assert code_of(make(simulated_vendor, kind=VLEK, change_values=change)) == (
            "snp.chip.matches_certificate"
        )


def test_a_report_by_a_vlek_must_have_no_chip_id(simulated_vendor: SimulatedVendor) -> None:
    bent = make(simulated_vendor, kind=VLEK, chip_id=bytes(63) + b"\1")
    assert code_of(bent) == "snp.chip.matches_certificate"


@pytest.mark.parametrize("kind", EndorsementKey)
def test_a_report_that_names_the_other_key_is_refused(
    simulated_vendor: SimulatedVendor, kind: EndorsementKey
) -> None:
    other = EndorsementKey.VCEK if kind is VLEK else VLEK
    bent = make(simulated_vendor, kind=kind, change_fields=with_fields(signing_key=other))
    assert code_of(bent) == "snp.chain.names"


# --- binding to the TCB


@pytest.mark.parametrize("oid", [amd.OID_BOOTLOADER, amd.OID_TEE, amd.OID_SNP, amd.OID_MICROCODE])
def test_a_certificate_for_another_tcb_is_refused(
    simulated_vendor: SimulatedVendor, oid: str
) -> None:
    for line in ProductLine:
        bent = make(simulated_vendor, line=line, change_values=put(oid, b"\x02\x01\x63"))
        assert code_of(bent) == "snp.tcb.matches_certificate"


def test_the_first_mutable_code_is_part_of_the_tcb_on_turin_and_only_there(
    simulated_vendor: SimulatedVendor,
) -> None:
    other = make(simulated_vendor, line=TURIN, change_values=put(amd.OID_FMC, b"\x02\x01\x02"))
    assert code_of(other) == "snp.tcb.matches_certificate"
    zero = replace(TCB[TURIN], fmc=0)
    missing = make(
        simulated_vendor,
        line=TURIN,
        change_values=lambda values: values.pop(amd.OID_FMC),
        change_fields=with_fields(tcb=zero.encode(TURIN)),
    )
    assert code_of(missing) == "snp.tcb.matches_certificate"
    genoa = make(simulated_vendor, change_values=put(amd.OID_FMC, b"\x02\x01\x00"))
    assert code_of(genoa) == "snp.tcb.matches_certificate"


# --- chain


def test_a_forged_chain_under_a_root_that_is_not_pinned_is_refused(
    simulated_vendor: SimulatedVendor,
) -> None:
    attacker = replace(simulated_vendor, root_key=simulated_vendor.intermediate_key)
    forged = make(attacker)
    forged.verify()
    pinned = replace(forged, roots=frozenset({simulated_vendor.root_sha256()}))
    assert code_of(pinned) == "snp.chain.ark_pinned"
    with pytest.raises(VerificationError, match="another simulated TEE than the roots"):
        pinned.verify()


def test_without_any_root_nothing_is_proved(simulated_vendor: SimulatedVendor) -> None:
    with pytest.raises(UncheckableError) as caught:
        replace(make(simulated_vendor), roots=frozenset()).verify()
    assert caught.value.code == "snp.chain.ark_pinned"


def test_a_simulated_root_among_the_real_pins_still_vouches_for_nothing(
    simulated_vendor: SimulatedVendor,
) -> None:
    evidence = make(simulated_vendor)
    with pytest.raises(VerificationError) as caught:
        verify_report(
            evidence.report,
            evidence.chain,
            roots={"Genoa": evidence.roots},
            now=NOW,
            expected_report_data=REPORT_DATA,
        )
    assert caught.value.code == "snp.chain.product_line"


def test_simulated_names_cannot_be_mistaken_for_the_real_ones() -> None:
    for line in ProductLine:
        for kind in EndorsementKey:
            for common_name in (SIMULATED.ark(line), SIMULATED.ica(line, kind), SIMULATED.ek(kind)):
                assert "SIMULATED" in common_name
                assert AMD.common_name(SIMULATED.name(common_name)) is None
                assert SIMULATED.common_name(AMD.name(common_name)) is None


@pytest.mark.parametrize("part", ["ark_issued", "ica_issued", "ek_issued"])
def test_each_certificate_must_be_valid(simulated_vendor: SimulatedVendor, part: str) -> None:
    old: dict[str, datetime] = {part: datetime(2000, 1, 1, tzinfo=UTC)}
    assert code_of(make(simulated_vendor, **old)) == "snp.chain.validity"  # type: ignore[arg-type] # only dates
    new: dict[str, datetime] = {part: datetime(2027, 1, 1, tzinfo=UTC)}
    assert code_of(make(simulated_vendor, **new)) == "snp.chain.validity"  # type: ignore[arg-type] # only dates


def test_the_window_is_that_of_all_three(simulated_vendor: SimulatedVendor) -> None:
    verified = make(
        simulated_vendor,
        ark_issued=datetime(2020, 1, 2, tzinfo=UTC),
        ica_issued=datetime(2024, 1, 2, tzinfo=UTC),
        ek_issued=datetime(2022, 1, 2, tzinfo=UTC),
    ).verify()
    assert verified.not_before == datetime(2024, 1, 1, tzinfo=UTC)
    assert verified.not_after == datetime(2020, 1, 2, tzinfo=UTC) + ca.LIFETIME


def _issue(vendor: SimulatedVendor, evidence: Evidence, part: str, **changes: object) -> Evidence:
    """The evidence with one certificate issued anew, with changed arguments of `ca.issue`."""
    chain = evidence.chain
    root = ca.Issuer(common_name=SIMULATED.ark(GENOA), key=vendor.root_key)
    ica = ca.Issuer(
        common_name=SIMULATED.ica(GENOA, EndorsementKey.VCEK), key=vendor.intermediate_key
    )
    certificate = {"ark": chain.ark, "ica": chain.ica, "ek": chain.ek}[part]
    subject = SIMULATED.common_name(certificate.subject)
    arguments = {
        "subject": subject,
        "public_key": certificate.public_key,
        "issuer": ica if part == "ek" else root,
        "now": NOW,
        "extensions": [(e.value, e.critical) for e in certificate.extensions],
    } | changes
    issued = der(ca.issue(**arguments))  # type: ignore[arg-type] # the tests' own arguments
    return replace(evidence, **{part: issued})  # type: ignore[arg-type] # only certificates


def test_issuing_anew_without_a_change_still_verifies(simulated_vendor: SimulatedVendor) -> None:
    evidence = make(simulated_vendor)
    for part in ("ark", "ica", "ek"):
        evidence = _issue(simulated_vendor, evidence, part)
    evidence.verify()


@pytest.mark.parametrize(
    ("part", "key"), [("ark", "intermediate"), ("ica", "intermediate"), ("ek", "root")]
)
def test_a_certificate_that_its_issuer_did_not_sign_is_refused(
    simulated_vendor: SimulatedVendor, part: str, key: str
) -> None:
    signer = {
        "root": simulated_vendor.root_key,
        "intermediate": simulated_vendor.intermediate_key,
    }[key]
    evidence = make(simulated_vendor)
    issuer = SIMULATED.common_name(
        {"ark": evidence.chain.ark, "ica": evidence.chain.ica, "ek": evidence.chain.ek}[part].issuer
    )
    assert issuer is not None
    bent = _issue(
        simulated_vendor, evidence, part, issuer=ca.Issuer(common_name=issuer, key=signer)
    )
    assert code_of(bent) == "snp.chain.signatures"


@pytest.mark.parametrize(
    ("part", "subject", "code"),
    [
        ("ark", SIMULATED.ark(ProductLine.MILAN), "snp.chain.product_line"),
        ("ark", AMD.ark(GENOA), "snp.chain.product_line"),
        ("ica", SIMULATED.ica(GENOA, VLEK), "snp.chain.names"),
        ("ica", SIMULATED.ica(TURIN, EndorsementKey.VCEK), "snp.chain.names"),
        ("ica", AMD.ica(GENOA, EndorsementKey.VCEK), "snp.chain.names"),
        ("ek", SIMULATED.ek(VLEK), "snp.chain.names"),
        ("ek", AMD.ek(EndorsementKey.VCEK), "snp.chain.names"),
        ("ek", "VCEK", "snp.chain.names"),
    ],
)
def test_a_certificate_under_another_name_is_refused(
    simulated_vendor: SimulatedVendor, part: str, subject: str, code: str
) -> None:
    evidence = make(simulated_vendor)
    assert code_of(_issue(simulated_vendor, evidence, part, subject=subject)) == code


@pytest.mark.parametrize(
    "name",
    [
        SIMULATED.ica(GENOA, VLEK),
        SIMULATED.ica(TURIN, EndorsementKey.VCEK),
        SIMULATED.ark(GENOA),
        "another",
    ],
)
def test_an_intermediate_for_other_keys_is_refused_though_its_keys_name_it(
    simulated_vendor: SimulatedVendor, name: str
) -> None:
    renamed = _issue(simulated_vendor, make(simulated_vendor), "ica", subject=name)
    issuer = ca.Issuer(common_name=name, key=simulated_vendor.intermediate_key)
    assert code_of(_issue(simulated_vendor, renamed, "ek", issuer=issuer)) == "snp.chain.names"


@pytest.mark.parametrize("part", ["ark", "ica", "ek"])
def test_a_certificate_that_names_another_issuer_is_refused(
    simulated_vendor: SimulatedVendor, part: str
) -> None:
    key = simulated_vendor.intermediate_key if part == "ek" else simulated_vendor.root_key
    stranger = ca.Issuer(common_name=SIMULATED.ark(ProductLine.MILAN), key=key)
    bent = _issue(simulated_vendor, make(simulated_vendor), part, issuer=stranger)
    assert code_of(bent) == "snp.chain.names"


def test_a_product_of_another_line_is_refused(simulated_vendor: SimulatedVendor) -> None:
    bent = make(simulated_vendor, change_values=put(amd.OID_PRODUCT_NAME, b"\x16\x05Milan"))
    assert code_of(bent) == "snp.chain.product_line"
    cpu = make(simulated_vendor, change_fields=with_fields(cpuid=(0x19, 0x01, 0x01)))
    assert code_of(cpu) == "snp.chain.product_line"


@pytest.mark.parametrize("name", [b"Venice", b"Genoa2", b"genoa", b"-Genoa"])
def test_an_unknown_product_is_not_guessed(simulated_vendor: SimulatedVendor, name: bytes) -> None:
    value = b"\x16" + bytes((len(name),)) + name
    bent = make(simulated_vendor, change_values=put(amd.OID_PRODUCT_NAME, value))
    with pytest.raises(UncheckableError) as caught:
        bent.verify()
    assert caught.value.code == "snp.chain.product_line"


def test_a_stepping_after_the_product_name_is_allowed(simulated_vendor: SimulatedVendor) -> None:
    make(simulated_vendor, change_values=put(amd.OID_PRODUCT_NAME, b"\x16\x08Genoa-B1")).verify()


@pytest.mark.parametrize("part", ["ark", "ica"])
def test_only_a_certificate_authority_may_certify(
    simulated_vendor: SimulatedVendor, part: str
) -> None:
    evidence = make(simulated_vendor)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    for extensions in (
        [],
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
        [(x509.BasicConstraints(ca=True, path_length=None), True), (usage, True)],
    ):
        bent = _issue(simulated_vendor, evidence, part, extensions=extensions)
        assert code_of(bent) == "snp.chain.constraints"


def test_an_endorsement_key_may_not_certify(simulated_vendor: SimulatedVendor) -> None:
    evidence = make(simulated_vendor)
    amd = [(e.value, e.critical) for e in evidence.chain.ek.extensions]
    for extra in (
        (x509.BasicConstraints(ca=True, path_length=None), False),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),
    ):
        bent = _issue(simulated_vendor, evidence, "ek", extensions=[*amd, extra])
        assert code_of(bent) == "snp.chain.constraints"


# --- the report's signature


def _with_signature(evidence: Evidence, r: int, s: int) -> Evidence:
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    report = evidence.report
    return replace(evidence, report=report[:0x2A0] + signature + report[0x330:])


def _signature(evidence: Evidence) -> tuple[int, int]:
    report = evidence.report
    return (
        int.from_bytes(report[0x2A0:0x2D0], "little"),
        int.from_bytes(report[0x2E8:0x318], "little"),
    )


def test_a_signature_out_of_range_is_refused(simulated_vendor: SimulatedVendor) -> None:
    evidence = make(simulated_vendor)
    r, s = _signature(evidence)
    top = (1 << 384) - 1
    for bent in (
        (0, s),
        (r, 0),
        (0, 0),
        (P384_ORDER, s),
        (r, P384_ORDER),
        (top, s),
        (r, top),
        (1, 1),
        (s, r),
    ):
        assert code_of(_with_signature(evidence, *bent)) == "snp.report.signature"


def test_a_big_endian_signature_is_refused(simulated_vendor: SimulatedVendor) -> None:
    evidence = make(simulated_vendor)
    r, s = (int.from_bytes(number.to_bytes(48, "little"), "big") for number in _signature(evidence))
    assert code_of(_with_signature(evidence, r, s)) == "snp.report.signature"


def test_the_second_form_of_a_signature_verifies_so_bytes_identify_nothing(
    simulated_vendor: SimulatedVendor,
) -> None:
    evidence = make(simulated_vendor)
    r, s = _signature(evidence)
    second = _with_signature(evidence, r, P384_ORDER - s)
    assert second.report != evidence.report
    assert second.verify().report.signed_bytes == evidence.verify().report.signed_bytes


def test_a_report_by_another_key_is_refused(simulated_vendor: SimulatedVendor) -> None:
    one, other = make(simulated_vendor), make(simulated_vendor)
    assert code_of(replace(one, report=other.report)) == "snp.report.signature"


def test_a_platform_that_masks_its_chip_key_gives_no_proof(
    simulated_vendor: SimulatedVendor,
) -> None:
    evidence = make(simulated_vendor)
    report = bytearray(evidence.report)
    report[0x48] |= 1 << 1
    report[0x2A0:0x330] = bytes(0x90)
    with pytest.raises(VerificationError, match="masks its chip key"):
        replace(evidence, report=bytes(report)).verify()


def test_reserved_bytes_in_the_tcb_are_refused(simulated_vendor: SimulatedVendor) -> None:
    tcb = bytearray(TCB[GENOA].encode(GENOA))
    tcb[3] = 1
    with pytest.raises(AttestationError) as caught:
        make(simulated_vendor, change_fields=with_fields(tcb=bytes(tcb))).verify()
    assert caught.value.code == "snp.report.tcb"


# --- hardware that no sample exists of


def test_a_cpu_that_is_not_known_is_not_guessed(simulated_vendor: SimulatedVendor) -> None:
    later = make(simulated_vendor, line=TURIN, change_fields=with_fields(cpuid=(0x1A, 0x50, 0)))
    with pytest.raises(UncheckableError) as caught:
        later.verify()
    assert caught.value.code == "snp.chain.product_line"
    ran = {check.name: check.status for check in caught.value.checks}
    assert ran["snp.report.signature"] is CheckStatus.PASSED
    # The layout of its patch levels is not known either: they are not compared by guess.
    assert ran["snp.tcb.matches_certificate"] is CheckStatus.SKIPPED


def test_a_version_5_report_by_a_providers_key_verifies(simulated_vendor: SimulatedVendor) -> None:
    verified = make(simulated_vendor, kind=VLEK).verify()
    assert (verified.report.version, verified.csp_id) == (5, CSP)
    assert verified.report.current_mit_vector is not None


def test_every_failed_check_of_bad_evidence_is_listed(simulated_vendor: SimulatedVendor) -> None:
    bent = make(
        simulated_vendor,
        chip_id=bytes(63) + b"\1",
        change_fields=with_fields(tcb=bytes(8)),
    )
    with pytest.raises(VerificationError) as caught:
        bent.verify(datetime(2000, 1, 1, tzinfo=UTC))
    failed = [c.name for c in caught.value.checks if c.status is CheckStatus.FAILED]
    assert failed == [
        "snp.chip.matches_certificate",
        "snp.tcb.matches_certificate",
        "snp.chain.validity",
    ]
