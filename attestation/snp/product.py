"""AMD's products: their lines, their security patch levels, and the keys that vouch for them.

Source: AMD "SEV Secure Nested Paging Firmware ABI Specification" (publication 56860), table
"TCB_VERSION".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from attestation.errors import MalformedError, UncheckableError

_FAMILY_ZEN3_ZEN4: Final = 0x19
_FAMILY_ZEN5: Final = 0x1A


class ProductLine(StrEnum):
    """The product lines that AMD certifies, as its certificates spell them."""

    MILAN = "Milan"
    GENOA = "Genoa"  # also Bergamo and Siena
    TURIN = "Turin"


class EndorsementKey(StrEnum):
    """Which key signed a report: the chip's own, or one loaded for a cloud provider."""

    VCEK = "vcek"
    VLEK = "vlek"


def product_line(family: int, model: int) -> ProductLine:
    """The product line of a CPU by its combined CPUID family and model.

    Raises:
        UncheckableError: `snp.chain.product_line`: unknown; the layout of its TCB is unknown too.
    """
    if family == _FAMILY_ZEN3_ZEN4:
        if model <= 0x0F:
            return ProductLine.MILAN
        if 0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF:
            return ProductLine.GENOA
    if family == _FAMILY_ZEN5 and model <= 0x11:
        return ProductLine.TURIN
    raise UncheckableError(
        "snp.chain.product_line",
        f"no product line is known for CPU family {family:#x}, model {model:#x}",
        remedy="a newer version may know this CPU",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcb:
    """Security patch levels, each 0..255.

    Attributes:
        fmc: first mutable code; Turin only, else None.
        bootloader: ASP boot loader.
        tee: ASP operating system.
        snp: SNP firmware.
        microcode: lowest microcode of all cores.
    """

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    @classmethod
    def decode(cls, raw: bytes, line: ProductLine) -> Tcb:
        """Decode 8 bytes of TCB_VERSION by the layout of the product line, never by guess.

        Raises:
            MalformedError: `snp.report.tcb`: not 8 bytes, or a reserved byte is not zero.
        """
        if len(raw) != 8:
            raise MalformedError("snp.report.tcb", f"a TCB version has 8 bytes, not {len(raw)}")
        if line is ProductLine.TURIN:
            fmc, bootloader, tee, snp, *reserved, microcode = raw
            levels = cls(fmc=fmc, bootloader=bootloader, tee=tee, snp=snp, microcode=microcode)
        else:
            bootloader, tee, *reserved, snp, microcode = raw
            levels = cls(bootloader=bootloader, tee=tee, snp=snp, microcode=microcode)
        if any(reserved):
            raise MalformedError(
                "snp.report.tcb", f"reserved bytes of the TCB version {raw.hex()} ({line}) are set"
            )
        return levels

    def encode(self, line: ProductLine) -> bytes:
        """The 8 bytes that `decode` reads."""
        if line is ProductLine.TURIN:
            head = (self.fmc or 0, self.bootloader, self.tee, self.snp)
            return bytes((*head, 0, 0, 0, self.microcode))
        return bytes((self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode))

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        return (
            f"{fmc}boot loader {self.bootloader}, tee {self.tee}, snp {self.snp}, "
            f"microcode {self.microcode}"
        )
