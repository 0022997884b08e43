"""Certificate revocation lists, as far as all vendors' are alike: read, and not verified.

Source: RFC 5280 section 5. Lists with extensions that change what it means not to be listed (delta,
indirect, parted ones) are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificates import UNREADABLE, elements, header_size, why_unreadable
from attestation.errors import MalformedError

MAX_CRL_SIZE: Final = 262_144  # bytes; AMD's have some 900, Intel's up to 20,000
_KNOWN: Final = (x509.CRLNumber, x509.AuthorityKeyIdentifier)
_VERSION_2: Final = b"\x02\x01\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One list.

    Attributes:
        issuer: the name as encoded (DER).
        this_update, next_update: inclusive, UTC.
        number: rises with each list of an issuer (RFC 5280, 5.2.3); None: it bears none.
        algorithm: the signature's, as a dotted OID.
        der: the whole list.
    """

    issuer: bytes
    this_update: datetime
    next_update: datetime
    number: int | None
    algorithm: str
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    der: bytes = field(repr=False)
    parsed: x509.CertificateRevocationList = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.parsed)

    def revokes(self, serial_number: int) -> bool:
        """Whether the certificate of this number is on the list."""
        return self.parsed.get_revoked_certificate_by_serial_number(serial_number) is not None

    def __bool__(self) -> bool:
        """A list without entries is a list."""
        return True

    @classmethod
    def read(cls, data: bytes, code: str) -> Self:
        """Read one DER or PEM list.

        Raises:
            MalformedError: `code`: not one list that is understood.
        """
        if len(data) > MAX_CRL_SIZE:
            raise MalformedError(code, f"a revocation list of {len(data)} bytes")
        try:
            pem = data.lstrip().startswith(b"-----BEGIN")
            crl = (x509.load_pem_x509_crl if pem else x509.load_der_x509_crl)(data)
            number = None
            for extension in crl.extensions:
                if extension.critical or not isinstance(extension.value, _KNOWN):
                    raise MalformedError(
                        code,
                        f"the list's extension {extension.oid.dotted_string} is not understood",
                    )
                if isinstance(extension.value, x509.CRLNumber):
                    number = extension.value.crl_number
            next_update = crl.next_update_utc
            if next_update is None:
                raise MalformedError(code, "the list does not say until when it holds")
            der = crl.public_bytes(Encoding.DER) if pem else bytes(data)
            signed, _, bits = elements(der, header_size(der), 3)
            return cls(
                issuer=_issuer(signed),
                this_update=crl.last_update_utc,
                next_update=next_update,
                number=number,
                algorithm=crl.signature_algorithm_oid.dotted_string,
                signed=signed,
                signature=bits[header_size(bits) + 1 :],
                der=der,
                parsed=crl,
            )
        except UNREADABLE as error:
            why = why_unreadable(error)
            raise MalformedError(code, f"not a certificate revocation list: {why}") from None


def _issuer(signed: bytes) -> bytes:
    """The issuer as encoded in a TBSCertList of version 2 (RFC 5280, 5.1)."""
    version, _, issuer = elements(signed, header_size(signed), 3)
    if version != _VERSION_2:
        raise ValueError("it is not of version 2")
    return issuer
