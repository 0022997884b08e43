"""Status, date and advisories of real platforms, as Intel's algorithm gives them."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError, VerificationError
from attestation.tdx.abi import Quote
from attestation.tdx.collateral import QeIdentity, TcbInfo, TcbStatus
from attestation.tdx.pck import PckExtensions
from attestation.tdx.tcb import (
    Assessment,
    assess,
    check_enclave,
    check_module,
    check_platform,
    converge,
    relaunch,
)
from tests.attestation.tdx.test_pck import extensions_of

S = TcbStatus


@pytest.fixture(scope="module")
def cases(vectors: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors / "tdx" / "cases.json").read_text())
    return found


@cache
def quote_of(vectors: Path, name: str) -> tuple[Quote, PckExtensions]:
    quote = Quote.parse((vectors / "tdx" / "quotes" / f"{name}.bin").read_bytes())
    return quote, PckExtensions.decode(extensions_of(quote))


def document(vectors: Path, kind: str, name: str) -> bytes:
    return (vectors / "tdx" / "collateral" / f"{kind}_{name}.json").read_bytes()


def judge(vectors: Path, case: dict[str, Any]) -> Assessment:
    quote, pck = quote_of(vectors, case["quote"])
    return assess(
        quote.report,
        quote.qe_report,
        pck,
        TcbInfo.parse(document(vectors, "tcb", case["tcb"])),
        QeIdentity.parse(document(vectors, "qe", case["qe"])),
    )


def test_every_case_has_the_status_date_and_advisories_of_intels_algorithm(
    vectors: Path, cases: list[dict[str, Any]]
) -> None:
    seen: Counter[str] = Counter()
    for case in cases:
        wanted = case["intel_algo"]
        seen[wanted["status"]] += 1
        if wanted["status"] == "NotSupported":
            with pytest.raises(VerificationError) as caught:
                judge(vectors, case)
            assert caught.value.code == "tdx.tcb.level"
            continue
        found = judge(vectors, case)
        assert found.status == wanted["status"]
        assert list(found.advisories) == sorted(set(wanted["adv"]))  # a union
        assert found.date == datetime.fromisoformat(wanted["tcbDate"])
    assert len(cases) == seen.total() == 161
    assert len(seen) == 3


def test_documents_of_another_platform_are_refused(
    vectors: Path, cases: list[dict[str, Any]]
) -> None:
    refused = 0
    for case in cases:
        _, pck = quote_of(vectors, case["quote"])
        for other in cases[::20]:
            info = TcbInfo.parse(document(vectors, "tcb", other["tcb"]))
            if info.fmspc != pck.fmspc:
                with pytest.raises(VerificationError) as caught:
                    check_platform(pck, info)
                assert caught.value.code == "tdx.tcb.platform"
                refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("platform", "part", "together"),
    [
        (S.UP_TO_DATE, S.UP_TO_DATE, S.UP_TO_DATE),
        (S.UP_TO_DATE, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.SW_HARDENING_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.CONFIGURATION_NEEDED, S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (
            S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
            S.OUT_OF_DATE,
            S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        ),
        (S.OUT_OF_DATE, S.UP_TO_DATE, S.OUT_OF_DATE),
        (S.UP_TO_DATE, S.REVOKED, S.REVOKED),
        (S.REVOKED, S.UP_TO_DATE, S.REVOKED),
        (S.REVOKED, S.OUT_OF_DATE, S.REVOKED),
        # Words that Intel's library knows for quoting enclaves, and gives no weight.
        (S.UP_TO_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED, S.OUT_OF_DATE),
        (S.UP_TO_DATE, S.CONFIGURATION_NEEDED, S.OUT_OF_DATE),
        (S.CONFIGURATION_NEEDED, S.CONFIGURATION_NEEDED, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
    ],
)
def test_an_old_or_revoked_part_makes_the_whole_so(
    platform: TcbStatus, part: TcbStatus, together: TcbStatus
) -> None:
    assert converge(platform, [part]) is together
    assert converge(platform, [S.UP_TO_DATE, part]) is together


@pytest.mark.parametrize("launch", list(S))
@pytest.mark.parametrize("current", list(S))
def test_a_launch_that_was_out_of_date_is_advised_again_where_the_machine_no_longer_is(
    launch: TcbStatus, current: TcbStatus
) -> None:
    mended = {
        S.UP_TO_DATE: S.TD_RELAUNCH_ADVISED,
        S.SW_HARDENING_NEEDED: S.TD_RELAUNCH_ADVISED,
        S.CONFIGURATION_NEEDED: S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
        S.CONFIGURATION_AND_SW_HARDENING_NEEDED: S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    }
    wanted = launch
    if current in mended and launch is S.OUT_OF_DATE:
        wanted = mended[current]
    if current in mended and launch is S.OUT_OF_DATE_CONFIGURATION_NEEDED:
        wanted = S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    # A machine that is worse now than at the launch: Intel's library says what it was then.
    if current in {S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED, S.REVOKED}:
        wanted = converge(launch, [current])
    assert relaunch(launch, current) is wanted


def test_the_levels_of_now_are_judged_beside_those_of_the_launch(
    vectors: Path, cases: list[dict[str, Any]]
) -> None:
    case = next(c for c in cases if c["quote"] == "cf77a6e91e48291d")
    quote, pck = quote_of(vectors, case["quote"])
    info = TcbInfo.parse(document(vectors, "tcb", case["tcb"]))
    identity = QeIdentity.parse(document(vectors, "qe", case["qe"]))
    now = quote.report.tee_tcb_svn2
    assert now is not None
    assert now != quote.report.tee_tcb_svn

    def status(**svns: Any) -> TcbStatus:
        report = replace(quote.report, **svns)
        return assess(report, quote.qe_report, pck, info, identity).status

    (module,) = (module for module in info.modules if module.number == now[1])
    lower = next(level for level in module.levels if level.status is S.OUT_OF_DATE)
    old = bytes((lower.isvsvn,)) + now[1:]  # a module that was mended since
    assert status() is S.UP_TO_DATE
    assert status(tee_tcb_svn=old) is S.TD_RELAUNCH_ADVISED
    assert status(tee_tcb_svn=old, tee_tcb_svn2=old) is S.OUT_OF_DATE
    assert status(tee_tcb_svn2=old) is S.OUT_OF_DATE  # whoever brought the old module back
    with pytest.raises(VerificationError):  # levels of now that nothing is known of
        status(tee_tcb_svn2=bytes(16))


def test_a_module_is_looked_up_by_its_number_in_hexadecimal(
    vectors: Path, cases: list[dict[str, Any]]
) -> None:
    """Decimal and hexadecimal part from module 10 on."""
    case = next(c for c in cases if c["intel_algo"]["status"] == "UpToDate")
    quote, _ = quote_of(vectors, case["quote"])
    report = replace(quote.report, tee_tcb_svn=bytes((5, 10)) + quote.report.tee_tcb_svn[2:])
    data = document(vectors, "tcb", case["tcb"])
    assert b'"TDX_01"' in data
    named = {
        name: TcbInfo.parse(data.replace(b'"TDX_01"', b'"%b"' % name))
        for name in (b"TDX_0A", b"TDX_0a", b"TDX_10")
    }
    for name in (b"TDX_0A", b"TDX_0a"):
        assert check_module(report, named[name])[0] == "TDX_0A, version 5"
    with pytest.raises(VerificationError) as caught:
        check_module(report, named[b"TDX_10"])
    assert caught.value.code == "tdx.module.identity"


@pytest.mark.parametrize(
    "change", [{"mrsignerseam": b"\1" * 48}, {"seam_attributes": b"\1" + bytes(7)}]
)
def test_a_module_that_is_not_intels_is_refused(
    vectors: Path, cases: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    case = next(c for c in cases if c["intel_algo"]["status"] == "UpToDate")
    quote, _ = quote_of(vectors, case["quote"])
    info = TcbInfo.parse(document(vectors, "tcb", case["tcb"]))
    check_module(quote.report, info)
    with pytest.raises(VerificationError) as caught:
        check_module(replace(quote.report, **change), info)
    assert caught.value.code == "tdx.module.identity"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mrsigner": bytes(32)}, "MRSIGNER"),
        ({"isvprodid": 1}, "ISVPRODID"),
        ({"miscselect": 1}, "MISCSELECT"),
        ({"attributes": b"\x13" + bytes(15)}, "attributes"),  # bit 1: a debug enclave
    ],
)
def test_a_quoting_enclave_that_is_not_intels_is_refused(
    vectors: Path, cases: list[dict[str, Any]], change: dict[str, Any], what: str
) -> None:
    quote, _ = quote_of(vectors, cases[0]["quote"])
    identity = QeIdentity.parse(document(vectors, "qe", cases[0]["qe"]))
    check_enclave(quote.qe_report, identity)
    with pytest.raises(VerificationError, match=what) as caught:
        check_enclave(replace(quote.qe_report, **change), identity)
    assert caught.value.code == "tdx.qe.identity"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"id":"TDX"', b'"id":"SGX"', "not TCB info"),
        (b'"version":3', b'"version":2', "not TCB info"),
        (b'"tcbType":0', b'"tcbType":1', "tcbType"),
        (b'"tcbStatus":"', b'"tcbStatus":"Very', "not known"),
        (b'"tcbStatus":"UpToDate"', b'"tcbStatus":"TDRelaunchAdvised"', "not known"),
        (b'"fmspc":"', b'"fmspc":"00', "hex of 6"),
        (b'"pcesvn":', b'"pcesvn":-', "between"),
        (b'"issueDate":"', b'"issueDate":"x', "time"),
        (b'{"tcbInfo":', b'{ "tcbInfo":', "not {"),
        (b'"id":"TDX",', b'"id":"TDX","id":"TDX",', "twice"),
        (b'"TDX_01"', b'"TDX_1"', "two hex digits"),
    ],
)
def test_a_document_that_is_not_as_it_should_be_is_refused(
    vectors: Path, old: bytes, new: bytes, says: str
) -> None:
    data = document(vectors, "tcb", "369f99a122169e85")
    assert old in data
    with pytest.raises(MalformedError, match=says):
        TcbInfo.parse(data.replace(old, new))


def test_one_document_is_not_taken_for_the_other(
    vectors: Path, cases: list[dict[str, Any]]
) -> None:
    with pytest.raises(MalformedError):
        TcbInfo.parse(document(vectors, "qe", cases[0]["qe"]))
    with pytest.raises(MalformedError):
        QeIdentity.parse(document(vectors, "tcb", cases[0]["tcb"]))


@given(st.data())
def test_a_bent_document_ends_in_our_own_error_or_is_read(
    vectors: Path, data: st.DataObject
) -> None:
    real = bytearray(document(vectors, "tcb", "369f99a122169e85"))
    for _ in range(data.draw(st.integers(1, 6))):
        real[data.draw(st.integers(0, len(real) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MalformedError):
        TcbInfo.parse(bytes(real))


@given(st.binary(max_size=200))
def test_any_bytes_end_in_our_own_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        TcbInfo.parse(data)
    with pytest.raises(MalformedError):
        QeIdentity.parse(b'{"enclaveIdentity":' + data)
