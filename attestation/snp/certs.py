"""The certificates of an SNP report: ARK, ASK or ASVK, and VCEK or VLEK, read exactly.

Source: AMD "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
(publication 57230), section 3, and the certificates themselves. Reading proves nothing: signatures,
names, validity and binding are in `attestation.snp.verify`.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from attestation.certificates import UNREADABLE, issuer_subject_key, known_name, why_unreadable
from attestation.errors import MalformedError, UncheckableError
from attestation.snp.extensions import AmdExtensions
from attestation.snp.product import EndorsementKey
from attestation.snp.table import MAX_CERTIFICATE_SIZE, CertTable, TableEntry

__all__ = ["CertTable", "Certificate", "Chain", "TableEntry"]

# AMD issues every VCEK and VLEK with serial number 0. That is a fact about them, not our defect.
warnings.filterwarnings(
    "ignore",
    message="Parsed a serial number which wasn't positive",
    category=CryptographyDeprecationWarning,
)
# A hostile certificate is refused for its names, not announced on the agent's standard error.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

RSA_BITS: Final = 4096

# RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt of 48 bytes: the two encodings that certificates of
# AMD have. The first states the default trailer field, which DER forbids, and 23 of 39 do it.
_PSS: Final = (
    "06092a864886f70d01010a30{:02x}a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
)
PSS_SHA384_SALT48: Final = frozenset(
    {
        bytes.fromhex("3046" + _PSS.format(0x39) + "a303020101"),
        bytes.fromhex("3041" + _PSS.format(0x34)),
    }
)
_VERSION_3: Final = bytes.fromhex("a003020102")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate, read once: what is lazy in X.509 parsing has happened, or has failed.

    Attributes:
        der: the exact bytes.
        signed, signature: what its issuer signed, and how.
        spki_sha256: what a root is pinned by.
        not_before, not_after: both inclusive, UTC.
    """

    der: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    subject: x509.Name
    issuer: x509.Name
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    serial_number: int
    spki_sha256: bytes
    not_before: datetime
    not_after: datetime
    public_key: object = field(repr=False)
    extensions: x509.Extensions = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, what: str) -> Certificate:
        """Read one DER or PEM certificate; `what` names it in errors.

        Raises:
            MalformedError: `snp.certs.certificate`: not exactly one X.509 v3 certificate;
                `snp.certs.algorithm`: not declared as RSASSA-PSS with AMD's parameters.
        """
        if len(data) > MAX_CERTIFICATE_SIZE:
            raise MalformedError("snp.certs.length", f"the {what} has {len(data)} bytes")
        try:
            parsed = _load(data, what)
            der = data if data[:1] == b"\x30" else parsed.public_bytes(Encoding.DER)
            signed, signature = _parts(der)
            issuer_der, subject_der, spki = issuer_subject_key(signed)
            certificate = cls(
                der=der,
                signed=signed,
                signature=signature,
                subject=known_name(subject_der, parsed, "subject"),
                issuer=known_name(issuer_der, parsed, "issuer"),
                subject_der=subject_der,
                issuer_der=issuer_der,
                serial_number=parsed.serial_number,
                spki_sha256=hashlib.sha256(spki).digest(),
                not_before=parsed.not_valid_before_utc,
                not_after=parsed.not_valid_after_utc,
                public_key=parsed.public_key(),
                extensions=parsed.extensions,
            )
        except UNREADABLE as error:
            raise MalformedError(
                "snp.certs.certificate",
                f"the {what} is not an X.509 certificate: {why_unreadable(error)}",
            ) from None
        if signed[4:9] != _VERSION_3:
            raise MalformedError("snp.certs.certificate", f"the {what} is not X.509 version 3")
        if certificate.serial_number < 0:  # AMD's keys have 0; no list can name a negative one
            raise MalformedError(
                "snp.certs.certificate", f"the {what} has a negative serial number"
            )
        if not _declares_pss(certificate):
            raise MalformedError(
                "snp.certs.algorithm",
                f"the {what} is not signed with RSASSA-PSS, SHA-384, MGF1-SHA-384 and 48 bytes of"
                " salt",
            )
        return certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Root, intermediate and endorsement key. Read, not verified.

    Attributes:
        ark, ica, ek: AMD root key, intermediate (ASK or ASVK), VCEK or VLEK.
        extensions: AMD's extensions of `ek`.
        proven: not empty once `attestation.snp.chain.check_signatures` has held.
    """

    ark: Certificate
    ica: Certificate
    ek: Certificate
    ark_key: rsa.RSAPublicKey = field(repr=False)
    ica_key: rsa.RSAPublicKey = field(repr=False)
    ek_key: ec.EllipticCurvePublicKey = field(repr=False)
    extensions: AmdExtensions
    proven: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, *, ark: bytes, ica: bytes, ek: bytes) -> Chain:
        """Read three certificates, each DER or PEM.

        Raises:
            MalformedError: `snp.certs.*`: not a certificate, or not of AMD's kind.
        """
        root = _read_root(ark)
        intermediate = Certificate.parse(ica, "ASK or ASVK")
        leaf = Certificate.parse(ek, "VCEK or VLEK")
        return cls(
            ark=root,
            ica=intermediate,
            ek=leaf,
            ark_key=_rsa_key(root, "ARK"),
            ica_key=_rsa_key(intermediate, "ASK or ASVK"),
            ek_key=_p384_key(leaf, "VCEK or VLEK"),
            extensions=AmdExtensions.parse(leaf.extensions),
        )

    @classmethod
    def from_table(cls, table: CertTable, key: EndorsementKey | None = None) -> Chain:
        """The chain that a certificate table holds.

        Args:
            key: which endorsement key to take; None takes the one that is there.

        Raises:
            UncheckableError: `snp.chain.missing`: the host did not supply all three.
            MalformedError: `snp.certs.ambiguous`: both keys are there and `key` is None; or as
                `parse` does.
        """
        contents = table.contents
        there = [e for e in (TableEntry.VCEK, TableEntry.VLEK) if e in contents]
        if key is not None:
            wanted = TableEntry[key.name]
        elif len(there) == 2:
            raise MalformedError(
                "snp.certs.ambiguous", "the table has a VCEK and a VLEK; the report says which"
            )
        else:
            wanted = there[0] if there else TableEntry.VCEK
        missing = [e.name for e in (wanted, TableEntry.ICA, TableEntry.ARK) if e not in contents]
        if missing:
            raise UncheckableError(
                "snp.chain.missing",
                f"the host supplied no {', no '.join(missing)} in its certificate table",
                remedy="configure the host to supply VCEK or VLEK, ASK and ARK with the report",
            )
        return cls.parse(
            ark=contents[TableEntry.ARK], ica=contents[TableEntry.ICA], ek=contents[wanted]
        )


@lru_cache(maxsize=16)  # there are three roots, and everything comes with one of them
def _read_root(data: bytes) -> Certificate:
    return Certificate.parse(data, "ARK")


def _load(data: bytes, what: str) -> x509.Certificate:
    if not data.lstrip().startswith(b"-----BEGIN"):
        return x509.load_der_x509_certificate(data)
    found = x509.load_pem_x509_certificates(data)
    if len(found) != 1:
        raise MalformedError(
            "snp.certs.certificate", f"one certificate is expected as {what}, not {len(found)}"
        )
    return found[0]


def _parts(der: bytes) -> tuple[bytes, bytes]:
    """What is signed, and the signature: cut out, because to encode them again takes 7 µs each.

    SEQUENCE { SEQUENCE tbs, AlgorithmIdentifier, BIT STRING of an RSA-4096 signature }, the first
    two with lengths of two bytes. What is not so is refused by `_declares_pss`.
    """
    size = int.from_bytes(der[6:8], "big")
    return der[4 : 8 + size], der[-RSA_BITS // 8 :]


def _declares_pss(certificate: Certificate) -> bool:
    """Whether both algorithm fields, inside and outside the signed part, are AMD's, byte by byte.

    Certificate ::= SEQUENCE { tbs, AlgorithmIdentifier, BIT STRING }, where tbs begins with
    [0] version (5 bytes), INTEGER serial, AlgorithmIdentifier.
    """
    signed = certificate.signed
    if not ends_with_signature(certificate.der, certificate.signature):
        return False
    if signed[:2] != b"\x30\x82" or certificate.der[:2] != b"\x30\x82":
        return False
    # A SEQUENCE header of 4 bytes in front.
    outer = certificate.der[4 + len(signed) : -(5 + len(certificate.signature))]
    serial = 4 + 5
    inner = serial + 2 + signed[serial + 1]
    return outer in PSS_SHA384_SALT48 and signed[inner : inner + len(outer)] == outer


def ends_with_signature(der: bytes, signature: bytes) -> bool:
    """Whether the end is exactly one BIT STRING of whole bytes: no signature covers its header, and
    a number of unused bits other than zero passes as long as those bits happen to be zero.
    """
    size = len(signature)
    header = b"\x03\x82" + (size + 1).to_bytes(2, "big") + b"\0"
    return size >= 0x100 and der[-size:] == signature and der[-size - 5 : -size] == header


def _rsa_key(certificate: Certificate, what: str) -> rsa.RSAPublicKey:
    key = certificate.public_key
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS:
        raise MalformedError("snp.certs.key", f"the key of the {what} is not RSA-{RSA_BITS}")
    return key


def _p384_key(certificate: Certificate, what: str) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedError("snp.certs.key", f"the key of the {what} is not EC P-384")
    return key
