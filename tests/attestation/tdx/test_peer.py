"""Beside another implementation, dcap-qvl: the same answers over all real cases, and over ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import dcap_qvl
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError
from attestation.simulated import tdx_documents
from attestation.simulated.tdx_quote import QeFields
from attestation.tdx.abi import Quote
from attestation.tdx.appraise import appraise_quote
from attestation.tdx.chain import Chain
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import VerifiedQuote, verify_quote
from tests.attestation.tdx import peer
from tests.attestation.tdx.conftest import TdxVectors, moment, read
from tests.attestation.tdx.synthetic import NOW, REPORT_DATA, TD_1_5, endorsements, intel
from tests.attestation.tdx.synthetic import verify as verify_ours

EVERY_STATUS = TdxPolicy(statuses=frozenset(TcbStatus))
# What the peer demands of every TD is a demand of our policy, and on by default.
SAME = {
    "Verification failed: SEPT_VE_DISABLE is not enabled": "tdx.td.sept_ve_disable",
    "Verification failed: Invalid MR service TD": "tdx.td.service_td",
    "Verification failed: No matching TCB level found": "tdx.tcb.level",
}


def theirs(quote: bytes, given: Any, case: dict[str, Any]) -> tuple[str, list[str]]:
    found = peer.answer(quote, given, case["time"])
    return found.status, sorted(found.advisory_ids)


def theirs_or_refusal(
    quote: bytes, given: Any, case: dict[str, Any]
) -> tuple[str, list[str]] | str:
    """Their answer; of a refusal our name for it."""
    try:
        return theirs(quote, given, case)
    except ValueError as refused:
        return SAME[str(refused)]


def ours(found: VerifiedQuote) -> tuple[str, list[str]]:
    appraise_quote(found, EVERY_STATUS)
    return found.assessment.status.value, list(found.assessment.advisories)


def test_both_say_the_same_of_every_real_case(tdx: TdxVectors) -> None:
    seen: Counter[str] = Counter()
    for case in tdx.cases:
        quote = tdx.quote(case["quote"])
        check = partial(verify, tdx, case, quote)
        wanted = theirs_or_refusal(quote, peer.collateral(tdx.files(case), quote), case)
        if isinstance(wanted, str):
            assert refusal(check) == wanted
            seen[wanted] += 1
        else:
            assert ours(check()) == wanted
            seen["accepted"] += 1
    assert seen == {
        "accepted": 98,
        "tdx.td.sept_ve_disable": 30,
        "tdx.td.service_td": 6,
        "tdx.tcb.level": 27,
    }


def verify(tdx: TdxVectors, case: dict[str, Any], quote: bytes) -> VerifiedQuote:
    return verify_quote(quote, tdx.of(case), now=moment(case), expected_report_data=None)


def test_we_accept_no_altered_quote_that_the_peer_refuses(tdx: TdxVectors) -> None:
    case = next(case for case in tdx.cases if case["quote"] == "cbdb5b2f12b9a09b")
    quote = tdx.quote(case["quote"])
    given = peer.collateral(tdx.files(case), quote)
    seen: Counter[tuple[bool, bool]] = Counter()
    for position in range(0, len(quote), 7):
        altered = bytes((*quote[:position], quote[position] ^ 1, *quote[position + 1 :]))
        us = holds(partial(verify, tdx, case, altered))
        them = holds(partial(theirs, altered, given, case))
        if us and not them:  # bits behind the end of base64: the certificates are the same
            chains = [Chain.parse(Quote.parse(data).pck_chain) for data in (quote, altered)]
            ders = [[certificate.der for certificate in chain.certificates] for chain in chains]
            assert ders[0] == ders[1]
        seen[us, them] += 1
    # The peer has its own copy of the root and overlooks the quote's: we may be stricter.
    assert seen[False, False] > 400


def refusal(call: Callable[[], VerifiedQuote]) -> str:
    with pytest.raises(AttestationError) as caught:
        ours(call())
    return caught.value.code


def holds(call: Callable[[], object]) -> bool:
    try:
        call()
    except (ValueError, AttestationError):
        return False
    return True


@pytest.mark.parametrize("altered", ["tcb_info", "qe_identity", "pck_crl", "root_crl"])
def test_both_refuse_altered_files(tdx: TdxVectors, altered: str) -> None:
    case = next(case for case in tdx.cases if case["quote"] == "cbdb5b2f12b9a09b")
    quote, files = tdx.quote(case["quote"]), tdx.files(case)
    middle = len(files[altered]) // 2
    changed = bytearray(files[altered])
    changed[middle] ^= 1
    files[altered] = bytes(changed)
    with pytest.raises(ValueError, match=r"."):
        peer.answer(quote, peer.collateral(files, quote), case["time"])
    with pytest.raises(AttestationError):
        verify_quote(quote, read(files), now=moment(case), expected_report_data=None)


@pytest.mark.parametrize("td", [{}, TD_1_5], ids=["TD 1.0", "TD 1.5"])
@pytest.mark.parametrize("status", ["UpToDate", "SWHardeningNeeded", "OutOfDate"])
def test_the_peer_takes_a_simulated_quote_for_a_real_one_once_it_is_given_our_root(
    td: dict[str, Any], status: str
) -> None:
    vendor = intel()
    levels = tdx_documents.tcb_info(NOW)["tcbLevels"]
    levels[0]["tcbStatus"] = status
    quote = vendor.quote(REPORT_DATA, **td)
    files = {
        "tcb_info": vendor.tcb_info(NOW, tcbLevels=levels),
        "qe_identity": vendor.qe_identity(NOW),
        "signing_chain": vendor.signing_chain(),
        "pck_crl": vendor.pck_crl(NOW),
        "root_crl": vendor.root_crl(NOW),
    }
    given = peer.collateral(files, quote)
    root = vendor.root.public_bytes(Encoding.DER)
    found = dcap_qvl.verify_with_root_ca(quote, given, root, int(NOW.timestamp()))
    assert found.status == status
    with pytest.raises(ValueError, match=r"."):
        peer.answer(quote, given, int(NOW.timestamp()))


# -- whatever Intel may publish -------------------------------------------------------------------

PLATFORM = st.sampled_from([status.value for status in TcbStatus if "Relaunch" not in status.value])
PART = st.sampled_from(["UpToDate", "UpToDate", "OutOfDate", "Revoked"])
ADVISORIES = st.lists(st.sampled_from(["INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3"]), unique=True)
WORSE = {"OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}


def near(components: bytes, places: int) -> st.SearchStrategy[bytes]:
    """These numbers, the first of them a little lower or higher."""
    shifts = st.lists(st.sampled_from([0, 0, -1, 1]), min_size=places, max_size=places)
    return shifts.map(
        lambda shift: (
            bytes(max(0, a + b) for a, b in zip(components, shift, strict=False))
            + components[places:]
        )
    )


@st.composite
def levels(draw: st.DrawFn, svn: bytes) -> list[dict[str, Any]]:
    """Rows for platforms, each below the one before, as Intel sorts them; the last takes all."""
    rows: list[dict[str, Any]] = []
    sgx, tdx, pcesvn = bytes((4,) * 16), bytes((9,) * 16), 14
    for _ in range(draw(st.integers(0, 3))):
        sgx = bytes(map(min, sgx, draw(near(tdx_documents.COMPONENTS, 4))))
        tdx = bytes(map(min, tdx, draw(near(svn, 3))))
        pcesvn = min(pcesvn, draw(st.sampled_from([14, 13, 13, 5])))
        rows.append(_row(sgx, tdx, pcesvn, draw(PLATFORM), draw(ADVISORIES)))
    rows.append(_row(bytes(16), bytes(16), 0, draw(PLATFORM), draw(ADVISORIES)))
    return list({json.dumps(row["tcb"]): row for row in reversed(rows)}.values())[::-1]


def _row(sgx: bytes, tdx: bytes, pcesvn: int, status: str, names: list[str]) -> dict[str, Any]:
    return {
        "tcb": {
            "sgxtcbcomponents": [{"svn": n} for n in sgx],
            "pcesvn": pcesvn,
            "tdxtcbcomponents": [{"svn": n} for n in tdx],
        },
        "tcbDate": "2025-01-01T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": names,
    }


def of_version(newest: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows for a module or an enclave of about this version."""

    def row(isvsvn: int, status: str, names: list[str]) -> dict[str, Any]:
        date = "2025-01-01T00:00:00Z"
        tcb = {"isvsvn": isvsvn}
        return {"tcb": tcb, "tcbDate": date, "tcbStatus": status, "advisoryIDs": names}

    versions = st.sampled_from([0, max(newest - 1, 0), newest, newest + 1])
    rows = st.builds(row, versions, PART, ADVISORIES)
    every = st.lists(rows, min_size=1, max_size=3, unique_by=lambda row: row["tcb"]["isvsvn"])
    return every.map(lambda rows: sorted(rows, key=lambda row: -row["tcb"]["isvsvn"]))


