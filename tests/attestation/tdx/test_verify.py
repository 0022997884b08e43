"""Whole verifications of real quotes: every case, everything that can be wrong, every byte."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestation.checks import CheckStatus
from attestation.errors import AttestationError, MalformedError, UncheckableError, VerificationError
from attestation.tdx.abi import Quote
from attestation.tdx.chain import Chain
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.names import INTEL
from attestation.tdx.signatures import P256_ORDER
from attestation.tdx.verify import VerifiedQuote, verify_quote
from tests.attestation.tdx.conftest import TdxVectors, moment, read

SECOND = timedelta(seconds=1)
THE_OTHER_ROOT_CERTIFICATE = "fc64f8076d79a4fe"  # of the same key
UP_TO_DATE = {4: "cbdb5b2f12b9a09b", 5: "cf77a6e91e48291d"}  # a good quote of each version


def up_to_date(tdx: TdxVectors, version: int = 4) -> dict[str, Any]:
    return next(case for case in tdx.cases if case["quote"] == UP_TO_DATE[version])


def verify(
    tdx: TdxVectors,
    case: dict[str, Any],
    *,
    quote: bytes | None = None,
    given: Endorsements | None = None,
    now: datetime | None = None,
    **more: Any,
) -> VerifiedQuote:
    more.setdefault("expected_report_data", None)
    return verify_quote(
        quote if quote is not None else tdx.quote(case["quote"]),
        given if given is not None else tdx.of(case),
        now=now if now is not None else moment(case),
        **more,
    )


def refusal(*args: Any, **kwargs: Any) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        verify(*args, **kwargs)
    return caught.value


def failed(error: AttestationError) -> set[str]:
    return {check.name for check in error.checks if check.status is CheckStatus.FAILED}


# --- what is accepted


def test_every_case_gets_the_answer_of_intels_algorithm(tdx: TdxVectors) -> None:
    accepted = 0
    for case in tdx.cases:
        wanted = case["intel_algo"]
        if wanted["status"] == "NotSupported":
            error = refusal(tdx, case)
            assert error.code == "tdx.tcb.level"
            assert failed(error) == {"tdx.tcb.level"}
            continue
        found = verify(tdx, case)
        assert found.assessment.status == wanted["status"]
        assert found.assessment.date == datetime.fromisoformat(wanted["tcbDate"])
        assert found.assessment.advisories == tuple(sorted(set(wanted["adv"])))
        accepted += 1
    assert accepted == 134


def test_a_case_holds_in_its_whole_window_and_a_second_beyond_it_does_not(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    found = verify(tdx, case)
    assert found.not_before <= datetime.fromisoformat(case["lo"])
    for now in (found.not_before, found.not_after):
        verify(tdx, case, now=now)
    for now in (found.not_before - SECOND, found.not_after + SECOND):
        assert isinstance(refusal(tdx, case, now=now), VerificationError)


def test_the_answer_lists_every_check_and_what_was_not_asked(tdx: TdxVectors) -> None:
    found = verify(tdx, up_to_date(tdx))
    skipped = [check.name for check in found.checks if check.status is not CheckStatus.PASSED]
    assert skipped == ["tdx.report_data.matches"]
    assert len(found.checks) > 25
    assert all(check.detail for check in found.checks)


def test_the_report_data_are_compared(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    data = Quote.parse(tdx.quote(case["quote"])).report.report_data
    found = verify(tdx, case, expected_report_data=data)
    assert all(check.status is CheckStatus.PASSED for check in found.checks)
    other = bytes((data[0] ^ 1,)) + data[1:]
    assert refusal(tdx, case, expected_report_data=other).code == "tdx.report_data.matches"


# --- what is wrong, one thing at a time


def test_a_quote_under_intels_test_root_is_refused(tdx: TdxVectors) -> None:
    (row,) = (row for row in tdx.quotes if row.get("rootmatch") is False)
    error = refusal(tdx, up_to_date(tdx), quote=tdx.quote(row["h"]))
    assert error.code == "tdx.chain.root_pinned"


# Roots that Intel calls by the same name: of tests, of pre-production machines, of a sandbox.
@pytest.mark.parametrize(
    "root", ["bf85a53fc08f84cb", "842a5bcb64ba3f7d", "e57b2d1a6ec1030a", "e3f49e858865d54d"]
)
def test_a_root_of_the_same_name_with_another_key_is_refused(tdx: TdxVectors, root: str) -> None:
    case = up_to_date(tdx)
    data = tdx.quote(case["quote"])
    quote = Quote.parse(data)
    swapped = quote.pck_chain[: quote.pck_chain.rindex(b"-----BEGIN")] + tdx.pem(root)
    error = refusal(tdx, case, quote=rebuilt(quote, data, chain=swapped))
    assert error.code == "tdx.chain.root_pinned"
    signer = tdx.pem(case["signer"][0], root)
    error = refusal(tdx, case, given=read({**tdx.files(case), "signing_chain": signer}))
    assert error.code == "tdx.signer.root_pinned"


def test_a_root_counts_only_while_it_is_pinned(tdx: TdxVectors) -> None:
    error = refusal(tdx, up_to_date(tdx), vendor=replace(INTEL, roots=frozenset({bytes(32)})))
    assert {"tdx.chain.root_pinned", "tdx.signer.root_pinned"} <= failed(error)


@pytest.mark.parametrize(
    "missing", ["tcb_info", "qe_identity", "signing_chain", "pck_crl", "root_crl"]
)
def test_what_was_not_given_is_not_taken_for_checked(tdx: TdxVectors, missing: str) -> None:
    case = up_to_date(tdx)
    files = tdx.files(case)
    del files[missing]
    error = refusal(tdx, case, given=read(files))
    assert isinstance(error, UncheckableError)
    assert "not given" in str(error)
    assert not failed(error)


def test_a_quote_alone_proves_nothing(tdx: TdxVectors) -> None:
    error = refusal(tdx, up_to_date(tdx), given=Endorsements())
    assert isinstance(error, UncheckableError)
    passed = {check.name for check in error.checks if check.status is CheckStatus.PASSED}
    assert "tdx.quote.signature" in passed
    assert "tdx.tcb.level" not in passed


def test_everything_has_to_be_valid_at_the_one_time(tdx: TdxVectors) -> None:
    """Each part in turn comes from another time, everything else is good."""
    case = up_to_date(tdx)
    now, good = moment(case), tdx.of(case)
    assert good.tcb_info is not None
    assert good.qe_identity is not None
    assert good.pck_crl is not None
    assert good.root_crl is not None
    day = timedelta(days=1)
    for name, part, start, end in (
        ("tcb_info", good.tcb_info, "issued", "next_update"),
        ("qe_identity", good.qe_identity, "issued", "next_update"),
        ("pck_crl", good.pck_crl, "this_update", "next_update"),
        ("root_crl", good.root_crl, "this_update", "next_update"),
    ):
        early: Any = {start: now + SECOND, end: now + day}
        late: Any = {start: now - day, end: now - SECOND}
        for times in (early, late):
            other: Any = {name: replace(part, **times)}
            error = refusal(tdx, case, given=replace(good, **other))
            assert failed(error) == {f"tdx.{name}.validity"}


def test_certificates_have_to_be_valid_too(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    good = tdx.of(case)
    (signer,) = good.signers
    leaf = replace(signer.leaf, not_after=moment(case) - SECOND)
    old = replace(signer, certificates=(leaf, signer.root))
    error = refusal(tdx, case, given=replace(good, signers=(old,)))
    assert failed(error) == {"tdx.signer.validity"}
    pck = Chain.parse(Quote.parse(tdx.quote(case["quote"])).pck_chain).window[0]
    assert "tdx.chain.validity" in failed(refusal(tdx, case, now=pck - SECOND))


def test_tcb_info_for_sgx_is_refused(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    files = tdx.files(case)
    sgx = files["tcb_info"].replace(b'"id":"TDX"', b'"id":"SGX"')
    with pytest.raises(MalformedError, match="for TDX"):
        read({**files, "tcb_info": sgx})
    others = [
        path
        for path in (tdx.folder / "collateral").glob("tcb_*.json")
        if b'"id":"SGX"' in path.read_bytes()
    ]
    for path in others:
        with pytest.raises(MalformedError):
            read({**files, "tcb_info": path.read_bytes()})


def test_documents_of_another_platform_are_refused(tdx: TdxVectors) -> None:
    case, refused = up_to_date(tdx), 0
    good = tdx.of(case)
    for other in tdx.cases:
        info = tdx.of(other).tcb_info
        assert info is not None
        assert good.tcb_info is not None
        if info.fmspc != good.tcb_info.fmspc:
            error = refusal(tdx, case, given=replace(good, tcb_info=info))
            assert "tdx.tcb.platform" in failed(error)
            refused += 1
    assert refused


def test_the_pce_of_another_platform_is_refused(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    good = tdx.of(case)
    assert good.tcb_info is not None
    other = replace(good.tcb_info, pceid=b"\0\1")
    error = refusal(tdx, case, given=replace(good, tcb_info=other))
    assert failed(error) == {"tdx.tcb.platform"}


def test_lists_of_another_issuer_are_refused(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    good = tdx.of(case)
    swapped = replace(good, pck_crl=good.root_crl, root_crl=good.pck_crl)
    found = failed(refusal(tdx, case, given=swapped))
    assert {"tdx.pck_crl.signature", "tdx.root_crl.signature"} <= found


def test_the_signer_has_to_be_the_one_for_documents(tdx: TdxVectors) -> None:
    """A PCK chain is genuine, but its keys do not speak for Intel."""
    case = up_to_date(tdx)
    leaf, _, root = Chain.parse(Quote.parse(tdx.quote(case["quote"])).pck_chain).certificates
    good = tdx.of(case)
    other = replace(good.signers[0], certificates=(leaf, root))
    found = failed(refusal(tdx, case, given=replace(good, signers=(other,))))
    assert {"tdx.signer.names", "tdx.signer.signatures", "tdx.tcb_info.signature"} <= found


# --- every byte


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "pck_crl", "root_crl"])
def test_no_byte_of_a_document_or_list_can_be_changed(tdx: TdxVectors, part: str) -> None:
    case = up_to_date(tdx)
    files = tdx.files(case)
    original, quote = files[part].strip(), tdx.quote(case["quote"])
    accepted = []
    for offset in range(len(original)):
        bent = bytearray(original)
        bent[offset] ^= 1 << offset % 8
        try:
            verify(tdx, case, quote=quote, given=read({**files, part: bytes(bent)}))
        except AttestationError:
            continue
        accepted.append(bytes(bent))
    # The one thing that is written in two ways is the case of a signature's hex digits.
    assert all(bent.lower() == original.lower() for bent in accepted)
    assert part.endswith("crl") <= (not accepted)


@pytest.mark.parametrize("version", [4, 5])
def test_no_byte_of_a_quote_that_means_something_can_be_changed(
    tdx: TdxVectors, version: int
) -> None:
    case = up_to_date(tdx, version)
    data, given = tdx.quote(case["quote"]), tdx.of(case)
    good = verify(tdx, case)
    root = data.rindex(b"-----BEGIN CERTIFICATE-----")
    accepted = 0
    for offset in range(len(data)):
        bent = bytearray(data)
        bent[offset] ^= 1 << offset % 8
        try:
            found = verify(tdx, case, quote=bytes(bent), given=given)
        except AttestationError:
            continue
        # White space of the PEM, the certificate that carries the root's key, padding at the end.
        assert same(found, good), offset
        meant = data[offset : offset + 1]
        assert offset >= root or meant.isspace(), offset
        accepted += 1
    assert accepted < len(data) - root


def same(found: VerifiedQuote, good: VerifiedQuote) -> bool:
    """The same verdict about the same TD on the same platform."""
    return (
        found.quote.identity == good.quote.identity
        and found.quote.report == good.quote.report
        and found.pck == good.pck
        and found.assessment == good.assessment
        and found.root_sha256 == good.root_sha256
        and found.not_after <= good.not_after
    )


# --- what the host can change without breaking a signature


@pytest.mark.parametrize("version", [4, 5])
def test_what_is_malleable_changes_neither_verdict_nor_identity(
    tdx: TdxVectors, version: int
) -> None:
    case = up_to_date(tdx, version)
    data, good = tdx.quote(case["quote"]), verify(tdx, case)
    quote = good.quote
    chain = quote.pck_chain
    other_root = tdx.pem(THE_OTHER_ROOT_CERTIFICATE)
    swapped = chain[: chain.rindex(b"-----BEGIN")] + other_root
    folded = re.sub(rb"\n", b"\r\n", chain.rstrip(b"\0"))
    for bent in (
        data + b"\0",
        data + b"x" * 5000,
        rebuilt(quote, data, chain=folded),
        rebuilt(quote, data, chain=chain.rstrip(b"\0") + b"\n\n\0"),
        rebuilt(quote, data, chain=swapped),
        rebuilt(quote, data, signature=high_s(quote.signature)),
        rebuilt(quote, data, qe_signature=high_s(quote.qe_signature)),
    ):
        assert bent != data
        assert same(verify(tdx, case, quote=bent), good)


def rebuilt(
    quote: Quote,
    data: bytes,
    *,
    chain: bytes | None = None,
    signature: bytes | None = None,
    qe_signature: bytes | None = None,
) -> bytes:
    """The same quote with parts replaced and all lengths right."""

    def sized(size: int, part: bytes) -> bytes:
        return len(part).to_bytes(size, "little") + part

    certification = (
        quote.qe_report.raw
        + (qe_signature or quote.qe_signature)
        + sized(2, quote.qe_auth_data)
        + (5).to_bytes(2, "little")
        + sized(4, quote.pck_chain if chain is None else chain)
    )
    rest = (
        (signature or quote.signature)
        + quote.attestation_key
        + (6).to_bytes(2, "little")
        + sized(4, certification)
    )
    return data[: len(quote.signed)] + sized(4, rest)


def high_s(signature: bytes) -> bytes:
    return signature[:32] + (P256_ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


def test_a_time_without_a_zone_is_a_mistake_of_the_caller(tdx: TdxVectors) -> None:
    case = up_to_date(tdx)
    with pytest.raises(ValueError, match="zone"):
        verify(tdx, case, now=moment(case).replace(tzinfo=None))
    with pytest.raises(ValueError, match="64"):
        verify(tdx, case, expected_report_data=b"x", now=datetime.now(UTC))
