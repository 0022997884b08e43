"""What a relying party demands of an SNP report, as a typed TOML file.

A key that is left out has the default of `SnpPolicy()`, which is what a newcomer gets without a
file. A key that is not known is refused: a demand with a typing error must not vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from attestation.policy_file import (
    expected,
    flag,
    hex_set,
    items,
    number,
    read_policy,
    read_table,
    rules,
    table_of,
    texts,
)
from attestation.snp.product import ProductLine, Tcb

CODE: Final = "snp.policy.format"

# AMD-SB-3019 (CVE-2024-56161, forged microcode): the first levels in which it is mended. Turin is
# not named in it. The boot loader is not part of the bulletin.
SB_3019: Final[Mapping[ProductLine, Tcb]] = MappingProxyType(
    {
        ProductLine.MILAN: Tcb(bootloader=0, tee=0, snp=0x18, microcode=0),
        ProductLine.GENOA: Tcb(bootloader=0, tee=0, snp=0x17, microcode=0),
    }
)
# Its microcode levels differ by part: (family, model, stepping) → level. Those of the X parts and
# the steppings could not be compared with AMD's own page: doubtful until somebody does.
SB_3019_MICROCODE: Final[Mapping[tuple[int, int, int], int]] = MappingProxyType(
    {
        (0x19, 0x01, 1): 0xDB,  # Milan
        (0x19, 0x01, 2): 0x44,  # Milan-X
        (0x19, 0x11, 1): 0x54,  # Genoa
        (0x19, 0x11, 2): 0x4F,  # Genoa-X
        (0x19, 0xA0, 2): 0x19,  # Bergamo, Siena
    }
)

_Minimum = Mapping[ProductLine, Tcb]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRules:
    """The guest policy that the launch enforced.

    Attributes:
        allow_debug: the host may read the guest's memory. Nothing is secret then.
        allow_migration: a migration agent may move the guest.
        allow_smt: the guest may run on cores with SMT.
        require_*: the guest must have demanded this of the platform.
        minimum_abi: lowest (major, minor) of the firmware ABI that the guest demanded.
    """

    allow_debug: bool = False
    allow_migration: bool = False
    allow_smt: bool = True
    require_single_socket: bool = False
    require_ciphertext_hiding: bool = False
    require_rapl_disabled: bool = False
    require_aes_256_xts: bool = False
    minimum_abi: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformRules:
    """What the platform must have switched on or off (`platform_info`)."""

    require_smt_off: bool = False
    require_tsme: bool = False
    require_ecc: bool = False
    require_rapl_disabled: bool = False
    require_ciphertext_hiding: bool = False
    require_alias_check: bool = False
    require_tio: bool = False
    refuse_unknown_bits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPolicy:
    """All demands. Empty sets and None demand nothing.

    Attributes:
        product_lines: others are refused.
        require_crl: a fresh revocation list must have been checked.
        sb_3019: the levels of AMD-SB-3019 are demanded of the reported TCB.
        minimum_reported, minimum_committed, minimum_launch: levels per product line.
        allow_provisional_firmware: the committed TCB may be below the current one.
        vmpl: privilege levels that may have asked for the report.
        minimum_guest_svn: of the ID block.
        measurements, host_data, family_ids, image_ids, report_ids: one of each set must be it.
        id_keys, author_keys: SHA-384 digests of trusted keys; either set is enough.
        chip_ids: 64 bytes (Turin: 8, padded with zeros); csp_ids: as a VLEK names the provider.
        launch_mitigations, current_mitigations: bits that must be set (version 5 and later).
    """

    product_lines: frozenset[ProductLine] = frozenset(ProductLine)
    require_crl: bool = False
    sb_3019: bool = True
    minimum_reported: _Minimum = field(default_factory=dict)
    minimum_committed: _Minimum = field(default_factory=dict)
    minimum_launch: _Minimum = field(default_factory=dict)
    allow_provisional_firmware: bool = False
    guest: GuestRules = field(default_factory=GuestRules)
    platform: PlatformRules = field(default_factory=PlatformRules)
    vmpl: frozenset[int] = frozenset({0, 1, 2, 3})
    minimum_guest_svn: int = 0
    measurements: frozenset[bytes] = frozenset()
    host_data: frozenset[bytes] = frozenset()
    family_ids: frozenset[bytes] = frozenset()
    image_ids: frozenset[bytes] = frozenset()
    report_ids: frozenset[bytes] = frozenset()
    id_keys: frozenset[bytes] = frozenset()
    author_keys: frozenset[bytes] = frozenset()
    chip_ids: frozenset[bytes] = frozenset()
    csp_ids: frozenset[str] = frozenset()
    launch_mitigations: int = 0
    current_mitigations: int = 0

    @classmethod
    def parse(cls, data: bytes) -> SnpPolicy:
        """Read a policy file.

        Raises:
            MalformedError: `snp.policy.format`: not TOML, an unknown key, a wrong type or size.
        """
        return cls(**read_policy(data, _READERS, CODE))


def _lines(value: object) -> frozenset[ProductLine]:
    return frozenset(_line(item) for item in items(value))


def _line(value: object) -> ProductLine:
    try:
        return ProductLine(str(value))
    except ValueError:
        raise expected(f"one of {', '.join(ProductLine)}") from None


def _minimum(value: object) -> dict[ProductLine, Tcb]:
    return {_line(name): _tcb(levels, _line(name)) for name, levels in table_of(value).items()}


def _tcb(value: object, line: ProductLine) -> Tcb:
    names = {"bootloader", "tee", "snp", "microcode"} | (
        {"fmc"} if line is ProductLine.TURIN else set()
    )
    levels = read_table(table_of(value), dict.fromkeys(names, number(255)))
    return Tcb(**({"bootloader": 0, "tee": 0, "snp": 0, "microcode": 0} | levels))


def _abi(value: object) -> tuple[int, int]:
    level = number(255)
    match value:
        case [major, minor]:
            return level(major), level(minor)
    raise expected("[major, minor]")


def _vmpls(value: object) -> frozenset[int]:
    level = number(3)
    return frozenset(level(item) for item in items(value))


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "product_lines": _lines,
    "require_crl": flag,
    "sb_3019": flag,
    "minimum_reported": _minimum,
    "minimum_committed": _minimum,
    "minimum_launch": _minimum,
    "allow_provisional_firmware": flag,
    "guest": rules(GuestRules, {"minimum_abi": _abi}),
    "platform": rules(PlatformRules, {}),
    "vmpl": _vmpls,
    "minimum_guest_svn": number(2**32 - 1),
    "measurements": hex_set(48),
    "host_data": hex_set(32),
    "family_ids": hex_set(16),
    "image_ids": hex_set(16),
    "report_ids": hex_set(32),
    "id_keys": hex_set(48),
    "author_keys": hex_set(48),
    "chip_ids": hex_set(8, 64, pad=64),
    "csp_ids": texts,
    "launch_mitigations": number(2**63 - 1),
    "current_mitigations": number(2**63 - 1),
}
