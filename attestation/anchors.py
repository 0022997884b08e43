"""What is trusted without proof: the roots of the hardware vendors, and nothing else.

A root is pinned by the SHA-256 of its SubjectPublicKeyInfo (DER). The certificate itself comes
with the evidence, so a re-issued certificate for the same key stays trusted, and no certificate is
shipped here. AMD has one root (ARK) per product line.

A simulated root lives in a set of its own. It never joins the AMD set, and a passport of the
simulated profile is never measured against the AMD set: the two are separate ways into one
verifier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.certificates import why_unreadable
from attestation.errors import MalformedError, VerificationError

MAX_CERTIFICATE_SIZE: Final = 16_384  # bytes of PEM or DER; an AMD root is 1.6 KiB of DER

# SHA-256 of the SPKI of CN=ARK-Milan (serial 65536), CN=ARK-Genoa (131072) and CN=ARK-Turin
# (196608), as served by AMD's key distribution service under /vcek/v1/{line}/cert_chain.
_AMD_ROOTS: Final = {
    "Milan": "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    "Genoa": "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    "Turin": "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """Pinned roots, each the SHA-256 (32 bytes) of a SubjectPublicKeyInfo.

    Attributes:
        amd: pins per product line ("Milan", "Genoa", "Turin").
        simulated: pins of simulated roots that the caller chose to accept.
    """

    amd: Mapping[str, frozenset[bytes]]
    simulated: frozenset[bytes] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        amd = {line: frozenset(pins) for line, pins in self.amd.items()}
        every = [*self.simulated, *(pin for pins in amd.values() for pin in pins)]
        if any(len(pin) != 32 for pin in every):
            raise ValueError("a pin is the SHA-256 of a SubjectPublicKeyInfo: 32 bytes")
        if len(set(every)) != len(every):
            raise VerificationError(
                "anchors.overlap",
                "one root key is pinned twice: as AMD's and as simulated, or for two product lines",
                remedy="a root of AMD cannot be the root of a simulated TEE",
            )
        object.__setattr__(self, "amd", MappingProxyType(amd))

    @classmethod
    def builtin(cls) -> TrustAnchors:
        """AMD's roots as pinned in this source; no simulated root."""
        return cls(
            amd={line: frozenset({bytes.fromhex(pin)}) for line, pin in _AMD_ROOTS.items()},
        )

    def with_simulated_root(self, certificate: bytes) -> TrustAnchors:
        """The same anchors and one simulated root, given as one PEM or DER certificate.

        Raises:
            MalformedError: `anchors.certificate`: not one certificate.
            VerificationError: `anchors.overlap`: the root is one of AMD's.
        """
        return replace(self, simulated=self.simulated | {spki_pin(_load(certificate))})


def spki_pin(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo, re-encoded as DER (32 bytes)."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(
            "anchors.certificate", f"the certificate's public key cannot be read: {error}"
        ) from None
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def _load(certificate: bytes) -> x509.Certificate:
    if len(certificate) > MAX_CERTIFICATE_SIZE:
        raise MalformedError(
            "anchors.certificate", f"{len(certificate)} bytes are too long for one certificate"
        )
    try:
        if b"-----BEGIN" in certificate:
            found = x509.load_pem_x509_certificates(certificate)
            if len(found) != 1:
                raise MalformedError(
                    "anchors.certificate", f"one root certificate is expected, not {len(found)}"
                )
            return found[0]
        return x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise MalformedError(
            "anchors.certificate",
            f"not an X.509 certificate: {why_unreadable(error)}",
            remedy="give the root of the simulated TEE as one PEM or DER file",
        ) from None
