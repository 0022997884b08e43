"""The quote's layout, against real quotes and against every way to bend it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AttestationError, MalformedError, UncheckableError
from attestation.tdx.abi import MAX_QUOTE_SIZE, Quote


@pytest.fixture(scope="session")
def known(vectors: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors / "tdx" / "quotes.json").read_text())
    return found


def read(vectors: Path, name: str) -> bytes:
    return (vectors / "tdx" / "quotes" / f"{name}.bin").read_bytes()


def a_quote(vectors: Path, version: int) -> bytes:
    found = sorted((vectors / "tdx" / "quotes").iterdir())
    return next(d for p in found if (d := p.read_bytes())[0] == version)


def code_of(data: bytes) -> str:
    with pytest.raises(AttestationError) as caught:
        Quote.parse(data)
    return caught.value.code


def test_every_field_of_every_real_quote_is_what_was_decoded_independently(
    vectors: Path, known: list[dict[str, Any]]
) -> None:
    seen = set()
    for row in known:
        quote = Quote.parse(read(vectors, row["h"]))
        td = quote.report
        seen.add((quote.header.version, td.tee_tcb_svn2 is not None))
        assert quote.header.version == row["v"]
        assert td.tee_tcb_svn.hex() == row["svn"]
        assert td.mrseam.hex() == row["mrseam"]
        assert td.mrsignerseam.hex() == row["mrsignerseam"]
        assert td.seam_attributes.hex() == row["seamattr"]
        assert td.td_attributes.to_bytes(8, "little").hex() == row["attr"]
        assert td.xfam.to_bytes(8, "little").hex() == row["xfam"]
        assert td.mrtd.hex() == row["mrtd"]
        assert td.mrconfigid.hex() == row["mrconfig"]
        assert td.mrowner.hex() == row["mrowner"]
        assert td.mrownerconfig.hex() == row["mrownercfg"]
        assert [register.hex() for register in td.rtmr] == row["rtmr"]
        assert td.report_data.hex() == row["rd"]
        assert (td.tee_tcb_svn2.hex() if td.tee_tcb_svn2 else None) == row["svn2"]
        assert (td.mrservicetd.hex() if td.mrservicetd else None) == row["mrservicetd"]
        assert len(quote.qe_auth_data) == row["authlen"]
        if "qe_isvsvn" in row:  # the one with another PCK chain was not decoded further
            assert quote.qe_report.isvsvn == row["qe_isvsvn"]
            assert quote.qe_report.isvprodid == row["qe_isvprodid"]
            assert quote.qe_report.mrsigner.hex() == row["qe_mrsigner"]
        assert quote.pck_chain.count(b"-----BEGIN CERTIFICATE-----") == row["ncerts"]
    assert seen >= {(4, False), (5, True)}


def test_what_is_signed_is_what_the_attestation_key_signed(
    vectors: Path, known: list[dict[str, Any]]
) -> None:
    for row in known:
        quote = Quote.parse(read(vectors, row["h"]))
        key = ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256R1(), b"\x04" + quote.attestation_key
        )
        r, s = (int.from_bytes(quote.signature[i : i + 32], "big") for i in (0, 32))
        assert row["sig_ok"]
        key.verify(encode_dss_signature(r, s), quote.signed, ec.ECDSA(hashes.SHA256()))
        bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
        assert (quote.qe_report.report_data == bound) is row["qebind"]


@pytest.mark.parametrize("version", [4, 5])
def test_padding_changes_neither_the_fields_nor_the_identity(vectors: Path, version: int) -> None:
    data = a_quote(vectors, version)
    assert Quote.parse(data + b"padding") == Quote.parse(data)
    assert Quote.parse(data + bytes(5000)).identity == Quote.parse(data).identity


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_that_is_cut_anywhere_is_refused(vectors: Path, version: int) -> None:
    data = a_quote(vectors, version)
    at = 48 + 584 if version == 4 else 54 + int.from_bytes(data[50:54], "little")
    end = at + 4 + int.from_bytes(data[at : at + 4], "little")
    Quote.parse(data[:end])
    for size in range(end):
        assert code_of(data[:size]) == "tdx.quote.length"


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (0, b"\x03", "tdx.quote.version"),
        (0, b"\x06", "tdx.quote.version"),
        (2, b"\x03", "tdx.quote.unsupported"),
        (2, b"\x04", "tdx.quote.key_type"),
        (4, b"\x00", "tdx.quote.unsupported"),
        (4, b"\x82", "tdx.quote.tee_type"),
        (12, b"\x00", "tdx.quote.vendor"),
        (48 + 584 + 4 + 128, b"\x05", "tdx.quote.unsupported"),
        (48 + 584, b"\xff\xff\xff\xff", "tdx.quote.length"),
        (48 + 584, b"\x00\x00\x00\x00", "tdx.quote.length"),
        (48 + 584 + 4 + 130, b"\xff\xff\xff\xff", "tdx.quote.length"),
    ],
)
def test_each_structural_rule_of_version_4(
    vectors: Path, offset: int, value: bytes, code: str
) -> None:
    data = a_quote(vectors, 4)
    assert code_of(data[:offset] + value + data[offset + len(value) :]) == code


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (48, b"\x01\x00", "tdx.quote.unsupported"),
        (48, b"\x04\x00", "tdx.quote.unsupported"),
        (50, b"\xff\xff\xff\xff", "tdx.quote.length"),
        (50, b"\x00\x00\x00\x00", "tdx.quote.length"),
    ],
)
def test_each_structural_rule_of_version_5(
    vectors: Path, offset: int, value: bytes, code: str
) -> None:
    data = a_quote(vectors, 5)
    assert code_of(data[:offset] + value + data[offset + len(value) :]) == code


def test_a_quote_that_is_too_large_is_not_read() -> None:
    assert code_of(bytes(MAX_QUOTE_SIZE + 1)) == "tdx.quote.length"


@pytest.mark.parametrize(("version", "at"), [(4, 48 + 120), (5, 54 + 120)])
def test_debug_is_any_bit_of_the_first_byte_of_the_attributes(
    vectors: Path, version: int, at: int
) -> None:
    data = bytearray(a_quote(vectors, version))
    assert not Quote.parse(bytes(data)).report.debug
    for bit in range(8):
        data[at] = 1 << bit
        assert Quote.parse(bytes(data)).report.debug


@given(st.binary(max_size=1500))
def test_any_bytes_end_in_our_own_error(data: bytes) -> None:
    with pytest.raises((MalformedError, UncheckableError)):
        Quote.parse(data)


@given(st.data())
def test_a_bent_quote_ends_in_a_quote_or_our_own_error(vectors: Path, data: st.DataObject) -> None:
    real = bytearray(a_quote(vectors, data.draw(st.sampled_from([4, 5]))))
    for _ in range(data.draw(st.integers(1, 6))):
        real[data.draw(st.integers(0, len(real) - 1))] = data.draw(st.integers(0, 255))
    with suppress(AttestationError):
        Quote.parse(bytes(real))
