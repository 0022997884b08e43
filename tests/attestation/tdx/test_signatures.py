"""The signatures inside of real quotes, and every byte that they cover."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from attestation.errors import AttestationError, VerificationError
from attestation.tdx.abi import Quote
from attestation.tdx.chain import Chain
from attestation.tdx.signatures import (
    P256_ORDER,
    PublicKey,
    check_qe_binding,
    check_qe_signature,
    check_quote_signature,
)


@pytest.fixture(scope="module")
def rows(vectors: Path) -> list[dict[str, Any]]:
    found = json.loads((vectors / "tdx" / "quotes.json").read_text())
    return [row for row in found if "fmspc" in row]


def read(vectors: Path, name: str) -> Quote:
    return Quote.parse((vectors / "tdx" / "quotes" / f"{name}.bin").read_bytes())


def pck_of(quote: Quote) -> PublicKey:
    return Chain.parse(quote.pck_chain).leaf.key


def holds(quote: Quote, pck: PublicKey) -> bool:
    try:
        check_quote_signature(quote)
        check_qe_binding(quote)
        check_qe_signature(quote, pck)
    except VerificationError:
        return False
    return True


def test_real_quotes_hold_as_was_found_independently(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    for row in rows:
        quote = read(vectors, row["h"])
        wanted = row["sig_ok"] and row["qebind"] and row["qesig_ok"]
        assert holds(quote, pck_of(quote)) is wanted


@pytest.mark.parametrize("version", [4, 5])
def test_no_byte_that_is_signed_can_be_changed(
    vectors: Path, rows: list[dict[str, Any]], version: int
) -> None:
    name = next(row["h"] for row in rows if row["v"] == version)
    data = (vectors / "tdx" / "quotes" / f"{name}.bin").read_bytes()
    quote = Quote.parse(data)
    pck = pck_of(quote)
    assert holds(quote, pck)
    end = data.index(quote.qe_auth_data, len(quote.signed)) + len(quote.qe_auth_data)
    lengths = {*range(len(quote.signed), len(quote.signed) + 4)}  # unsigned, but must fit
    for offset in range(end):
        bent = bytearray(data)
        bent[offset] ^= 1 << offset % 8
        try:
            changed = Quote.parse(bytes(bent))
        except AttestationError:
            continue
        assert not holds(changed, pck) or offset in lengths, offset


def test_the_key_of_another_platform_did_not_sign(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    quote = read(vectors, rows[0]["h"])
    for row in rows[1:]:
        other = pck_of(read(vectors, row["h"]))
        if other != pck_of(quote):
            with pytest.raises(VerificationError) as caught:
                check_qe_signature(quote, other)
            assert caught.value.code == "tdx.qe.signature"


@pytest.mark.parametrize("r", [0, P256_ORDER, 2**256 - 1])
@pytest.mark.parametrize("first", [True, False])
def test_a_signature_out_of_range_is_refused(
    vectors: Path, rows: list[dict[str, Any]], r: int, first: bool
) -> None:
    quote = read(vectors, rows[0]["h"])
    bad, rest = r.to_bytes(32, "big"), quote.signature[:32]
    bent = replace(quote, signature=bad + rest if first else rest + bad)
    with pytest.raises(VerificationError, match="range"):
        check_quote_signature(bent)


def test_a_key_that_is_no_point_or_on_another_curve_is_refused(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    quote = read(vectors, rows[0]["h"])
    for key in (bytes(64), b"\xff" * 64, quote.attestation_key[:63] + b"\0"):
        with pytest.raises(VerificationError):
            check_quote_signature(replace(quote, attestation_key=key))
    for point in (bytes(65), b"\x04" + bytes(96), b""):
        with pytest.raises(ValueError, match=r"."):
            PublicKey(point)


def test_what_held_once_is_remembered_and_what_did_not_is_not(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    leaf, issuer, _ = Chain.parse(read(vectors, rows[0]["h"]).pck_chain).certificates
    for _ in range(2):
        issuer.key.holds(leaf.signature, leaf.signed)
        for signature, signed in ((leaf.signature[:-1], leaf.signed), (leaf.signature, b"other")):
            with pytest.raises(InvalidSignature):
                issuer.key.holds(signature, signed)
        with pytest.raises(InvalidSignature):
            leaf.key.holds(leaf.signature, leaf.signed)


def test_another_attestation_key_is_not_the_one_that_was_vouched_for(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    quote, other = read(vectors, rows[0]["h"]), read(vectors, rows[1]["h"])
    more = quote.qe_report.report_data[:32] + bytes(31) + b"\1"
    for bent in (
        replace(quote, attestation_key=other.attestation_key),
        replace(quote, qe_auth_data=quote.qe_auth_data + b"\0"),
        replace(quote, qe_report=replace(quote.qe_report, report_data=more)),
    ):
        with pytest.raises(VerificationError) as caught:
            check_qe_binding(bent)
        assert caught.value.code == "tdx.qe.binding"
