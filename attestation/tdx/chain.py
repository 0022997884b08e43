"""The PCK certificate's chain: Intel's root, an intermediate, the platform's own certificate.

Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification". What is
trusted is the root's key; the root's certificate in a quote only has to carry it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from attestation.errors import MalformedError, VerificationError
from attestation.text import name_text, utc

# SHA-256 of the SubjectPublicKeyInfo of CN=Intel SGX Root CA. Two certificates of this key exist.
INTEL_ROOT: Final = bytes.fromhex(
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)
MAX_CHAIN_SIZE: Final = 32 * 1024
_ORGANIZATION: Final = {
    NameOID.COUNTRY_NAME: "US",
    NameOID.STATE_OR_PROVINCE_NAME: "CA",
    NameOID.LOCALITY_NAME: "Santa Clara",
    NameOID.ORGANIZATION_NAME: "Intel Corporation",
}
_LEAF: Final = "Intel SGX PCK Certificate"
_INTERMEDIATES: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
_ROOT: Final = "Intel SGX Root CA"
_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PckChain:
    """Three certificates in their order; read, not verified. All keys are on P-256."""

    leaf: x509.Certificate
    intermediate: x509.Certificate
    root: x509.Certificate
    leaf_key: ec.EllipticCurvePublicKey
    intermediate_key: ec.EllipticCurvePublicKey
    root_key: ec.EllipticCurvePublicKey

    @classmethod
    def parse(cls, pem: bytes) -> PckChain:
        """Read the chain of a quote: leaf, intermediate, root in PEM; zero bytes may follow.

        Raises:
            MalformedError: `tdx.chain.format`: not three certificates with keys on P-256.
        """
        if len(pem) > MAX_CHAIN_SIZE:
            raise _malformed(f"it has {len(pem)} bytes")
        try:
            found = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
            if len(found) != 3:
                raise _malformed(f"it has {len(found)} certificates, not 3")
            keys = [_p256(certificate) for certificate in found]
            for certificate in found:  # what is lazy fails here, or never
                _ = certificate.extensions, certificate.subject, certificate.issuer
                if certificate.version is not x509.Version.v3:
                    raise _malformed("a certificate is not X.509 version 3")
        except _UNREADABLE as error:
            raise _malformed(str(error)) from None
        return cls(
            leaf=found[0],
            intermediate=found[1],
            root=found[2],
            leaf_key=keys[0],
            intermediate_key=keys[1],
            root_key=keys[2],
        )

    @property
    def certificates(self) -> tuple[x509.Certificate, x509.Certificate, x509.Certificate]:
        """Leaf, intermediate, root."""
        return self.leaf, self.intermediate, self.root


def check_root(
    chain: PckChain, pins: Collection[bytes] = frozenset({INTEL_ROOT})
) -> tuple[str, None]:
    """The root's key is the pinned one.

    Raises:
        VerificationError: `tdx.chain.root_pinned`: it is not (Intel's test root, for example).
    """
    spki = chain.root_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = hashlib.sha256(spki).digest()
    if pin not in pins:
        raise VerificationError(
            "tdx.chain.root_pinned", f"the root key {pin.hex()} is not the pinned one"
        )
    return f"Intel SGX Root CA, key {pin.hex()}", None


def check_names(chain: PckChain) -> tuple[str, None]:
    """Subjects are Intel's and of the right kind; each issuer is the next subject, byte by byte.

    Raises:
        VerificationError: `tdx.chain.names`.
    """
    leaf, intermediate, root = chain.certificates
    for certificate, names in ((leaf, (_LEAF,)), (intermediate, _INTERMEDIATES), (root, (_ROOT,))):
        if _common_name(certificate.subject) not in names:
            raise VerificationError(
                "tdx.chain.names", f"{name_text(certificate.subject)} is not {' or '.join(names)}"
            )
    for certificate, issuer in ((leaf, intermediate), (intermediate, root), (root, root)):
        if certificate.issuer.public_bytes() != issuer.subject.public_bytes():
            raise VerificationError(
                "tdx.chain.names",
                f"{name_text(certificate.subject)} names another issuer,"
                f" {name_text(certificate.issuer)}",
            )
    return f"{_LEAF} by {_common_name(intermediate.subject)}", None


def check_constraints(chain: PckChain) -> tuple[str, None]:
    """Only root and intermediate may certify; no critical extension is unknown.

    Raises:
        VerificationError: `tdx.chain.constraints`.
    """
    for certificate, is_ca in zip(chain.certificates, (False, True, True), strict=True):
        rights = may_sign = False
        for extension in certificate.extensions:
            if isinstance(extension.value, x509.BasicConstraints):
                rights = extension.value.ca
            elif isinstance(extension.value, x509.KeyUsage):
                may_sign = extension.value.key_cert_sign
            elif extension.critical:
                raise VerificationError(
                    "tdx.chain.constraints",
                    f"{name_text(certificate.subject)} has a critical extension"
                    f" {extension.oid.dotted_string} that is not understood",
                )
        if rights is not is_ca or may_sign is not is_ca:
            raise VerificationError(
                "tdx.chain.constraints",
                f"{name_text(certificate.subject)} {'may not' if is_ca else 'may'} certify others",
            )
    return "only root and intermediate certify others", None


def check_validity(chain: PckChain, now: datetime) -> tuple[str, None]:
    """`now` is in the window of all three.

    Raises:
        VerificationError: `tdx.chain.validity`.
    """
    for certificate in chain.certificates:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= now <= end:
            raise VerificationError(
                "tdx.chain.validity",
                f"{name_text(certificate.subject)} is valid from {utc(start)} to {utc(end)}, it is"
                f" {utc(now)}",
                remedy="check the clock",
            )
    return f"until {utc(min(c.not_valid_after_utc for c in chain.certificates))}", None


def check_signatures(chain: PckChain) -> tuple[str, None]:
    """Each certificate is signed by the next key, the root by its own.

    Raises:
        VerificationError: `tdx.chain.signatures`.
    """
    for certificate, key in (
        (chain.root, chain.root_key),
        (chain.intermediate, chain.root_key),
        (chain.leaf, chain.intermediate_key),
    ):
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
            raise VerificationError(
                "tdx.chain.signatures",
                f"{name_text(certificate.subject)} is not signed by ECDSA P-256",
            )
        try:
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, _ECDSA)
        except InvalidSignature:
            raise VerificationError(
                "tdx.chain.signatures",
                f"{name_text(certificate.subject)} is not signed by its issuer",
            ) from None
    return "root, intermediate, PCK", None


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _malformed("a key is not on P-256")
    return key


def _common_name(name: x509.Name) -> str | None:
    """The common name, where everything else is Intel's."""
    attributes = [(attribute.oid, attribute.value) for attribute in name]
    rest = dict(attributes)
    common_name = rest.pop(NameOID.COMMON_NAME, None)
    if len(rest) + 1 != len(attributes) or rest != _ORGANIZATION:
        return None
    return common_name if isinstance(common_name, str) else None


def _malformed(what: str) -> MalformedError:
    return MalformedError("tdx.chain.format", f"the PCK chain cannot be read: {what}")
