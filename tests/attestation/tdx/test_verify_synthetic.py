"""What no real platform shows: revoked keys, an enclave of somebody else, other documents."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificates import elements, header_size
from attestation.checks import CheckStatus
from attestation.errors import AttestationError, MalformedError, VerificationError
from attestation.simulated import tdx_documents as documents
from attestation.simulated.tdx import SimulatedIntel, _issue
from attestation.simulated.tdx_quote import TEE_TCB_SVN, QeFields
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.names import INTEL
from attestation.tdx.verify import verify_quote
from tests.attestation.tdx.synthetic import NOW, REPORT_DATA, TD_1_5, endorsements, intel, verify

DAY = timedelta(days=1)


def failed(error: AttestationError) -> set[str]:
    return {check.name for check in error.checks if check.status is CheckStatus.FAILED}


def refused(*args: Any, **kwargs: Any) -> set[str]:
    """The checks that fail, of a verification that has to be refused."""
    with pytest.raises(VerificationError) as caught:
        verify(*args, **kwargs)
    assert caught.value.code in failed(caught.value)
    return failed(caught.value)


@pytest.mark.parametrize("td", [{}, TD_1_5])
def test_a_quote_of_the_simulated_vendor_is_accepted_by_who_gave_its_root(
    td: dict[str, Any],
) -> None:
    found = verify(intel().quote(REPORT_DATA, **td))
    assert found.assessment.status is TcbStatus.UP_TO_DATE
    assert {check.status for check in found.checks} == {CheckStatus.PASSED}


def test_it_is_never_taken_for_intels() -> None:
    with pytest.raises(VerificationError) as caught:
        verify_quote(
            intel().quote(REPORT_DATA),
            endorsements(),
            now=NOW,
            expected_report_data=REPORT_DATA,
            vendor=INTEL,
        )
    names = {"tdx.chain.root_pinned", "tdx.chain.names"}
    assert names <= failed(caught.value)
    assert {name.replace("chain", "signer") for name in names} <= failed(caught.value)


def test_another_simulated_vendor_is_not_this_one() -> None:
    other = SimulatedIntel.create(now=NOW)
    assert "tdx.chain.root_pinned" in refused(other.quote(REPORT_DATA))
    assert "tdx.tcb_info.signature" in refused(given=endorsements(tcb_info=other.tcb_info(NOW)))
    assert "tdx.pck_crl.signature" in refused(given=endorsements(pck_crl=other.pck_crl(NOW)))


# --- revocation


def test_a_revoked_pck_is_refused() -> None:
    crl = intel().pck_crl(NOW, [1, intel().pck.serial_number, 2])
    assert refused(given=endorsements(pck_crl=crl)) == {"tdx.chain.not_revoked"}


def test_a_revoked_intermediate_is_refused() -> None:
    crl = intel().root_crl(NOW, [intel().ca.serial_number])
    assert refused(given=endorsements(root_crl=crl)) == {"tdx.chain.not_revoked"}


def test_a_revoked_signer_of_documents_is_refused() -> None:
    crl = intel().root_crl(NOW, [intel().signer.serial_number])
    assert refused(given=endorsements(root_crl=crl)) == {"tdx.signer.not_revoked"}


def test_a_list_by_the_right_key_in_another_name_is_refused() -> None:
    crl = documents.revocation_list(intel().root.subject, intel().ca_key, NOW, ())
    assert refused(given=endorsements(pck_crl=crl)) == {"tdx.pck_crl.signature"}


def test_a_list_that_names_another_algorithm_than_it_is_signed_by_is_refused() -> None:
    key = intel().ca_key
    data = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(intel().ca.subject)
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    signed, algorithm, _ = elements(data, header_size(data), 3)
    signature = b"\0" + key.sign(signed, ec.ECDSA(hashes.SHA256()))
    body = signed + algorithm + b"\x03" + bytes((len(signature),)) + signature
    crl = b"\x30\x81" + bytes((len(body),)) + body  # 128 to 255 bytes, with these names
    assert refused(given=endorsements(pck_crl=crl)) == {"tdx.pck_crl.signature"}


def test_a_certificate_that_names_another_issuer_is_refused_though_the_key_is_right() -> None:
    of = intel()
    ca = _issue("PCK Platform CA", of.ca_key, "TCB Signing", of.root_key, now=NOW, is_ca=True)
    assert refused(vendor=replace(of, ca=ca)) == {"tdx.chain.names"}


def test_a_list_with_others_on_it_refuses_nobody() -> None:
    crl = intel().pck_crl(NOW, range(1, 60))
    assert verify(given=endorsements(pck_crl=crl)).assessment.status is TcbStatus.UP_TO_DATE


# --- the quoting enclave: without these anybody's could sign (CVE-2026-22696)


@pytest.mark.parametrize(
    "qe",
    [
        QeFields(mrsigner=bytes(32)),
        QeFields(isvprodid=1),
        QeFields(miscselect=1),
        QeFields(attributes=b"\x13" + bytes(7) + b"\xe7" + bytes(7)),  # a debug enclave
    ],
)
def test_an_enclave_that_is_not_the_vendors_is_refused(qe: QeFields) -> None:
    assert refused(intel().quote(REPORT_DATA, qe=qe)) == {"tdx.qe.identity"}


def test_an_enclave_that_is_too_old_is_out_of_date_and_one_from_nowhere_refused() -> None:
    old = verify(intel().quote(REPORT_DATA, qe=QeFields(isvsvn=7)))
    assert old.assessment.status is TcbStatus.OUT_OF_DATE
    assert refused(intel().quote(REPORT_DATA, qe=QeFields(isvsvn=0))) == {"tdx.tcb.level"}


# --- the platform


@pytest.mark.parametrize(
    "changes", [{"fmspc": "00" * 6}, {"pceId": "0001"}, {"fmspc": "FF" * 6, "pceId": "FFFF"}]
)
def test_tcb_info_of_another_platform_is_refused(changes: dict[str, Any]) -> None:
    info = intel().tcb_info(NOW, **changes)
    assert refused(given=endorsements(tcb_info=info)) == {"tdx.tcb.platform"}


@pytest.mark.parametrize(
    "td", [{"mrsignerseam": b"\1" * 48}, {"seam_attributes": b"\1" + bytes(7)}]
)
def test_a_module_that_is_not_the_vendors_is_refused(td: dict[str, Any]) -> None:
    assert refused(intel().quote(REPORT_DATA, **td)) == {"tdx.module.identity"}


def test_module_ten_is_looked_up_in_hexadecimal() -> None:
    svn = bytes((7, 10)) + TEE_TCB_SVN[2:]
    quote = intel().quote(REPORT_DATA, tee_tcb_svn=svn)
    (module,) = documents.tcb_info(NOW)["tdxModuleIdentities"]

    def named(name: str) -> Endorsements:
        info = intel().tcb_info(NOW, tdxModuleIdentities=[module | {"id": name}])
        return endorsements(tcb_info=info)

    assert verify(quote, named("TDX_0A")).assessment.status is TcbStatus.UP_TO_DATE
    assert verify(quote, named("TDX_0a")).assessment.status is TcbStatus.UP_TO_DATE
    assert refused(quote, named("TDX_10")) == {"tdx.module.identity", "tdx.tcb.level"}


def test_a_module_that_is_named_twice_is_refused() -> None:
    (module,) = documents.tcb_info(NOW)["tdxModuleIdentities"]
    info = intel().tcb_info(NOW, tdxModuleIdentities=[module, module])
    assert "tdx.module.identity" in refused(given=endorsements(tcb_info=info))


def test_a_module_without_a_number_is_judged_by_the_platforms_rows_from_the_first_byte_on() -> None:
    lower = bytes((6, 0)) + TEE_TCB_SVN[2:]
    found = verify(intel().quote(REPORT_DATA, tee_tcb_svn=lower))
    assert found.assessment.module is None
    assert found.assessment.status is TcbStatus.OUT_OF_DATE


@pytest.mark.parametrize("changed", ["components", "pcesvn"])
def test_a_platform_below_the_newest_level_is_out_of_date_and_says_why(changed: str) -> None:
    low: dict[str, Any] = {"components": bytes(16), "pcesvn": 12}
    vendor = SimulatedIntel.create(now=NOW, **{changed: low[changed]})
    found = verify(vendor=vendor).assessment
    assert found.status is TcbStatus.OUT_OF_DATE
    assert found.advisories == ("SIMULATED-SA-00001",)
    assert found.date.year == 2024


def test_a_launch_before_the_module_was_mended_is_advised_again() -> None:
    old = bytes((6,)) + TEE_TCB_SVN[1:]
    found = verify(intel().quote(REPORT_DATA, **TD_1_5, tee_tcb_svn=old)).assessment
    assert found.status is TcbStatus.TD_RELAUNCH_ADVISED


def test_a_revoked_part_revokes_all() -> None:
    levels = documents.qe_identity(NOW)["tcbLevels"]
    levels[0]["tcbStatus"] = "Revoked"
    identity = intel().qe_identity(NOW, tcbLevels=levels)
    found = verify(given=endorsements(qe_identity=identity)).assessment
    assert found.status is TcbStatus.REVOKED


# --- time


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity", "pck_crl", "root_crl"])
@pytest.mark.parametrize("days", [-40, 40])
def test_one_part_of_another_time_is_enough_to_refuse(name: str, days: int) -> None:
    other = getattr(intel(), name)(NOW + days * DAY)
    assert refused(given=endorsements(**{name: other})) == {f"tdx.{name}.validity"}


def test_an_expired_pck_is_refused() -> None:
    vendor = SimulatedIntel.create(now=NOW - 2 * DAY, pck_lifetime=DAY)
    assert refused(vendor=vendor) == {"tdx.chain.validity"}
    early = SimulatedIntel.create(now=NOW + 2 * DAY)
    assert refused(vendor=early) == {"tdx.chain.validity", "tdx.signer.validity"}


# --- one file with everything


def test_the_one_file_is_the_same_as_the_single_ones() -> None:
    given = Endorsements.parse(intel().collateral(NOW))
    assert verify(given=given).assessment == verify().assessment
    assert len(given.signers) == 1


def test_the_one_file_without_a_part_or_with_another_is_refused() -> None:
    good = json.loads(intel().collateral(NOW))
    for name in good:
        if name == "pck_crl_issuer_chain":
            continue  # it is the chain of the quote, or the list is not taken
        values: tuple[object, ...] = (None, 5, [], "zz")
        for value in values:
            with pytest.raises(MalformedError):
                Endorsements.parse(json.dumps(good | {name: value}).encode())
        with pytest.raises(MalformedError):
            Endorsements.parse(json.dumps({k: v for k, v in good.items() if k != name}).encode())
    for data in (b"", b"[]", b"{", b"[" * 100_000, bytes(2_000_000)):
        with pytest.raises(MalformedError):
            Endorsements.parse(data)


def test_the_one_file_names_each_part_once() -> None:
    good = intel().collateral(NOW)
    twice = b'{"root_ca_crl": "00", ' + good[1:]
    with pytest.raises(MalformedError, match="given twice"):
        Endorsements.parse(twice)


def test_a_machine_that_is_worse_than_at_the_launch_is_not_called_what_it_was() -> None:
    old = bytes((6,)) + TEE_TCB_SVN[1:]
    changes = TD_1_5 | {"tee_tcb_svn2": old}
    found = verify(intel().quote(REPORT_DATA, **changes)).assessment
    assert found.status is TcbStatus.OUT_OF_DATE
    assert found.date.year == 2024  # of the level that it fell back to


def test_documents_signed_by_two_keys_are_accepted_with_both_chains() -> None:
    """Intel changes its signing key: the two documents may be of two keys for a while."""
    of = intel()
    other = of.with_new_signer(now=NOW)
    for chains, number in (
        ([of.signing_chain(), other.signing_chain()], 2),
        ([of.signing_chain(), of.signing_chain()], 1),
    ):
        given = Endorsements.of(
            tcb_info=of.tcb_info(NOW),
            qe_identity=other.qe_identity(NOW),
            signing_chains=chains,
            pck_crl=of.pck_crl(NOW),
            root_crl=of.root_crl(NOW),
        )
        assert len(given.signers) == number
        if number == 2:
            assert verify(given=given).assessment.status is TcbStatus.UP_TO_DATE
        else:
            assert refused(given=given) == {"tdx.qe_identity.signature"}
