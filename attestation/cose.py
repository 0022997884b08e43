"""COSE_Sign1 and COSE_Key (RFC 9052, 9053), and key thumbprints (RFC 9679).

Only what passports, checkpoints and tests against other people's vectors need. A message is parsed
strictly and its protected header is kept as received: the bytes that were signed are the bytes that
are verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cbor2 import CBORTag
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from attestation import cbor
from attestation.errors import MalformedError, UncheckableError, VerificationError

SIGN1_TAG: Final = 18
MAX_MESSAGE: Final = 1024 * 1024  # bytes

# Header labels, RFC 9052 section 3.1 and RFC 9596.
ALG: Final = 1
CRIT: Final = 2
KID: Final = 4
TYP: Final = 16

# Algorithms, RFC 9053 section 2 and RFC 8230.
ES256: Final = -7
ES384: Final = -35
ES512: Final = -36
EDDSA: Final = -8
PS256: Final = -37
PS384: Final = -38
PS512: Final = -39

_ECDSA: Final[dict[int, tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm], int]]] = {
    ES256: (ec.SECP256R1, hashes.SHA256, 32),
    ES384: (ec.SECP384R1, hashes.SHA384, 48),
    ES512: (ec.SECP521R1, hashes.SHA512, 66),
}
_PSS: Final[dict[int, type[hashes.HashAlgorithm]]] = {
    PS256: hashes.SHA256,
    PS384: hashes.SHA384,
    PS512: hashes.SHA512,
}
_CURVES: Final[dict[int, tuple[type[ec.EllipticCurve], int]]] = {
    1: (ec.SECP256R1, 32),
    2: (ec.SECP384R1, 48),
    3: (ec.SECP521R1, 66),
}

# Orders of the groups (SEC 2, sections 2.4.2, 2.5.1, 2.6.1).
_ORDERS: Final = {
    ES256: int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16),
    ES384: int("f" * 48 + "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16),
    ES512: int(
        "1" + "f" * 64 + "fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409", 16
    ),
}

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A parsed COSE_Sign1; nothing of it is verified until `verify` returns.

    Attributes:
        protected_raw: the protected header's bytes exactly as received.
        payload: None where it is detached.
        tagged: whether the message came with tag 18.
    """

    protected: Mapping[Any, Any]
    protected_raw: bytes
    unprotected: Mapping[Any, Any]
    payload: bytes | None
    signature: bytes
    tagged: bool

    @classmethod
    def parse(cls, data: bytes, *, max_size: int = MAX_MESSAGE) -> Sign1:
        """Parse a message, tagged (18) or not (RFC 9052 section 4.2).

        Raises:
            MalformedError: `cbor.*` or `cose.*`.
        """
        value = cbor.decode(data, max_size=max_size, max_depth=16)
        tagged = isinstance(value, CBORTag)
        if isinstance(value, CBORTag):
            if value.tag != SIGN1_TAG:
                raise MalformedError("cose.tag", f"CBOR tag {value.tag} is not COSE_Sign1 (18)")
            value = value.value
        match value:
            case [bytes(raw), dict(unprotected), (bytes() | None) as payload, bytes(signature)]:
                pass
            case _:
                raise MalformedError("cose.structure", "not the four parts of a COSE_Sign1")
        # RFC 9052 section 3: an empty protected header is an empty string, h'A0' also occurs.
        protected = cbor.decode(raw, max_size=max_size) if raw else {}
        if not isinstance(protected, dict):
            raise MalformedError("cose.protected", "the protected header is not a map")
        if set(protected) & set(unprotected):
            raise MalformedError("cose.duplicate", "a label is in both headers")
        return cls(
            protected=protected,
            protected_raw=raw,
            unprotected=unprotected,
            payload=payload,
            signature=signature,
            tagged=tagged,
        )

    @property
    def alg(self) -> int:
        """The algorithm, from the protected header alone.

        Raises:
            VerificationError: `cose.alg`: it is missing, or not an integer.
        """
        alg = self.protected.get(ALG)
        if not isinstance(alg, int):
            raise VerificationError("cose.alg", "no algorithm in the protected header")
        return alg

    def verify(
        self,
        key: PublicKey,
        *,
        external_aad: bytes = b"",
        detached_payload: bytes | None = None,
        alg: int | None = None,
    ) -> bytes:
        """Check the signature; gives the payload that was signed.

        Args:
            alg: the algorithm, for messages that (against our profile) do not protect it.

        Raises:
            VerificationError: `cose.*`: it does not verify, or headers that must be understood.
            UncheckableError: an algorithm or key that is not supported.
        """
        if CRIT in self.protected or CRIT in self.unprotected:
            raise VerificationError("cose.crit", "critical headers that are not understood")
        payload = self.payload if detached_payload is None else detached_payload
        if payload is None:
            raise VerificationError("cose.payload", "the payload is detached and was not given")
        if self.payload is not None and detached_payload is not None:
            raise VerificationError("cose.payload", "a payload is inside and another was given")
        algorithm = self.alg if alg is None else alg
        signed = to_be_signed(self.protected_raw, external_aad, payload)
        try:
            _verify(algorithm, key, self.signature, signed)
        except InvalidSignature:
            raise VerificationError("cose.signature", "the signature does not verify") from None
        return payload


