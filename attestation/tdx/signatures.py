"""The two signatures inside of a quote, and what ties them together.

Source: Intel "TDX DCAP Quoting Library API", appendix 3. The PCK key signs the quoting enclave's
report; that report names the attestation key; the attestation key signs header and body. Whose
enclave it is, is in `attestation.tdx.tcb`: without that check anybody's could stand here.
"""

from __future__ import annotations

import hashlib
import hmac
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


def check_qe_signature(quote: Quote, pck: ec.EllipticCurvePublicKey) -> tuple[str, None]:
    """The PCK key signed the quoting enclave's report.

    Raises:
        VerificationError: `tdx.qe.signature`: it did not, or it is no P-256 key.
    """
    if not isinstance(pck.curve, ec.SECP256R1):
        raise VerificationError("tdx.qe.signature", "the PCK key is not on P-256")
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
        key = ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256R1(), b"\x04" + quote.attestation_key
        )
    except ValueError:
        raise VerificationError(
            "tdx.quote.signature", "the attestation key is not a point on P-256"
        ) from None
    _verify("tdx.quote.signature", key, quote.signature, quote.signed)
    return "ECDSA P-256 with SHA-256, by the attestation key", None


def _verify(name: str, key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if len(signature) != 64 or not (0 < r < P256_ORDER and 0 < s < P256_ORDER):
        raise VerificationError(name, "r or s is not in the range of P-256")
    try:
        key.verify(encode_dss_signature(r, s), signed, _ECDSA)
    except InvalidSignature:
        raise VerificationError(name, "the signature is not by that key") from None
