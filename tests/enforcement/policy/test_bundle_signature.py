"""Signed bundles: who demands a signature gets one, or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from attestation import cbor
from attestation.cose import sign1, thumbprint
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.policy.bundle_files import bundle_digest, read_files
from enforcement.policy.bundle_signature import (
    MAX_SIGNATURE,
    TYP,
    KeyFileError,
    Trust,
    read_private_key,
    read_public_key,
    sign_bundle,
)
from tests.enforcement.bundles import write

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
DEMANDED = Trust.of([KEY.public_key()], required=True)
WELCOME = Trust.of([KEY.public_key()], required=False)

Sign = Callable[[bytes], bytes]


def signed(
    digest: bytes,
    *,
    key: ec.EllipticCurvePrivateKey = KEY,
    kid: object = thumbprint(KEY.public_key()),
    typ: str = TYP,
    payload: object = None,
) -> bytes:
    protected: dict[int, object] = {1: -7, 16: typ}
    if kid is not None:
        protected[4] = kid
    content = ["lucid.policy-bundle", 1, digest] if payload is None else payload
    return sign1(cbor.encode(content), key, protected=protected)


def refused(folder: Path, trust: Trust) -> str:
    """The rule by which a bundle is refused for its signature alone."""
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder, trust=trust)
    [problem] = caught.value.problems
    assert problem.file == "bundle.sig"
    return problem.rule


def test_a_signed_bundle_names_its_signer(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "bundle.sig").write_bytes(sign_bundle(read_files(folder), KEY))
    for trust in (DEMANDED, WELCOME):
        assert Bundle.load(folder, trust=trust).signer == thumbprint(KEY.public_key())


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_each_curve_signs(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    folder = write(tmp_path)
    (folder / "bundle.sig").write_bytes(sign_bundle(read_files(folder), key))
    trust = Trust.of([OTHER.public_key(), key.public_key()], required=True)
    assert Bundle.load(folder, trust=trust).signer == thumbprint(key.public_key())


def test_the_signature_is_not_part_of_the_digest_it_is_over(tmp_path: Path) -> None:
    folder = write(tmp_path)
    before = Bundle.load(folder).digest
    (folder / "bundle.sig").write_bytes(sign_bundle(read_files(folder), KEY))
    assert Bundle.load(folder).digest == before


def test_a_missing_signature_is_an_error_where_one_is_demanded(tmp_path: Path) -> None:
    assert refused(write(tmp_path), DEMANDED) == "signature.missing"
    assert Bundle.load(tmp_path, trust=WELCOME).signer is None


def test_demanding_signatures_without_a_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="no key is trusted"):
        Trust.of([], required=True)


def test_without_trusted_keys_a_signature_is_not_taken_for_checked(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "bundle.sig").write_bytes(b"anything")
    assert Bundle.load(folder).signer is None


@pytest.mark.parametrize(
    ("sign", "rule"),
    [
        (lambda digest: signed(digest, key=OTHER), "signature.wrong"),
        (
            lambda digest: signed(digest, key=OTHER, kid=thumbprint(OTHER.public_key())),
            "signature.key",
        ),
        (lambda digest: signed(digest, kid=None), "signature.malformed"),
        (lambda digest: signed(digest, kid="text"), "signature.malformed"),
        (lambda digest: signed(digest, kid=b""), "signature.key"),
        (lambda digest: signed(digest, typ="application/eat+cwt"), "signature.malformed"),
        (lambda _: signed(bytes(32)), "signature.digest"),
        (lambda digest: signed(digest, payload=digest), "signature.digest"),
        (
            lambda digest: signed(digest, payload=["lucid.policy-bundle", 2, digest]),
            "signature.digest",
        ),
        (lambda _: b"", "signature.wrong"),
        (lambda _: b"\xd2\x84", "signature.wrong"),
        (lambda digest: signed(digest)[:-1], "signature.wrong"),
        (lambda digest: signed(digest) + b"\x00", "signature.wrong"),
        (lambda _: bytes(MAX_SIGNATURE + 1), "signature.malformed"),
    ],
)
@pytest.mark.parametrize("trust", [DEMANDED, WELCOME])
def test_a_wrong_signature_is_an_error_even_where_none_is_demanded(
    tmp_path: Path, sign: Sign, rule: str, trust: Trust
) -> None:
    folder = write(tmp_path)
    (folder / "bundle.sig").write_bytes(sign(bundle_digest(read_files(folder))))
    assert refused(folder, trust) == rule


def test_every_byte_of_a_signature_counts(tmp_path: Path) -> None:
    folder = write(tmp_path)
    good = sign_bundle(read_files(folder), KEY)
    for place in range(len(good)):
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        (folder / "bundle.sig").write_bytes(bad)
        with pytest.raises(BundleError):
            Bundle.load(folder, trust=DEMANDED)


def test_a_change_after_signing_is_refused_before_anything_is_parsed(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "bundle.sig").write_bytes(sign_bundle(read_files(folder), KEY))
    write(tmp_path, "this is no policy at all")
    assert refused(folder, DEMANDED) == "signature.digest"


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> tuple[bytes, bytes]:
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def test_keys_are_read_from_pem(tmp_path: Path) -> None:
    private, public = pem(KEY)
    (tmp_path / "k.pem").write_bytes(private)
    (tmp_path / "p.pem").write_bytes(public)
    assert thumbprint(read_private_key(tmp_path / "k.pem").public_key()) == thumbprint(
        read_public_key(tmp_path / "p.pem")
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"".join(pem(ed25519.Ed25519PrivateKey.generate())),
        b"".join(pem(ec.generate_private_key(ec.SECP256K1()))),
    ],
)
def test_what_is_no_usable_key_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    for read in (read_public_key, read_private_key):
        with pytest.raises(KeyFileError, match=r"key\.pem: not a"):
            read(path)
        with pytest.raises(KeyFileError, match=r"absent\.pem: cannot be read: No such file"):
            read(tmp_path / "absent.pem")
