"""ECDSA as Intel uses it: raw r ‖ s in quotes and documents, DER in certificates and lists.

Source: FIPS 186-5; Intel "TDX DCAP Quoting Library API", appendix 3. Inside of a quote the PCK key
signs the quoting enclave's report; that report names the attestation key; the attestation key signs
header and body. Whose enclave it is, is in `attestation.tdx.tcb`: without that check anybody's
could stand here.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.errors import VerificationError
from attestation.tdx.abi import Quote

# Order of the P-256 group (SEC 2, section 2.4.2).
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_CURVE: Final = ec.SECP256R1()


class PublicKey:
    """A key on P-256 that remembers what it verified.

    The same few certificates, lists and documents of Intel's come with every quote, so `holds`
    keeps the last ones that held. What does not hold is never kept.

    Attributes:
        point: 65 bytes, uncompressed: what the key is known by.
    """

    __slots__ = ("_key", "point")

    def __init__(self, point: bytes) -> None:
        """Take x ‖ y with the byte 4 before.

        Raises:
            ValueError: not a point on the curve.
        """
        self._key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
        self.point = point

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.point == other.point

    def __hash__(self) -> int:
        return hash(self.point)

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Verify a signature in DER, with SHA-256.

        Raises:
            InvalidSignature: it is not by this key.
        """
        self._key.verify(signature, signed, _ECDSA)

    def holds(self, signature: bytes, signed: bytes) -> None:
        """The same, for things that come again and again."""
        _holds(self, signature, signed)


@lru_cache(maxsize=64)  # what raises is not kept
def _holds(key: PublicKey, signature: bytes, signed: bytes) -> None:
    key.verify(signature, signed)


def raw_signature(raw: bytes) -> bytes:
    """The DER form of r ‖ s (64 bytes).

    Raises:
        InvalidSignature: r or s is not in the range of P-256.
    """
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    if len(raw) != 64 or not (0 < r < P256_ORDER and 0 < s < P256_ORDER):
        raise InvalidSignature
    return encode_dss_signature(r, s)


def check_qe_signature(quote: Quote, pck: PublicKey) -> tuple[str, None]:
    """The PCK key signed the quoting enclave's report.

    Raises:
        VerificationError: `tdx.qe.signature`: it did not.
    """
    _verify("tdx.qe.signature", pck, quote.qe_signature, quote.qe_report.raw)
    return "ECDSA P-256 with SHA-256, by the PCK key", None


def check_qe_binding(quote: Quote) -> tuple[str, None]:
    """The quoting enclave's report is about this attestation key and these data.

    Raises:
        VerificationError: `tdx.qe.binding`: it is about something else.
    """
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if not hmac.compare_digest(quote.qe_report.report_data, bound):
        raise VerificationError(
            "tdx.qe.binding", "the quoting enclave vouches for another attestation key"
        )
    return "the quoting enclave vouches for the attestation key", None


def check_quote_signature(quote: Quote) -> tuple[str, None]:
    """The attestation key signed header and body.

    Raises:
        VerificationError: `tdx.quote.signature`: it did not, or it is no point on P-256.
    """
    try:
        key = PublicKey(b"\x04" + quote.attestation_key)
    except ValueError:
        raise VerificationError(
            "tdx.quote.signature", "the attestation key is not a point on P-256"
        ) from None
    _verify("tdx.quote.signature", key, quote.signature, quote.signed)
    return "ECDSA P-256 with SHA-256, by the attestation key", None


def _verify(name: str, key: PublicKey, signature: bytes, signed: bytes) -> None:
    try:
        key.verify(raw_signature(signature), signed)
    except InvalidSignature:
        raise VerificationError(
            name, "the signature is not by that key, or r or s is out of range"
        ) from None
