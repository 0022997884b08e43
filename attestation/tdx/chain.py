"""Intel's certificate chains: of a platform's PCK, and of the key that signs TCB documents.

Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification". What is
trusted is the root's key; the root's certificate in a quote only has to carry it, so its signature
of itself proves nothing and is not looked at (RFC 5280 section 6.1: a trust anchor is a name and a
key).
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidSignature

from attestation.certificates import UNREADABLE, utc
from attestation.errors import MalformedError, VerificationError
from attestation.tdx.certs import Certificate
from attestation.tdx.names import INTEL, Vendor

MAX_CHAIN_SIZE: Final = 32 * 1024  # bytes of PEM
_BLOCK: Final = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a chain has to consist of.

    Attributes:
        check: how the names of its checks begin.
        subjects: common names that are allowed, after the vendor's prefix: of the certificate that
            signs first, of the root last.
        certifies: the first one is a CA as well.
    """

    check: str
    subjects: tuple[tuple[str, ...], ...]
    certifies: bool = False


_ROOT: Final = ("Root CA",)
PCK: Final = Kind(
    check="tdx.chain",
    subjects=(
        ("PCK Certificate",),
        ("PCK Platform CA", "PCK Processor CA"),
        _ROOT,
    ),
)
CA: Final = Kind(check="tdx.ca", subjects=(PCK.subjects[1], _ROOT), certifies=True)
SIGNER: Final = Kind(check="tdx.signer", subjects=(("TCB Signing",), _ROOT))


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
        every = self.certificates
        return max(c.not_before for c in every), min(c.not_after for c in every)

    @classmethod
    def parse(cls, pem: bytes, kind: Kind = PCK) -> Chain:
        """Read a chain in PEM; zero bytes may follow, as they do in quotes.

        Raises:
            MalformedError: `….format`: another number of certificates, or keys not on P-256.
        """
        try:
            if len(pem) > MAX_CHAIN_SIZE:
                raise ValueError(f"it has {len(pem)} bytes")
            ders = _pem_blocks(pem.rstrip(b"\0"))
            if len(ders) != len(kind.subjects):
                wanted = ", ".join(" or ".join(names) for names in kind.subjects)
                raise ValueError(
                    f"it has {len(ders)} certificates, not {len(kind.subjects)} ({wanted})"
                )
            # The platform's own comes once; those above it come with every quote.
            first = Certificate.parse(ders[0])
            certificates = (first, *(_read_again(der) for der in ders[1:]))
        except UNREADABLE as error:
            raise MalformedError(
                f"{kind.check}.format", f"the certificate chain cannot be read: {error}"
            ) from None
        return cls(kind=kind, certificates=certificates)


def _pem_blocks(pem: bytes) -> list[bytes]:
    """Certificates one after another, and nothing else (RFC 7468, section 2)."""
    found, position = [], 0
    while block := _BLOCK.match(pem, position):
        found.append(binascii.a2b_base64(block[1]))
        position = block.end()
    if position != len(pem):
        raise ValueError("something else than certificates in PEM")
    return found


_read_again = lru_cache(maxsize=16)(Certificate.parse)  # what raises is not kept


def check_chain(chain: Chain, vendor: Vendor, now: datetime) -> None:
    """All checks of a chain, at once.

    Raises:
        VerificationError: the first that does not hold.
    """
    check_root(chain, vendor)
    check_names(chain, vendor)
    check_constraints(chain)
    check_validity(chain, now)
    check_signatures(chain)


def check_root(chain: Chain, vendor: Vendor = INTEL) -> tuple[str, None]:
    """The root's key is the pinned one.

    Raises:
        VerificationError: `….root_pinned`: it is not (Intel's test root, for example).
    """
    pin = chain.root.spki_sha256
    if pin not in vendor.roots:
        raise VerificationError(
            f"{chain.kind.check}.root_pinned",
            f"the root key {pin.hex()} is "
            + (
                "not the pinned one"
                if vendor is INTEL
                else "of another simulated TEE than the roots that were given (--simulated-root)"
            ),
        )
    return f"{chain.root.common_name or 'the root'}, key {pin.hex()}", None


def check_names(chain: Chain, vendor: Vendor = INTEL) -> tuple[str, None]:
    """Subjects are the vendor's, of the right kind; each issuer is the next subject, byte by byte.

    Raises:
        VerificationError: `….names`.
    """
    name, every = f"{chain.kind.check}.names", chain.certificates
    for certificate, allowed in zip(every, chain.kind.subjects, strict=True):
        wanted = [vendor.prefix + subject for subject in allowed]
        if certificate.common_name not in wanted or not certificate.is_of(vendor):
            raise VerificationError(name, f"{certificate.subject} is not {' or '.join(wanted)}")
    for certificate, issuer in pairwise((*every, chain.root)):
        if certificate.issuer_der != issuer.subject_der:
            raise VerificationError(
                name,
                f"{certificate.subject} names another issuer than {issuer.subject}",
            )
    return " by ".join(certificate.common_name for certificate in every), None


def check_constraints(chain: Chain) -> tuple[str, None]:
    """Only those above the first (and a CA) may certify; no critical extension is unknown.

    Raises:
        VerificationError: `….constraints`.
    """
    name = f"{chain.kind.check}.constraints"
    for certificate in chain.certificates:
        is_ca = chain.kind.certifies or certificate is not chain.leaf
        if certificate.unknown_critical is not None:
            raise VerificationError(
                name,
                f"{certificate.subject} has a critical extension"
                f" {certificate.unknown_critical} that is not understood",
            )
        if certificate.is_ca is not is_ca or certificate.may_certify is not is_ca:
            raise VerificationError(
                name,
                f"{certificate.subject} {'may not' if is_ca else 'may'} certify others",
            )
    return "only CAs certify others", None


def check_validity(chain: Chain, now: datetime) -> tuple[str, None]:
    """`now` is in the window of all.

    Raises:
        VerificationError: `….validity`.
    """
    for certificate in chain.certificates:
        start, end = certificate.not_before, certificate.not_after
        if not start <= now <= end:
            raise VerificationError(
                f"{chain.kind.check}.validity",
                f"{certificate.subject} is valid from {utc(start)} to {utc(end)}, it is {utc(now)}",
                remedy="check the clock",
            )
    return f"until {utc(chain.window[1])}", None


def check_signatures(chain: Chain) -> tuple[str, None]:
    """Each certificate is signed by the next key; the root is what is pinned.

    Raises:
        VerificationError: `….signatures`.
    """
    name = f"{chain.kind.check}.signatures"
    for certificate, issuer in pairwise(chain.certificates):
        # A PCK comes once; its issuers come again and again.
        again = issuer is chain.root
        verify = issuer.key.holds if again else issuer.key.verify
        try:
            verify(certificate.signature, certificate.signed)
        except InvalidSignature:
            raise VerificationError(
                name, f"{certificate.subject} is not signed by its issuer"
            ) from None
    return f"{len(chain.certificates) - 1} by their issuers", None
