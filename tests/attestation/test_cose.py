"""COSE_Sign1 against other people's vectors; every one that is not run is named with its reason."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from attestation import cbor, cose
from attestation.errors import AttestationError, MalformedError, VerificationError

# None of the Sign1 vectors is skipped but these. Not in FOLDERS: `hashsig` (HSS-LMS keys, which are
# not supported) and everything that is not a Sign1 (several signers, encryption, MACs).
SKIPPED = {
    "eddsa-examples/eddsa-sig-02.json": "an Ed448 key, which is not supported",
    "ecdsa-examples/ecdsa-sig-04.json": "ES512 with a P-256 key: an algorithm has its curve here",
}
# The algorithm is unprotected or the payload's form unusual: verified at the primitive layer, with
# the algorithm given by the caller, as profiles like ours never would.
WG = "cose-wg-examples"
FOLDERS = (
    "sign1-tests", "ecdsa-examples", "eddsa-examples", "rsa-pss-examples", "RFC8152", "CWT",
)  # fmt: skip
CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
ALGORITHMS = {
    "ES256": -7, "ES384": -35, "ES512": -36, "EdDSA": -8, "PS256": -37, "PS384": -38, "PS512": -39,
}  # fmt: skip


def number(text: str) -> int:
    return int.from_bytes(raw(text), "big")


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def public_key(key: dict[str, Any]) -> cose.PublicKey:
    def part(name: str) -> bytes:
        return bytes.fromhex(key[name + "_hex"]) if name + "_hex" in key else raw(key[name])

    match key["kty"]:
        case "EC":
            x, y = (int.from_bytes(part(name), "big") for name in ("x", "y"))
            return ec.EllipticCurvePublicNumbers(x, y, CURVES[key["crv"]]()).public_key()
        case "OKP":
            return ed25519.Ed25519PublicKey.from_public_bytes(part("x"))
        case "RSA":
            n, e = (int.from_bytes(part(name), "big") for name in ("n", "e"))
            return rsa.RSAPublicNumbers(e, n).public_key()
    raise AssertionError(key["kty"])


def wg_cases(vectors: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for folder in FOLDERS:
        for path in sorted((vectors / "cose" / WG / folder).glob("*.json")):
            case = json.loads(path.read_text(encoding="utf-8"))
            if "sign0" in case.get("input", {}):
                found[f"{folder}/{path.name}"] = case
    return found


def check(name: str, case: dict[str, Any]) -> bool:
    """True: the vector verifies (or is refused) as it says."""
    sign = case["input"]["sign0"]
    data = bytes.fromhex(case["output"]["cbor"])
    try:
        message = cose.Sign1.parse(data)
        alg = ALGORITHMS[sign["alg"]] if "alg" in sign else None
        given = alg if cose.ALG not in message.protected else None
        message.verify(
            public_key(sign["key"]),
            external_aad=bytes.fromhex(sign.get("external", "")),
            detached_payload=None
            if message.payload is not None
            else case["input"]["plaintext"].encode(),
            alg=given,
        )
    except AttestationError:
        return bool(case.get("fail"))
    return not case.get("fail")


def test_every_sign1_vector_of_the_cose_working_group(vectors: Path) -> None:
    cases = wg_cases(vectors)
    assert len(cases) == 17, "a vector has vanished or come"
    wrong = [n for n, case in cases.items() if n not in SKIPPED and not check(n, case)]
    assert wrong == []
    ran = [name for name in cases if name not in SKIPPED]
    assert {name.split("/")[0] for name in ran} == {
        "sign1-tests", "ecdsa-examples", "eddsa-examples", "RFC8152", "CWT",
    }  # fmt: skip


def test_every_gluecose_vector(vectors: Path) -> None:
    paths = sorted((vectors / "cose" / "gluecose").glob("sign1-*.json"))
    assert len(paths) == 14
    for path in paths:
        case = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "sign1-sign-0000.json":
            continue  # its key does not belong to its output
        if "sign1::verify" in case:
            body = case["sign1::verify"]
            data, expected = body["taggedCOSESign1"]["cborHex"], body["shouldVerify"]
        else:
            body = case["sign1::sign"]
            data, expected = body["expectedOutput"]["cborHex"], True
        message = cose.Sign1.parse(bytes.fromhex(data))
        aad = bytes.fromhex(body.get("external", ""))
        if expected:
            message.verify(public_key(case["key"]), external_aad=aad)
        else:
            with pytest.raises(VerificationError):
                message.verify(public_key(case["key"]), external_aad=aad)


KEY = ec.derive_private_key(7, ec.SECP256R1())
HEADER = {cose.ALG: cose.ES256}


def test_what_is_signed_verifies_and_nothing_else() -> None:
    data = cose.sign1(b"payload", KEY, protected=HEADER, external_aad=b"aad")
    message = cose.Sign1.parse(data)
    assert message.verify(KEY.public_key(), external_aad=b"aad") == b"payload"
    other = ec.derive_private_key(8, ec.SECP256R1()).public_key()
    for key, aad in ((KEY.public_key(), b""), (other, b"aad")):
        with pytest.raises(VerificationError):
            message.verify(key, external_aad=aad)
    with pytest.raises(VerificationError):
        message.verify(KEY.public_key(), external_aad=b"aad", detached_payload=b"payload")


def test_an_algorithm_that_is_not_protected_does_not_count() -> None:
    data = cose.sign1(b"p", KEY, protected=HEADER)
    parts = cose.Sign1.parse(data)
    assert parts.alg == cose.ES256
    bare = cbor.encode([b"", {1: -7}, b"p", parts.signature])
    with pytest.raises(VerificationError, match="no algorithm"):
        cose.Sign1.parse(bare).verify(KEY.public_key())


@pytest.mark.parametrize(
    ("alg", "code"),
    [
        (cose.ES384, "cose.key"),
        (cose.EDDSA, "cose.unsupported"),
        (cose.PS256, "cose.unsupported"),
        (-999, "cose.unsupported"),
        ("ES256", "cose.alg"),
    ],
)
def test_an_algorithm_that_is_not_the_keys_is_refused(alg: object, code: str) -> None:
    signature = cose.Sign1.parse(cose.sign1(b"p", KEY, protected=HEADER)).signature
    data = cbor.encode([cbor.encode({cose.ALG: alg}), {}, b"p", signature])
    with pytest.raises(AttestationError) as caught:
        cose.Sign1.parse(data).verify(KEY.public_key())
    assert caught.value.code == code


@pytest.mark.parametrize(("salt", "good"), [(32, True), (0, False), (20, False), (222, False)])
def test_a_pss_salt_has_the_length_of_its_digest(salt: int, good: bool) -> None:
    """RFC 8230 section 2; another length would be another signature of the same bytes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    protected = cbor.encode({cose.ALG: cose.PS256})
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt)
    signature = key.sign(cose.to_be_signed(protected, b"", b"p"), pss, hashes.SHA256())
    message = cose.Sign1.parse(cbor.encode([protected, {}, b"p", signature]))
    if good:
        message.verify(key.public_key())
    else:
        with pytest.raises(VerificationError, match="signature"):
            message.verify(key.public_key())


