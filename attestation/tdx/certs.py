"""One certificate of Intel's hierarchy: every part that is judged, read once and exactly.

Source: RFC 5280 section 4.1, Intel "SGX PCK Certificate and Certificate Revocation List Profile
Specification". All keys are on P-256 and all signatures are ECDSA with SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.certificates import (
    UNREADABLE,
    elements,
    header_size,
    issuer_subject_key,
    name_text,
)
from attestation.tdx.names import Vendor
from attestation.tdx.pck import SGX_EXTENSIONS
from attestation.tdx.signatures import PublicKey

# Attribute types (X.520) as encoded; then UTF8String and PrintableString.
_ATTRIBUTES: Final = {
    bytes.fromhex("0603550403"): NameOID.COMMON_NAME,
    bytes.fromhex("0603550406"): NameOID.COUNTRY_NAME,
    bytes.fromhex("0603550407"): NameOID.LOCALITY_NAME,
    bytes.fromhex("0603550408"): NameOID.STATE_OR_PROVINCE_NAME,
    bytes.fromhex("060355040a"): NameOID.ORGANIZATION_NAME,
}
_TEXTS: Final = (0x0C, 0x13)
_VERSION_3: Final = bytes.fromhex("a003020102")
# SubjectPublicKeyInfo of a point on P-256 (RFC 5480): what stands before its 65 bytes.
_P256_KEY: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
# AlgorithmIdentifier of ECDSA with SHA-256 (RFC 5758), then a BIT STRING.
_ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302") + b"\x03"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate, read and not verified.

    Attributes:
        attributes: of the subject; empty where one is of a kind that Intel does not use.
        is_ca, may_certify: basic constraints and key usage; False where they are absent.
        unknown_critical: a critical extension that is not understood, by its OID.
        sgx_extensions: the value of Intel's extension of PCK certificates.
        not_before, not_after: inclusive, UTC.
    """

    der: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    attributes: Mapping[x509.ObjectIdentifier, str]
    serial_number: int
    not_before: datetime
    not_after: datetime
    key: PublicKey
    spki_sha256: bytes
    is_ca: bool
    may_certify: bool
    unknown_critical: str | None
    sgx_extensions: bytes | None = field(repr=False)

    @property
    def common_name(self) -> str:
        """Of the subject; empty where it has none."""
        return self.attributes.get(NameOID.COMMON_NAME, "")

    def is_of(self, vendor: Vendor) -> bool:
        """Whether everything but the common name is the vendor's."""
        rest = {oid: text for oid, text in self.attributes.items() if oid != NameOID.COMMON_NAME}
        return rest == vendor.organization

    @property
    def subject(self) -> str:
        """Whom it is for, for people."""
        try:
            return name_text(x509.load_der_x509_certificate(self.der).subject)
        except UNREADABLE:
            return "a certificate with an unreadable name"

    @classmethod
    def parse(cls, der: bytes) -> Certificate:
        """Read one certificate.

        Raises:
            ValueError, or another of `UNREADABLE`: not a certificate of this kind.
        """
        parsed = x509.load_der_x509_certificate(der)
        signed, signature = _parts(der)
        issuer_der, subject_der, spki = issuer_subject_key(signed)
        if signed[4:9] != _VERSION_3:
            raise ValueError("a certificate is not X.509 version 3")
        if not spki.startswith(_P256_KEY):
            raise ValueError("a key is not on P-256")
        if parsed.serial_number <= 0:  # RFC 5280, 4.1.2.2; no list can name it
            raise ValueError("a serial number is not positive")
        rights = may_sign = False
        unknown = sgx = None
        for extension in parsed.extensions:
            value = extension.value
            if isinstance(value, x509.BasicConstraints):
                rights = value.ca
            elif isinstance(value, x509.KeyUsage):
                may_sign = value.key_cert_sign
            elif extension.oid == SGX_EXTENSIONS and isinstance(value, x509.UnrecognizedExtension):
                sgx = value.value
            elif extension.critical:
                unknown = extension.oid.dotted_string
        return cls(
            der=der,
            signed=signed,
            signature=signature,
            subject_der=subject_der,
            issuer_der=issuer_der,
            attributes=_attributes(subject_der),
            serial_number=parsed.serial_number,
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            key=PublicKey(spki[len(_P256_KEY) :]),
            spki_sha256=hashlib.sha256(spki).digest(),
            is_ca=rights,
            may_certify=may_sign,
            unknown_critical=unknown,
            sgx_extensions=sgx,
        )


def _parts(der: bytes) -> tuple[bytes, bytes]:
    """What is signed, and the signature: SEQUENCE { tbs, AlgorithmIdentifier, BIT STRING }.

    Raises:
        ValueError: another algorithm, or anything else than these three.
    """
    end = 8 + int.from_bytes(der[6:8], "big")  # both sequences have lengths of two bytes
    head = der[end : end + len(_ECDSA_WITH_SHA256)]
    rest = der[end + len(head) :]
    if der[4:6] != b"\x30\x82" or head != _ECDSA_WITH_SHA256:
        raise ValueError("a certificate is not signed by ECDSA with SHA-256")
    if len(rest) < 2 or rest[0] != len(rest) - 1 or rest[1] != 0:
        raise ValueError("a signature is not one string of whole bytes")
    return der[4:end], rest[2:]


@lru_cache(maxsize=64)  # there are half a dozen
def _attributes(name: bytes) -> Mapping[x509.ObjectIdentifier, str]:
    """SEQUENCE of SET { SEQUENCE { OID, text } }; empty where it is anything else."""
    found: dict[x509.ObjectIdentifier, str] = {}
    position = header_size(name)
    while position < len(name):
        (part,) = elements(name, position, 1)
        position += len(part)
        (pair,) = elements(part, header_size(part), 1)
        encoded, text = elements(pair, header_size(pair), 2)
        oid = _ATTRIBUTES.get(encoded)
        if oid is None or oid in found or text[0] not in _TEXTS:
            return {}
        found[oid] = text[header_size(text) :].decode()
    return found
