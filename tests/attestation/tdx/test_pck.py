"""Intel's extensions of PCK certificates, against real ones and bent."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError
from attestation.tdx.abi import Quote
from attestation.tdx.chain import Chain
from attestation.tdx.pck import PckExtensions


def extensions_of(quote: Quote) -> bytes:
    found = Chain.parse(quote.pck_chain).leaf.sgx_extensions
    assert found is not None
    return found


@pytest.fixture(scope="module")
def rows(vectors: Path) -> list[dict[str, Any]]:
    found = json.loads((vectors / "tdx" / "quotes.json").read_text())
    return [row for row in found if "fmspc" in row]


@pytest.fixture(scope="module")
def der(vectors: Path, rows: list[dict[str, Any]]) -> bytes:
    data = (vectors / "tdx" / "quotes" / f"{rows[0]['h']}.bin").read_bytes()
    return extensions_of(Quote.parse(data))


def test_every_real_pck_certificate_says_what_was_decoded_independently(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    assert len(rows) > 25
    for row in rows:
        quote = Quote.parse((vectors / "tdx" / "quotes" / f"{row['h']}.bin").read_bytes())
        pck = PckExtensions.decode(extensions_of(quote))
        assert pck.fmspc.hex() == row["fmspc"].lower()
        assert pck.pceid.hex() == row["pceid"].lower()
        assert pck.pcesvn == row["pcesvn"]
        assert pck.cpusvn.hex() == row["cpusvn"]
        assert pck.sgx_type == row["sgxtype"]
        assert len(pck.components) == 16


def test_another_certificate_has_none(vectors: Path, rows: list[dict[str, Any]]) -> None:
    data = (vectors / "tdx" / "quotes" / f"{rows[0]['h']}.bin").read_bytes()
    _, *above = Chain.parse(Quote.parse(data).pck_chain).certificates
    assert [certificate.sgx_extensions for certificate in above] == [None, None]


def test_what_is_cut_or_longer_is_refused(der: bytes) -> None:
    PckExtensions.decode(der)
    for size in range(len(der)):
        with pytest.raises(MalformedError):
            PckExtensions.decode(der[:size])
    with pytest.raises(MalformedError):
        PckExtensions.decode(der + b"\0")


def test_no_byte_of_its_structure_can_be_changed_without_changing_what_is_read(der: bytes) -> None:
    good = PckExtensions.decode(der)
    same = 0
    for offset in range(len(der)):
        bent = bytearray(der)
        bent[offset] ^= 1
        try:
            same += PckExtensions.decode(bytes(bent)) == good
        except MalformedError:
            continue
    # Only the optional configuration (dynamic platform, cached keys, SMT) is not read.
    assert same < 80


@given(st.binary(max_size=300))
def test_any_bytes_end_in_our_own_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        PckExtensions.decode(data)


@given(st.data())
def test_bent_bytes_end_in_a_value_or_our_own_error(der: bytes, data: st.DataObject) -> None:
    bent = bytearray(der)
    for _ in range(data.draw(st.integers(1, 6))):
        bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MalformedError):
        PckExtensions.decode(bytes(bent))
