"""What a relying party demands of an SNP report, as a typed TOML file.

A key that is left out has the default of `SnpPolicy()`, which is what a newcomer gets without a
file. A key that is not known is refused: a demand with a typing error must not vanish.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, TypeVar

from attestation.errors import MalformedError
from attestation.snp.abi import ProductLine, Tcb

MAX_POLICY_SIZE: Final = 1024 * 1024
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

T = TypeVar("T")
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
        if len(data) > MAX_POLICY_SIZE:
            raise MalformedError(CODE, f"the policy has {len(data)} bytes")
        try:
            table = tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise MalformedError(CODE, f"the policy is not TOML: {error}") from None
        return cls(**{name: _read(name, table[name]) for name in _known(table, _READERS, "")})


def _known(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> list[str]:
    for name in table:
        if name not in known:
            near = ", ".join(sorted(known))
            raise MalformedError(
                CODE, f"unknown key {where}{name!r}", remedy=f"known here are: {near}"
            )
    return list(table)


def _read(name: str, value: object) -> Any:
    try:
        return _READERS[name](value)
    except MalformedError as error:
        raise MalformedError(CODE, f"{name}: {error}", remedy=error.remedy) from None


def _wrong(wanted: str) -> MalformedError:
    return MalformedError(CODE, f"{wanted} is expected")


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false")
    return value


def _number(most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise _wrong(f"a number from 0 to {most}")
        return value

    return read


def _items(value: object) -> list[object]:
    if not isinstance(value, list) or not value:
        raise _wrong("a list that is not empty")
    return value


def _hex(*sizes: int, pad: int = 0) -> Callable[[object], frozenset[bytes]]:
    def read(value: object) -> frozenset[bytes]:
        found = set()
        for item in _items(value):
            try:
                raw = bytes.fromhex(item) if isinstance(item, str) else b""
            except ValueError:
                raw = b""
            if len(raw) not in sizes:
                raise _wrong(f"a list of hex strings of {' or '.join(map(str, sizes))} bytes")
            found.add(raw.ljust(pad, b"\0"))
        return frozenset(found)

    return read


def _lines(value: object) -> frozenset[ProductLine]:
    return frozenset(_line(item) for item in _items(value))


def _line(value: object) -> ProductLine:
    try:
        return ProductLine(str(value))
    except ValueError:
        raise _wrong(f"one of {', '.join(ProductLine)}") from None


def _texts(value: object) -> frozenset[str]:
    items = _items(value)
    if not all(isinstance(item, str) for item in items):
        raise _wrong("a list of strings")
    return frozenset(str(item) for item in items)


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong("a table")
    return value


def _minimum(value: object) -> dict[ProductLine, Tcb]:
    return {_line(name): _tcb(levels, _line(name)) for name, levels in _table(value).items()}


def _tcb(value: object, line: ProductLine) -> Tcb:
    names = {"bootloader", "tee", "snp", "microcode"} | (
        {"fmc"} if line is ProductLine.TURIN else set()
    )
    table = _table(value)
    level = _number(255)
    levels = {name: level(table[name]) for name in _known(table, dict.fromkeys(names), f"{line}.")}
    return Tcb(**({"bootloader": 0, "tee": 0, "snp": 0, "microcode": 0} | levels))


def _abi(value: object) -> tuple[int, int]:
    level = _number(255)
    match value:
        case [major, minor]:
            return level(major), level(minor)
    raise _wrong("[major, minor]")


def _rules(kind: type[T], extra: Mapping[str, Callable[[object], Any]]) -> Callable[[object], T]:
    readers = {item.name: extra.get(item.name, _flag) for item in fields(kind)}  # type: ignore[arg-type]

    def read(value: object) -> T:
        table = _table(value)
        found = {}
        for name in _known(table, readers, ""):
            try:
                found[name] = readers[name](table[name])
            except MalformedError as error:
                raise MalformedError(CODE, f"{name}: {error}") from None
        return kind(**found)

    return read


def _vmpls(value: object) -> frozenset[int]:
    level = _number(3)
    return frozenset(level(item) for item in _items(value))


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "product_lines": _lines,
    "require_crl": _flag,
    "sb_3019": _flag,
    "minimum_reported": _minimum,
    "minimum_committed": _minimum,
    "minimum_launch": _minimum,
    "allow_provisional_firmware": _flag,
    "guest": _rules(GuestRules, {"minimum_abi": _abi}),
    "platform": _rules(PlatformRules, {}),
    "vmpl": _vmpls,
    "minimum_guest_svn": _number(2**32 - 1),
    "measurements": _hex(48),
    "host_data": _hex(32),
    "family_ids": _hex(16),
    "image_ids": _hex(16),
    "report_ids": _hex(32),
    "id_keys": _hex(48),
    "author_keys": _hex(48),
    "chip_ids": _hex(8, 64, pad=64),
    "csp_ids": _texts,
    "launch_mitigations": _number(2**63 - 1),
    "current_mitigations": _number(2**63 - 1),
}