def sign1(
    payload: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    protected: Mapping[int, object],
    unprotected: Mapping[int, object] | None = None,
    external_aad: bytes = b"",
    tagged: bool = True,
) -> bytes:
    """Sign a payload with the algorithm that `protected` names (label 1).

    Signatures have the lower of the two possible `s`, so that a signature has one form only.
    """
    fitting = (
        (alg, hash_type, size)
        for alg, (curve, hash_type, size) in _ECDSA.items()
        if alg == protected[ALG] and isinstance(key.curve, curve)
    )
    found = next(fitting, None)
    if found is None:
        raise ValueError("sign1 signs with ES256, ES384 or ES512 and a key on its curve")
    alg, hash_type, size = found
    raw = cbor.encode(protected)
    der = key.sign(to_be_signed(raw, external_aad, payload), ec.ECDSA(hash_type()))
    r, s = decode_dss_signature(der)
    s = min(s, _ORDERS[alg] - s)
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    message = [raw, dict(unprotected or {}), payload, signature]
    return cbor.encode(CBORTag(SIGN1_TAG, message) if tagged else message)


def to_be_signed(protected_raw: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """Sig_structure (RFC 9052 section 4.4) of a Sign1. An empty map counts as no header."""
    protected = b"" if protected_raw == b"\xa0" else protected_raw
    return cbor.encode(["Signature1", protected, external_aad, payload])


def has_low_s(signature: bytes, alg: int) -> bool:
    """Whether an ECDSA signature has the lower `s`: the one form that this project issues."""
    size = _ECDSA[alg][2]
    return int.from_bytes(signature[size:], "big") <= _ORDERS[alg] // 2


def _verify(alg: int, key: PublicKey, signature: bytes, signed: bytes) -> None:
    if alg in _ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
        curve, hash_type, size = _ECDSA[alg]
        if not isinstance(key.curve, curve):
            raise VerificationError("cose.key", f"algorithm {alg} needs a key on {curve.name}")
        if len(signature) != 2 * size:
            raise VerificationError("cose.signature", f"a signature has {2 * size} bytes")
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hash_type()))
    elif alg == EDDSA and isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, signed)
    elif alg in _PSS and isinstance(key, rsa.RSAPublicKey):
        digest = _PSS[alg]()
        pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size)
        key.verify(signature, signed, pss, digest)
    else:
        raise UncheckableError("cose.unsupported", f"algorithm {alg} with this key is not known")


def cose_key(key: ec.EllipticCurvePublicKey) -> dict[int, object]:
    """COSE_Key (RFC 9053 section 7.1.1) of a P-256, P-384 or P-521 public key."""
    numbers = key.public_numbers()
    for label, (curve, size) in _CURVES.items():
        if isinstance(key.curve, curve):
            x, y = numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")
            return {1: 2, -1: label, -2: x, -3: y}
    raise ValueError(f"no COSE curve for {key.curve.name}")


def public_key_from_cose(value: object) -> ec.EllipticCurvePublicKey:
    """The public key of an EC2 COSE_Key with both coordinates.

    Raises:
        MalformedError: `cose.key`: another type, private parts, wrong lengths, not on the curve.
    """
    match value:
        case {1: 2, -1: int(label), -2: bytes(x), -3: bytes(y)} if label in _CURVES:
            curve, size = _CURVES[label]
        case _:
            raise MalformedError("cose.key", "not an EC2 key with a known curve, x and y")
    assert isinstance(value, dict)
    if set(value) - {1, 2, 3, -1, -2, -3}:
        raise MalformedError("cose.key", "the key has parts that a public key must not have")
    if len(x) != size or len(y) != size:
        raise MalformedError("cose.key", f"coordinates on this curve have {size} bytes")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve()
    )
    try:
        return numbers.public_key()
    except ValueError:
        raise MalformedError("cose.key", "the point is not on the curve") from None


def thumbprint(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 COSE Key Thumbprint (RFC 9679 section 3): 32 bytes over the required parts."""
    return hashlib.sha256(cbor.encode(cose_key(key))).digest()
