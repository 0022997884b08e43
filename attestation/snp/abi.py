"""The SEV-SNP attestation report: bytes to typed fields, and nothing taken on trust.

Source: AMD "SEV Secure Nested Paging Firmware ABI Specification" (publication 56860), tables
"ATTESTATION_REPORT" and "Guest policy". All integers are little-endian. No report from real
hardware that we know of has a non-zero reserved byte, so all of them are enforced, with one
exception: unknown bits of `platform_info` are kept, because real chips set newer ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from attestation.errors import MalformedError
from attestation.snp.product import EndorsementKey, ProductLine, product_line

REPORT_SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0  # bytes that the signature covers
REPORT_DATA: Final = slice(0x50, 0x90)  # the 64 bytes that the guest chose
VERSIONS: Final = (2, 3, 4, 5)

_SIGNATURE_R: Final = 0x2A0
_SIGNATURE_S: Final = 0x2E8
_SIGNATURE_END: Final = 0x330
_COMPONENT_SIZE: Final = 48  # bytes of r or s that a P-384 signature uses; 72 are reserved for it
_ECDSA_P384_SHA384: Final = 1
_VMPL_HOST: Final = 0xFFFF_FFFF
_POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_KNOWN: Final = (1 << 26) - 1


class _SigningKey(IntEnum):
    """SIGNING_KEY of the signer info; the other values are reserved."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The guest policy that the launch enforced."""

    raw: int
    abi_major: int
    abi_minor: int
    smt: bool
    migrate_ma: bool
    debug: bool
    single_socket: bool
    cxl: bool
    mem_aes_256_xts: bool
    rapl_dis: bool
    ciphertext_hiding: bool
    page_swap_disable: bool

    @classmethod
    def parse(cls, raw: int) -> Policy:
        """Split the 64-bit policy.

        Raises:
            MalformedError: `snp.report.policy`: bit 17 is clear, or one of bits 26..63 is set.
        """
        if not raw & _POLICY_RESERVED_ONE or raw & ~_POLICY_KNOWN:
            raise MalformedError(
                "snp.report.policy", f"reserved bits of the guest policy {raw:#x} are wrong"
            )
        return cls(
            raw=raw,
            abi_minor=raw & 0xFF,
            abi_major=raw >> 8 & 0xFF,
            smt=bool(raw >> 16 & 1),
            migrate_ma=bool(raw >> 18 & 1),
            debug=bool(raw >> 19 & 1),
            single_socket=bool(raw >> 20 & 1),
            cxl=bool(raw >> 21 & 1),
            mem_aes_256_xts=bool(raw >> 22 & 1),
            rapl_dis=bool(raw >> 23 & 1),
            ciphertext_hiding=bool(raw >> 24 & 1),
            page_swap_disable=bool(raw >> 25 & 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformInfo:
    """What the platform had switched on. `unknown` holds the bits that have no name here."""

    raw: int
    smt: bool
    tsme: bool
    ecc: bool
    rapl_dis: bool
    ciphertext_hiding: bool
    alias_check_complete: bool
    tio: bool
    unknown: int

    @classmethod
    def parse(cls, raw: int) -> PlatformInfo:
        """Split the 64-bit field. Bit 6 is set on real Turin chips; it has no public name."""
        return cls(
            raw=raw,
            smt=bool(raw & 1),
            tsme=bool(raw >> 1 & 1),
            ecc=bool(raw >> 2 & 1),
            rapl_dis=bool(raw >> 3 & 1),
            ciphertext_hiding=bool(raw >> 4 & 1),
            alias_check_complete=bool(raw >> 5 & 1),
            tio=bool(raw >> 7 & 1),
            unknown=raw & ~0b1011_1111,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareVersion:
    """Version of the SNP firmware, e.g. 1.55.29 (build last)."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One attestation report, structurally sound. Its signature is *not* checked here.

    The TCB versions are raw 8 bytes: their layout depends on the product line, which version 2
    does not state. `Tcb.decode` reads them.

    Attributes:
        cpuid: (family, model, stepping); None in version 2.
        launch_mit_vector, current_mit_vector: mitigation bits; None before version 5.
        signature_r, signature_s: the integers; their range is checked with the signature.
        raw: all 1184 bytes.
    """

    version: int
    guest_svn: int
    policy: Policy
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: PlatformInfo
    author_key_en: bool
    mask_chip_key: bool
    signing_key: EndorsementKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: bytes
    launch_mit_vector: int | None
    current_mit_vector: int | None
    signature_r: int
    signature_s: int
    raw: bytes = field(repr=False)

    @property
    def debug(self) -> bool:
        """The host may read and write this guest's memory: the guest has no secrets."""
        return self.policy.debug

    @property
    def signed_bytes(self) -> bytes:
        """Exactly what the signature covers: bytes 0x000 to 0x29F."""
        return self.raw[:SIGNED_SIZE]

    @property
    def product_line(self) -> ProductLine | None:
        """The product line by CPUID; None in version 2, which does not state it.

        Raises:
            UncheckableError: `snp.chain.product_line`: a CPU that has no known product line.
        """
        return None if self.cpuid is None else product_line(*self.cpuid[:2])

    @classmethod
    def parse(cls, data: bytes) -> Report:
        """Read a report of version 2, 3, 4 or 5.

        Raises:
            MalformedError: `snp.report.*`: wrong length or version, a reserved byte or bit is set,
                or the report is one that proves nothing (requested by the host, not signed).
        """
        if len(data) != REPORT_SIZE:
            raise MalformedError(
                "snp.report.length", f"a report has {REPORT_SIZE} bytes, this has {len(data)}"
            )
        data = bytes(data)
        version = _u32(data, 0x000)
        if version not in VERSIONS:
            raise MalformedError(
                "snp.report.version", f"report version {version} is not one of {VERSIONS}"
            )
        for start, end in _reserved(version):
            if any(data[start:end]):
                raise MalformedError(
                    "snp.report.reserved",
                    f"bytes {start:#x} to {end - 1:#x} of a version {version} report must be zero",
                )
        if (algorithm := _u32(data, 0x034)) != _ECDSA_P384_SHA384:
            raise MalformedError(
                "snp.report.algorithm",
                f"signature algorithm {algorithm} is not ECDSA P-384 with SHA-384",
            )
        signer = _u32(data, 0x048)
        report = cls(
            version=version,
            guest_svn=_u32(data, 0x004),
            policy=Policy.parse(_u64(data, 0x008)),
            family_id=data[0x010:0x020],
            image_id=data[0x020:0x030],
            vmpl=_vmpl(_u32(data, 0x030)),
            current_tcb=data[0x038:0x040],
            platform_info=PlatformInfo.parse(_u64(data, 0x040)),
            author_key_en=bool(signer & 1),
            mask_chip_key=bool(signer >> 1 & 1),
            signing_key=_signing_key(signer),
            report_data=data[REPORT_DATA],
            measurement=data[0x090:0x0C0],
            host_data=data[0x0C0:0x0E0],
            id_key_digest=data[0x0E0:0x110],
            author_key_digest=data[0x110:0x140],
            report_id=data[0x140:0x160],
            report_id_ma=data[0x160:0x180],
            reported_tcb=data[0x180:0x188],
            cpuid=(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
            chip_id=data[0x1A0:0x1E0],
            committed_tcb=data[0x1E0:0x1E8],
            current_version=_firmware(data, 0x1E8),
            committed_version=_firmware(data, 0x1EC),
            launch_tcb=data[0x1F0:0x1F8],
            launch_mit_vector=_u64(data, 0x1F8) if version >= 5 else None,
            current_mit_vector=_u64(data, 0x200) if version >= 5 else None,
            signature_r=int.from_bytes(data[_SIGNATURE_R:][:_COMPONENT_SIZE], "little"),
            signature_s=int.from_bytes(data[_SIGNATURE_S:][:_COMPONENT_SIZE], "little"),
            raw=data,
        )
        if any(report.author_key_digest) and not report.author_key_en:
            raise MalformedError(
                "snp.report.author_key", "an author key digest is given, but no author key is used"
            )
        return report


def _reserved(version: int) -> tuple[tuple[int, int], ...]:
    """Ranges [start, end) that must be zero in a report of this version."""
    return (
        (0x04C, 0x050),
        (0x188 if version < 3 else 0x18B, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x1F8 if version < 5 else 0x208, 0x2A0),
        (_SIGNATURE_R + _COMPONENT_SIZE, _SIGNATURE_S),
        (_SIGNATURE_S + _COMPONENT_SIZE, _SIGNATURE_END),
        (_SIGNATURE_END, REPORT_SIZE),
    )


def _vmpl(value: int) -> int:
    if value == _VMPL_HOST:
        raise MalformedError(
            "snp.report.host_requested", "the host asked for this report, not the guest"
        )
    if value > 3:
        raise MalformedError("snp.report.vmpl", f"there is no VMPL {value}")
    return value


def _signing_key(signer: int) -> EndorsementKey:
    """SIGNING_KEY, bits 2 to 4; bits 5 to 31 must be zero."""
    if signer >> 5:
        raise MalformedError(
            "snp.report.reserved", f"reserved bits of the signer info {signer:#x} are set"
        )
    match signer >> 2 & 0b111:
        case _SigningKey.VCEK:
            return EndorsementKey.VCEK
        case _SigningKey.VLEK:
            return EndorsementKey.VLEK
        case _SigningKey.NONE:
            raise MalformedError("snp.report.unsigned", "the firmware did not sign this report")
        case other:
            raise MalformedError("snp.report.signing_key", f"signing key {other} is reserved")


def _firmware(data: bytes, offset: int) -> FirmwareVersion:
    build, minor, major = data[offset : offset + 3]
    return FirmwareVersion(major=major, minor=minor, build=build)


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