@pytest.mark.parametrize("where", ["protected", "unprotected"])
def test_critical_headers_are_refused_wherever_they_stand_though_the_signature_is_good(
    where: str,
) -> None:
    critical: dict[int, Any] = {cose.CRIT: [99], 99: 1}
    data = cose.sign1(
        b"p",
        KEY,
        protected=HEADER | (critical if where == "protected" else {}),
        unprotected=critical if where == "unprotected" else {},
    )
    with pytest.raises(VerificationError) as caught:
        cose.Sign1.parse(data).verify(KEY.public_key())
    assert caught.value.code == "cose.crit"


@pytest.mark.parametrize(
    "value",
    [
        [],
        [b"", {}, b""],
        [b"", {}, b"", b"", b""],
        ["", {}, b"", b""],
        [b"", [], b"", b""],
        [b"\x01", {}, b"", b""],
        [cbor.encode({1: -7}), {1: -7}, b"", b""],
        {},
        7,
    ],
)
def test_other_structures_are_malformed(value: object) -> None:
    with pytest.raises(MalformedError):
        cose.Sign1.parse(cbor.encode(value))


def test_keys_and_thumbprints_follow_the_rfcs() -> None:
    # RFC 9679 section 6: the example key and its SHA-256 thumbprint.
    x = bytes.fromhex("65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d")
    y = bytes.fromhex("1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c")
    key = cose.public_key_from_cose({1: 2, -1: 1, -2: x, -3: y})
    assert cose.cose_key(key) == {1: 2, -1: 1, -2: x, -3: y}
    expected = "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"
    assert cose.thumbprint(key).hex() == expected


@pytest.mark.parametrize(
    "change",
    [{1: 1}, {-1: 9}, {-2: b"x"}, {-3: bytes(32)}, {-4: b"private"}, {-2: 7}],
)
def test_other_keys_are_malformed(change: dict[int, Any]) -> None:
    with pytest.raises(MalformedError):
        cose.public_key_from_cose(cose.cose_key(KEY.public_key()) | change)


def test_numbers_have_one_length() -> None:
    """A zero before a number changes nothing but its bytes, which then have another hash."""
    message = cose.Sign1.parse(cose.sign1(b"p", KEY, protected=HEADER))
    r, s = message.signature[:32], message.signature[32:]
    for signature in (r + b"\0" + s, b"\0" + r + b"\0" + s, r + s + b"\0", r + s[:-1], b""):
        with pytest.raises(VerificationError) as caught:
            replace(message, signature=signature).verify(KEY.public_key())
        assert caught.value.code == "cose.signature"
    key: dict[int, Any] = cose.cose_key(KEY.public_key())
    for label in (-2, -3):
        with pytest.raises(MalformedError, match="coordinates"):
            cose.public_key_from_cose(key | {label: b"\0" + key[label]})
