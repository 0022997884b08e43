"""Who may appear in a chain: the exact distinguished names of AMD, and of the simulated vendor.

The pinned root key is what is trusted. The names tell apart what the same root certifies: product
lines, and the intermediate for VCEKs from the one for VLEKs. Their order in a name is not fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.snp.product import EndorsementKey, ProductLine

_MOST_READ: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorNames:
    """The names that one vendor's certificates bear.

    Attributes:
        common_name_prefix: stands before every common name; empty for AMD.
        organization: every attribute but the common name.
    """

    common_name_prefix: str
    organization: Mapping[x509.ObjectIdentifier, str]
    _read: dict[int, tuple[x509.Name, str | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def ark(self, line: ProductLine) -> str:
        """Common name of the root."""
        return f"{self.common_name_prefix}ARK-{line}"

    def ica(self, line: ProductLine, key: EndorsementKey) -> str:
        """Common name of the intermediate: ASK for VCEKs, ASVK for VLEKs."""
        infix = "VLEK-" if key is EndorsementKey.VLEK else ""
        return f"{self.common_name_prefix}SEV-{infix}{line}"

    def ek(self, key: EndorsementKey) -> str:
        """Common name of the endorsement key."""
        return f"{self.common_name_prefix}SEV-{key.upper()}"

    def common_name(self, name: x509.Name) -> str | None:
        """The common name, where `name` is one of this vendor's in every other attribute."""
        known = self._read.get(id(name))
        if known is not None and known[0] is name:
            return known[1]
        attributes = [(attribute.oid, attribute.value) for attribute in name]
        rest = dict(attributes)
        common_name = rest.pop(NameOID.COMMON_NAME, None)
        found = common_name if isinstance(common_name, str) else None
        if len(rest) + 1 != len(attributes) or rest != self.organization:
            found = None
        if len(self._read) >= _MOST_READ:
            self._read.clear()
        self._read[id(name)] = name, found  # with the name, so that its id stays its own
        return found

    def name(self, common_name: str) -> x509.Name:
        """A full name of this vendor."""
        attributes = [x509.NameAttribute(oid, value) for oid, value in self.organization.items()]
        return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


AMD: Final = VendorNames(
    common_name_prefix="",
    organization=MappingProxyType(
        {
            NameOID.ORGANIZATIONAL_UNIT_NAME: "Engineering",
            NameOID.COUNTRY_NAME: "US",
            NameOID.LOCALITY_NAME: "Santa Clara",
            NameOID.STATE_OR_PROVINCE_NAME: "CA",
            NameOID.ORGANIZATION_NAME: "Advanced Micro Devices",
        }
    ),
)

SIMULATED: Final = VendorNames(
    common_name_prefix="Lucid SIMULATED ",
    organization=MappingProxyType(
        {
            NameOID.ORGANIZATIONAL_UNIT_NAME: "Simulated TEE, proves nothing",
            NameOID.ORGANIZATION_NAME: "Lucid SIMULATED hardware vendor",
        }
    ),
)