SVN = st.builds(
    lambda version, number, microcode: bytes((version, number, microcode)) + bytes(13),
    *(st.sampled_from([1, 5, 7]), st.sampled_from([0, 1, 1, 1, 1, 2]), st.sampled_from([2, 3])),
)


@given(st.data(), SVN, st.booleans(), st.sampled_from([1, 6, 8]))
@settings(max_examples=150, deadline=None)
def test_of_documents_of_any_kind_both_say_the_same(
    data: st.DataObject, svn: bytes, relaunched: bool, isvsvn: int
) -> None:
    vendor = intel()
    module = dict(tdx_documents.tcb_info(NOW)["tdxModuleIdentities"][0])
    module["tcbLevels"] = data.draw(of_version(svn[0]))
    info = vendor.tcb_info(NOW, tcbLevels=data.draw(levels(svn)), tdxModuleIdentities=[module])
    identity = vendor.qe_identity(NOW, tcbLevels=data.draw(of_version(isvsvn)))
    given_to_us = endorsements(tcb_info=info, qe_identity=identity)

    def quoted(svn: bytes, **more: Any) -> bytes:
        qe = QeFields(isvsvn=isvsvn)
        return vendor.quote(REPORT_DATA, qe=qe, tee_tcb_svn=svn, **more)

    def we_say(quote: bytes) -> tuple[str, list[str]]:
        try:
            found = verify_ours(quote, given_to_us)
        except AttestationError:
            return "refused", []
        return found.assessment.status.value, list(found.assessment.advisories)

    now = data.draw(near(svn, 1)) if relaunched else svn
    quote = quoted(svn, tee_tcb_svn2=now, mrservicetd=bytes(48)) if relaunched else quoted(svn)
    ours = we_say(quote)
    if ours[0] == "Revoked":  # the peer refuses at once; we leave it to the policy, which does
        ours = "refused", []
    files = {
        "tcb_info": info,
        "qe_identity": identity,
        "signing_chain": vendor.signing_chain(),
        "pck_crl": vendor.pck_crl(NOW),
        "root_crl": vendor.root_crl(NOW),
    }
    root = vendor.root.public_bytes(Encoding.DER)
    try:
        found = dcap_qvl.verify_with_root_ca(
            quote, peer.collateral(files, quote), root, int(NOW.timestamp())
        )
        theirs = found.status, sorted(found.advisory_ids)
    except ValueError:
        theirs = "refused", []
    if ours != theirs:  # where the machine has become worse since the launch, which counts here
        assert relaunched
        assert we_say(quoted(now))[0] in WORSE
        assert ours[0] == "refused" or set(theirs[1]) <= set(ours[1])
