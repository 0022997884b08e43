"""The PCK chain of real quotes: accepted in its window, refused outside, bent, or mixed."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError, MalformedError, VerificationError
from attestation.tdx import chain as chains
from attestation.tdx.abi import Quote
from attestation.tdx.chain import PckChain

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def rows(vectors: Path) -> list[dict[str, Any]]:
    found = json.loads((vectors / "tdx" / "quotes.json").read_text())
    return [row for row in found if "fmspc" in row]


def read(vectors: Path, row: dict[str, Any]) -> PckChain:
    data = (vectors / "tdx" / "quotes" / f"{row['h']}.bin").read_bytes()
    return PckChain.parse(Quote.parse(data).pck_chain)


def check(chain: PckChain, now: datetime) -> None:
    chains.check_root(chain)
    chains.check_names(chain)
    chains.check_constraints(chain)
    chains.check_validity(chain, now)
    chains.check_signatures(chain)


def code_of(chain: PckChain, now: datetime) -> str:
    with pytest.raises(VerificationError) as caught:
        check(chain, now)
    return caught.value.code


def start_of(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["pck_nb"])


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def test_real_chains_hold_in_their_window_and_not_outside(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    for row in rows:
        chain, start = read(vectors, row), start_of(row)
        if not row["rootmatch"]:
            assert code_of(chain, start) == "tdx.chain.root_pinned"
            continue
        check(chain, start)
        assert code_of(chain, start - SECOND) == "tdx.chain.validity"
        end = min(c.not_valid_after_utc for c in chain.certificates)
        check(chain, end)
        assert code_of(chain, end + SECOND) == "tdx.chain.validity"


def test_a_root_that_is_not_intels_is_accepted_only_where_it_is_pinned(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    chain = read(vectors, rows[0])
    with pytest.raises(VerificationError):
        chains.check_root(chain, frozenset())
    with pytest.raises(VerificationError):
        chains.check_root(chain, frozenset({bytes(32)}))


def test_certificates_in_another_order_or_number_are_refused(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    leaf, ica, root = read(vectors, rows[0]).certificates
    now = start_of(rows[0])
    for order in ((ica, leaf, root), (leaf, root, ica), (leaf, leaf, root), (leaf, root, root)):
        with pytest.raises(VerificationError):
            check(PckChain.parse(pem(*order)), now)
    for number in ((), (leaf,), (leaf, ica), (leaf, ica, root, root)):
        with pytest.raises(MalformedError):
            PckChain.parse(pem(*number))


def test_a_leaf_under_another_intermediate_is_refused(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    first = read(vectors, rows[0])
    kinds = {row["ca"]: read(vectors, row) for row in rows if row["rootmatch"]}
    for row_ca, other in kinds.items():
        if row_ca != rows[0]["ca"]:
            mixed = PckChain.parse(pem(first.leaf, other.intermediate, other.root))
            with pytest.raises(VerificationError):
                check(mixed, start_of(rows[0]))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_no_byte_of_a_certificate_can_be_changed(
    vectors: Path, rows: list[dict[str, Any]], part: int
) -> None:
    chain, now = read(vectors, rows[0]), start_of(rows[0])
    parts = [pem(certificate) for certificate in chain.certificates]
    der = chain.certificates[part].public_bytes(Encoding.DER)
    accepted = []
    for offset in range(len(der)):
        bent = bytearray(der)
        bent[offset] ^= 1 << offset % 8
        parts[part] = (
            b"-----BEGIN CERTIFICATE-----\n"
            + base64.encodebytes(bytes(bent))
            + b"-----END CERTIFICATE-----\n"
        )
        try:
            check(PckChain.parse(b"".join(parts)), now)
        except AttestationError:
            continue
        accepted.append(offset)
    assert accepted == []


def test_what_follows_the_chain_as_zero_bytes_is_ignored(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    chain = read(vectors, rows[0])
    check(PckChain.parse(pem(*chain.certificates) + bytes(3)), start_of(rows[0]))


@pytest.mark.parametrize("data", [b"", b"x", bytes(40_000), b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_chain_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        PckChain.parse(data)
