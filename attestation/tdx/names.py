"""Who may vouch for a quote: Intel, or a simulated vendor that somebody chose to accept.

The pinned root key is what is trusted. The names tell apart what the same root certifies: CAs for
PCKs, and the key that signs documents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

# SHA-256 of the SubjectPublicKeyInfo of CN=Intel SGX Root CA. Two certificates of this key exist.
INTEL_ROOT: Final = bytes.fromhex(
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Roots and names that belong together.

    Attributes:
        roots: SHA-256 pins (32 bytes) of root keys.
        prefix: stands before every common name.
        organization: every attribute of a name but the common name.
    """

    roots: Collection[bytes]
    prefix: str
    organization: Mapping[x509.ObjectIdentifier, str]

    def name(self, common_name: str) -> x509.Name:
        """A full name of this vendor: `common_name` is what follows the prefix."""
        attributes = [x509.NameAttribute(oid, value) for oid, value in self.organization.items()]
        own = x509.NameAttribute(NameOID.COMMON_NAME, self.prefix + common_name)
        return x509.Name([own, *attributes])


INTEL: Final = Vendor(
    roots=frozenset({INTEL_ROOT}),
    prefix="Intel SGX ",
    organization=MappingProxyType(
        {
            NameOID.ORGANIZATION_NAME: "Intel Corporation",
            NameOID.LOCALITY_NAME: "Santa Clara",
            NameOID.STATE_OR_PROVINCE_NAME: "CA",
            NameOID.COUNTRY_NAME: "US",
        }
    ),
)


def simulated(roots: Collection[bytes]) -> Vendor:
    """A vendor in software: it proves nothing, and its names say so."""
    return Vendor(
        roots=roots,
        prefix="Lucid SIMULATED SGX ",
        organization=MappingProxyType(
            {NameOID.ORGANIZATION_NAME: "Lucid SIMULATED hardware vendor"}
        ),
    )
