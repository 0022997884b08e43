"""Intel's certificate chains: of a platform's PCK, and of the key that signs TCB documents.

Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification". What is
trusted is the root's key; the root's certificate in a quote only has to carry it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from attestation.certificates import UNREADABLE, name_text, utc
from attestation.errors import MalformedError, VerificationError
from attestation.tdx.signatures import PublicKey

# SHA-256 of the SubjectPublicKeyInfo of CN=Intel SGX Root CA. Two certificates of this key exist.
INTEL_ROOT: Final = bytes.fromhex(
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)
INTEL_ROOTS: Final = frozenset({INTEL_ROOT})
MAX_CHAIN_SIZE: Final = 32 * 1024  # bytes of PEM
_ORGANIZATION: Final = {
    NameOID.COUNTRY_NAME: "US",
    NameOID.STATE_OR_PROVINCE_NAME: "CA",
    NameOID.LOCALITY_NAME: "Santa Clara",
    NameOID.ORGANIZATION_NAME: "Intel Corporation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a chain has to consist of.

    Attributes:
        check: how the names of its checks begin.
        subjects: allowed common names, of the certificate that signs first, of the root last.
    """

    check: str
    subjects: tuple[tuple[str, ...], ...]


_ROOT: Final = ("Intel SGX Root CA",)
PCK: Final = Kind(
    check="tdx.chain",
    subjects=(
        ("Intel SGX PCK Certificate",),
        ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"),
        _ROOT,
    ),
)
SIGNER: Final = Kind(check="tdx.signer", subjects=(("Intel SGX TCB Signing",), _ROOT))


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate whose parts can all be read; its key is on P-256."""

    parsed: x509.Certificate
    der: bytes
    key: PublicKey
    spki_sha256: bytes

    @property
    def subject(self) -> x509.Name:
        """Whom it is for."""
        return self.parsed.subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Certificates in their order, the root last; read, not verified."""

    kind: Kind
    certificates: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The one that signs."""
        return self.certificates[0]

    @property
    def root(self) -> Certificate:
        """The one that has to carry a pinned key."""
        return self.certificates[-1]

    @property
    def window(self) -> tuple[datetime, datetime]:
        """When all are valid, inclusive."""
        starts = [certificate.parsed.not_valid_before_utc for certificate in self.certificates]
        ends = [certificate.parsed.not_valid_after_utc for certificate in self.certificates]
        return max(starts), min(ends)

    @classmethod
    def parse(cls, pem: bytes, kind: Kind = PCK) -> Chain:
        """Read a chain in PEM; zero bytes may follow, as they do in quotes.

        Raises:
            MalformedError: `….format`: another number of certificates, or keys not on P-256.
        """
        try:
            if len(pem) > MAX_CHAIN_SIZE:
                raise ValueError(f"it has {len(pem)} bytes")
            found = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
            if len(found) != len(kind.subjects):
                raise ValueError(f"it has {len(found)} certificates, not {len(kind.subjects)}")
            ders = [certificate.public_bytes(Encoding.DER) for certificate in found]
            # The platform's own comes once; those above it come with every quote.
            certificates = (_read(ders[0]), *(_read_again(der) for der in ders[1:]))
        except UNREADABLE as error:
            raise MalformedError(
                f"{kind.check}.format", f"the certificate chain cannot be read: {error}"
            ) from None
        return cls(kind=kind, certificates=certificates)


def _read(der: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(der)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a key is not on P-256")  # noqa: TRY004 - not a mistake of a caller
    if certificate.version is not x509.Version.v3:
        raise ValueError("a certificate is not X.509 version 3")
    # What is lazy fails here, or never.
    _ = certificate.extensions, certificate.subject, certificate.issuer
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return Certificate(certificate, der, PublicKey(point), hashlib.sha256(spki).digest())


_read_again = lru_cache(maxsize=16)(_read)


def check_root(chain: Chain, pins: Collection[bytes] = INTEL_ROOTS) -> tuple[str, None]:
    """The root's key is the pinned one.

    Raises:
        VerificationError: `….root_pinned`: it is not (Intel's test root, for example).
    """
    pin = chain.root.spki_sha256
    if pin not in pins:
        raise VerificationError(
            f"{chain.kind.check}.root_pinned", f"the root key {pin.hex()} is not the pinned one"
        )
    return f"{_common_name(chain.root.subject) or 'the root'}, key {pin.hex()}", None


def check_names(chain: Chain) -> tuple[str, None]:
    """Subjects are Intel's and of the right kind; each issuer is the next subject, byte by byte.

    Raises:
        VerificationError: `….names`.
    """
    name = f"{chain.kind.check}.names"
    for certificate, allowed in zip(chain.certificates, chain.kind.subjects, strict=True):
        if _common_name(certificate.subject) not in allowed:
            raise VerificationError(
                name, f"{name_text(certificate.subject)} is not {' or '.join(allowed)}"
            )
    for certificate, issuer in _issued(chain):
        if certificate.parsed.issuer.public_bytes() != issuer.subject.public_bytes():
            raise VerificationError(
                name,
                f"{name_text(certificate.subject)} names another issuer,"
                f" {name_text(certificate.parsed.issuer)}",
            )
    return " by ".join(str(_common_name(c.subject)) for c in chain.certificates), None


def check_constraints(chain: Chain) -> tuple[str, None]:
    """Only those above the first may certify; no critical extension is unknown.

    Raises:
        VerificationError: `….constraints`.
    """
    name = f"{chain.kind.check}.constraints"
    for certificate in chain.certificates:
        is_ca = certificate is not chain.leaf
        rights = may_sign = False
        for extension in certificate.parsed.extensions:
            if isinstance(extension.value, x509.BasicConstraints):
                rights = extension.value.ca
            elif isinstance(extension.value, x509.KeyUsage):
                may_sign = extension.value.key_cert_sign
            elif extension.critical:
                raise VerificationError(
                    name,
                    f"{name_text(certificate.subject)} has a critical extension"
                    f" {extension.oid.dotted_string} that is not understood",
                )
        if rights is not is_ca or may_sign is not is_ca:
            raise VerificationError(
                name,
                f"{name_text(certificate.subject)} {'may not' if is_ca else 'may'} certify others",
            )
    return "only those above the first certify others", None


def check_validity(chain: Chain, now: datetime) -> tuple[str, None]:
    """`now` is in the window of all.

    Raises:
        VerificationError: `….validity`.
    """
    for certificate in chain.certificates:
        start = certificate.parsed.not_valid_before_utc
        end = certificate.parsed.not_valid_after_utc
        if not start <= now <= end:
            raise VerificationError(
                f"{chain.kind.check}.validity",
                f"{name_text(certificate.subject)} is valid from {utc(start)} to {utc(end)}, it is"
                f" {utc(now)}",
                remedy="check the clock",
            )
    return f"until {utc(chain.window[1])}", None


def check_signatures(chain: Chain) -> tuple[str, None]:
    """Each certificate is signed by the next key, the root by its own.

    Raises:
        VerificationError: `….signatures`.
    """
    name = f"{chain.kind.check}.signatures"
    for certificate, issuer in _issued(chain):
        signed = certificate.parsed
        if signed.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
            raise VerificationError(
                name, f"{name_text(certificate.subject)} is not signed by ECDSA with SHA-256"
            )
        # A PCK comes once; its issuers come again and again.
        again = issuer is chain.root
        verify = issuer.key.holds if again else issuer.key.verify
        try:
            verify(signed.signature, signed.tbs_certificate_bytes)
        except InvalidSignature:
            raise VerificationError(
                name, f"{name_text(certificate.subject)} is not signed by its issuer"
            ) from None
    return f"{len(chain.certificates)} by their issuers", None


def _issued(chain: Chain) -> list[tuple[Certificate, Certificate]]:
    """Each certificate with its issuer."""
    every = chain.certificates
    return list(zip(every, (*every[1:], every[-1]), strict=True))


def _common_name(name: x509.Name) -> str | None:
    """The common name, where everything else is Intel's."""
    attributes = [(attribute.oid, attribute.value) for attribute in name]
    rest = dict(attributes)
    common_name = rest.pop(NameOID.COMMON_NAME, None)
    if len(rest) + 1 != len(attributes) or rest != _ORGANIZATION:
        return None
    return common_name if isinstance(common_name, str) else None
