"""AMD's extensions of a VCEK's or VLEK's certificate, in exact DER.

Source: AMD "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
(publication 57230), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509

from attestation.errors import MalformedError, UncheckableError
from attestation.snp.product import ProductLine, Tcb

AMD_ARC: Final = "1.3.6.1.4.1.3704."
_OID: Final = AMD_ARC + "1."
OID_STRUCT_VERSION: Final = _OID + "1"
OID_PRODUCT_NAME: Final = _OID + "2"
OID_BOOTLOADER: Final = _OID + "3.1"
OID_TEE: Final = _OID + "3.2"
OID_SNP: Final = _OID + "3.3"
OIDS_RESERVED: Final = tuple(f"{_OID}3.{number}" for number in (4, 5, 6, 7))
OID_MICROCODE: Final = _OID + "3.8"
OID_FMC: Final = _OID + "3.9"
OID_HWID: Final = _OID + "4"
OID_CSP_ID: Final = _OID + "5"
_KNOWN: Final = {
    OID_STRUCT_VERSION,
    OID_PRODUCT_NAME,
    OID_BOOTLOADER,
    OID_TEE,
    OID_SNP,
    *OIDS_RESERVED,
    OID_MICROCODE,
    OID_FMC,
    OID_HWID,
    OID_CSP_ID,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdExtensions:
    """AMD's extensions of an endorsement key's certificate.

    Attributes:
        struct_version: 0 or 1.
        product_name: e.g. `Milan-B0`, `Genoa`; a VLEK's has no stepping.
        tcb: what the certificate was issued for.
        hwid: VCEK only: 64 bytes, on Turin 8; None in a VLEK.
        csp_id: VLEK only: the cloud provider, e.g. `CN=cc-us-east-2.amazonaws.com`.
    """

    struct_version: int
    product_name: str
    tcb: Tcb
    hwid: bytes | None
    csp_id: str | None

    @classmethod
    def parse(cls, extensions: x509.Extensions) -> AmdExtensions:
        """Read the extensions of a VCEK or VLEK, each exactly once and in exact DER.

        Raises:
            MalformedError: `snp.certs.extension`: one is missing, doubled, unknown or not DER.
        """
        values = _values(extensions)
        if any(_small_integer(values, oid) for oid in OIDS_RESERVED if oid in values):
            raise MalformedError("snp.certs.extension", "a reserved patch level is not zero")
        struct_version = _small_integer(values, OID_STRUCT_VERSION)
        if struct_version > 1:
            raise MalformedError(
                "snp.certs.extension", f"structure version {struct_version} is not 0 or 1"
            )
        tcb = Tcb(
            bootloader=_small_integer(values, OID_BOOTLOADER),
            tee=_small_integer(values, OID_TEE),
            snp=_small_integer(values, OID_SNP),
            microcode=_small_integer(values, OID_MICROCODE),
            fmc=_small_integer(values, OID_FMC) if OID_FMC in values else None,
        )
        hwid = values.get(OID_HWID)
        if hwid is not None and len(hwid) not in (8, 64):
            raise MalformedError(
                "snp.certs.extension", f"the hardware id has {len(hwid)} bytes, not 64 or 8"
            )
        return cls(
            struct_version=struct_version,
            product_name=_ia5_string(values, OID_PRODUCT_NAME),
            tcb=tcb,
            hwid=hwid,
            csp_id=_ia5_string(values, OID_CSP_ID) if OID_CSP_ID in values else None,
        )

    @property
    def product_line(self) -> ProductLine:
        """The product line that the name states; what follows `-` is a stepping.

        Raises:
            UncheckableError: `snp.chain.product_line`: a product that is not known here.
        """
        try:
            return ProductLine(self.product_name.split("-", 1)[0])
        except ValueError:
            raise UncheckableError(
                "snp.chain.product_line", f"the product {self.product_name!r} is not known"
            ) from None


def _values(extensions: x509.Extensions) -> dict[str, bytes]:
    """Raw values of AMD's extensions by OID; none in AMD's arc may be unknown."""
    values: dict[str, bytes] = {}
    for extension in extensions:
        oid = extension.oid.dotted_string
        if not oid.startswith(AMD_ARC):
            continue
        # Exact types: `isinstance` is slow for these, and none has subclasses.
        if oid not in _KNOWN or type(extension.value) is not x509.UnrecognizedExtension:
            raise MalformedError("snp.certs.extension", f"the extension {oid} is not known")
        values[oid] = extension.value.value
    return values


def _required(values: dict[str, bytes], oid: str) -> bytes:
    try:
        return values[oid]
    except KeyError:
        raise MalformedError("snp.certs.extension", f"the extension {oid} is missing") from None


def _small_integer(values: dict[str, bytes], oid: str) -> int:
    """A DER INTEGER of 0 to 255: 128 and more take two bytes, and nothing may follow."""
    value = _required(values, oid)
    match tuple(value):
        case (0x02, 0x01, number) if number < 0x80:
            return number
        case (0x02, 0x02, 0x00, number) if number >= 0x80:
            return number
    raise MalformedError(
        "snp.certs.extension", f"{oid}: {value[:8].hex()} is not a DER INTEGER of 0 to 255"
    )


def _ia5_string(values: dict[str, bytes], oid: str) -> str:
    """A DER IA5String of 1 to 127 printable characters."""
    value = _required(values, oid)
    text = value[2:]
    if value[:1] != b"\x16" or value[1:2] != bytes((len(text) & 0xFF,)) or not 0 < len(text) < 128:
        raise MalformedError("snp.certs.extension", f"{oid} is not a DER IA5String")
    if not text.isascii() or not text.decode("ascii").isprintable():
        raise MalformedError("snp.certs.extension", f"{oid} is not printable ASCII")
    return text.decode("ascii")
