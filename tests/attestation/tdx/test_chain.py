"""The PCK chain of real quotes: accepted in its window, refused outside, bent, or mixed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.errors import AttestationError, MalformedError, VerificationError
from attestation.simulated.tdx import SimulatedIntel
from attestation.tdx import chain as chains
from attestation.tdx.abi import Quote
from attestation.tdx.certs import Certificate
from attestation.tdx.chain import Chain
from attestation.tdx.names import INTEL, simulated
from tests.attestation.tdx.synthetic import intel

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def rows(vectors: Path) -> list[dict[str, Any]]:
    found = json.loads((vectors / "tdx" / "quotes.json").read_text())
    return [row for row in found if "fmspc" in row]


def read(vectors: Path, row: dict[str, Any]) -> Chain:
    data = (vectors / "tdx" / "quotes" / f"{row['h']}.bin").read_bytes()
    return Chain.parse(Quote.parse(data).pck_chain)


def check(chain: Chain, now: datetime) -> None:
    chains.check_root(chain)
    chains.check_names(chain)
    chains.check_constraints(chain)
    chains.check_validity(chain, now)
    chains.check_signatures(chain)


def code_of(chain: Chain, now: datetime) -> str:
    with pytest.raises(VerificationError) as caught:
        check(chain, now)
    return caught.value.code


def start_of(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["pck_nb"])


def pem(*certificates: Certificate) -> bytes:
    return b"".join(block(certificate.der) for certificate in certificates)


def block(der: bytes) -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


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
        end = chain.window[1]
        check(chain, end)
        assert code_of(chain, end + SECOND) == "tdx.chain.validity"


def test_a_root_that_is_not_intels_is_accepted_only_where_it_is_pinned(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    chain = read(vectors, rows[0])
    chains.check_root(chain, simulated({chain.root.spki_sha256}))
    for roots in (set[bytes](), {bytes(32)}):
        with pytest.raises(VerificationError) as caught:
            chains.check_root(chain, simulated(roots))
        assert caught.value.code == "tdx.chain.root_pinned"


def test_certificates_in_another_order_or_number_are_refused(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    leaf, ica, root = read(vectors, rows[0]).certificates
    now = start_of(rows[0])
    for order in ((ica, leaf, root), (leaf, root, ica), (leaf, leaf, root), (leaf, root, root)):
        with pytest.raises(VerificationError):
            check(Chain.parse(pem(*order)), now)
    for number in ((), (leaf,), (leaf, ica), (leaf, ica, root, root)):
        with pytest.raises(MalformedError):
            Chain.parse(pem(*number))


def test_the_right_common_names_of_another_organization_are_refused() -> None:
    of = intel()
    chain = Chain.parse(b"".join(c.public_bytes(Encoding.PEM) for c in (of.pck, of.ca, of.root)))
    chains.check_names(chain, of.vendor)
    for organization in ({NameOID.ORGANIZATION_NAME: "Somebody"}, INTEL.organization):
        with pytest.raises(VerificationError) as caught:
            chains.check_names(chain, replace(of.vendor, organization=organization))
        assert caught.value.code == "tdx.chain.names"


def reissued(
    of: SimulatedIntel,
    which: str,
    *,
    is_ca: bool | None = None,
    certifies: bool | None = None,
    more: tuple[x509.ExtensionType, ...] = (),
) -> Chain:
    """The chain with one certificate issued anew, with other rights or more that is critical."""
    old = {"pck": of.pck, "ca": of.ca}[which]
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and is_ca is not None:
            value = x509.BasicConstraints(ca=is_ca, path_length=None)
        if isinstance(value, x509.KeyUsage) and certifies is not None:
            value = x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=certifies,
                crl_sign=False, encipher_only=False, decipher_only=False,
            )  # fmt: skip
        builder = builder.add_extension(value, critical=extension.critical)
    for value in more:
        builder = builder.add_extension(value, critical=True)
    new = builder.sign(of.ca_key if which == "pck" else of.root_key, hashes.SHA256())
    certificates = (new, of.ca, of.root) if which == "pck" else (of.pck, new, of.root)
    return Chain.parse(b"".join(c.public_bytes(Encoding.PEM) for c in certificates))


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("pck", {"is_ca": True}),
        ("pck", {"certifies": True}),
        ("ca", {"is_ca": False}),
        ("ca", {"certifies": False}),
        ("pck", {"more": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"),)}),
        ("ca", {"more": (x509.InhibitAnyPolicy(0),)}),
    ],
)
def test_each_right_counts_by_itself_and_so_does_what_is_critical(
    which: str, changes: dict[str, Any]
) -> None:
    of, now = intel(), datetime(2026, 11, 1, 12, tzinfo=UTC)
    chains.check_chain(reissued(of, which), of.vendor, now)
    with pytest.raises(VerificationError) as caught:
        chains.check_chain(reissued(of, which, **changes), of.vendor, now)
    assert caught.value.code == "tdx.chain.constraints"


def test_nothing_stands_around_the_certificates(vectors: Path, rows: list[dict[str, Any]]) -> None:
    good = pem(*read(vectors, rows[0]).certificates)
    Chain.parse(good + b"\0\0")
    first = good.index(b"-----BEGIN", 1)
    for data in (b"x" + good, good + b"x", good[:first] + b"x" + good[first:], good + b"\0x"):
        with pytest.raises(MalformedError) as caught:
            Chain.parse(data)
        assert caught.value.code == "tdx.chain.format"


def test_a_leaf_under_an_intermediate_of_the_same_name_is_refused() -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    one, other = SimulatedIntel.create(now=now), SimulatedIntel.create(now=now)

    def chain(leaf: x509.Certificate) -> Chain:
        ders = [each.public_bytes(Encoding.DER) for each in (leaf, other.ca, other.root)]
        return Chain.parse(b"".join(map(block, ders)))

    chains.check_chain(chain(other.pck), other.vendor, now)
    with pytest.raises(VerificationError) as caught:
        chains.check_chain(chain(one.pck), other.vendor, now)
    assert caught.value.code == "tdx.chain.signatures"


@pytest.mark.parametrize("part", [0, 1])
def test_no_byte_of_a_certificate_can_be_changed(
    vectors: Path, rows: list[dict[str, Any]], part: int
) -> None:
    chain, now = read(vectors, rows[0]), start_of(rows[0])
    assert bent(chain, part, now) == []


def test_what_can_be_changed_in_the_roots_certificate_means_nothing(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    chain, now = read(vectors, rows[0]), start_of(rows[0])
    accepted = bent(chain, 2, now)
    assert accepted  # its own signature, for example: nothing but the key is trusted
    for other in accepted:
        assert other.root.key == chain.root.key
        assert other.certificates[:2] == chain.certificates[:2]
        assert other.window[1] <= chain.window[1]


def bent(chain: Chain, part: int, now: datetime) -> list[Chain]:
    """The chains that are accepted with one bit of a certificate changed, for every byte."""
    parts = [pem(certificate) for certificate in chain.certificates]
    der = chain.certificates[part].der
    accepted = []
    for offset in range(len(der)):
        changed = bytearray(der)
        changed[offset] ^= 1 << offset % 8
        parts[part] = block(bytes(changed))
        try:
            found = Chain.parse(b"".join(parts))
            check(found, now)
        except AttestationError:
            continue
        accepted.append(found)
    return accepted


def test_what_follows_the_chain_as_zero_bytes_is_ignored(
    vectors: Path, rows: list[dict[str, Any]]
) -> None:
    chain = read(vectors, rows[0])
    check(Chain.parse(pem(*chain.certificates) + bytes(3)), start_of(rows[0]))


@pytest.mark.parametrize("place", range(3))
def test_a_serial_number_that_no_list_can_name_is_refused(place: int) -> None:
    of = SimulatedIntel.create(now=datetime(2026, 11, 1, tzinfo=UTC))
    ders = [each.public_bytes(Encoding.DER) for each in (of.pck, of.ca, of.root)]
    Chain.parse(b"".join(map(block, ders)))
    for first in (0x80, 0xFF):
        bent = bytearray(ders[place])
        bent[15] = first  # after two SEQUENCEs of 4 bytes, the version, and the INTEGER's header
        with pytest.raises(MalformedError, match="serial"):
            Chain.parse(b"".join(map(block, [*ders[:place], bytes(bent), *ders[place + 1 :]])))


@pytest.mark.parametrize("data", [b"", b"x", bytes(40_000), b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_chain_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Chain.parse(data)
