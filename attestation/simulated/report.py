"""Reports of the simulated TEE: version 5, the exact layout of a real Genoa chip's.

Source of the layout: AMD publication 56860, as read by `attestation.snp.abi`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.snp.abi import REPORT_SIZE, SIGNED_SIZE
from attestation.snp.product import EndorsementKey, ProductLine, Tcb
from attestation.tsm import REPORT_DATA_SIZE

LINE: Final = ProductLine.GENOA
CPUID: Final = (0x19, 0x11, 0x01)  # family, model, stepping of a Genoa chip
TCB: Final = Tcb(bootloader=10, tee=0, snp=25, microcode=84)  # as on a real chip
# Nothing was launched, so nothing was measured: a fixed value that says where it comes from.
SIMULATED_MEASUREMENT: Final = hashlib.sha384(b"lucid simulated measurement").digest()

_POLICY: Final = 1 << 17 | 1 << 16  # the bit that must be one; SMT allowed; no debug, no migration
_PLATFORM_INFO: Final = 0b10_0101  # SMT, ECC memory, alias check complete


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFields:
    """What a simulated report says; the defaults are a quiet, up-to-date guest.

    Attributes:
        signing_key: written into the signer info; does not choose the key that signs.
        tcb: all four TCB versions.
    """

    report_data: bytes
    chip_id: bytes
    report_id: bytes = bytes(32)
    measurement: bytes = SIMULATED_MEASUREMENT
    host_data: bytes = bytes(32)
    vmpl: int = 0
    policy: int = _POLICY
    signing_key: EndorsementKey = EndorsementKey.VCEK
    cpuid: tuple[int, int, int] = CPUID
    tcb: bytes = TCB.encode(LINE)

    def encode(self) -> bytes:
        """The 1184 bytes, not signed yet.

        Raises:
            ValueError: a field has a wrong length.
        """
        report = bytearray(REPORT_SIZE)

        def put(offset: int, value: bytes | int, size: int) -> None:
            data = value.to_bytes(size, "little") if isinstance(value, int) else value
            if len(data) != size:
                raise ValueError(f"the field at {offset:#x} has {size} bytes, not {len(data)}")
            report[offset : offset + size] = data

        put(0x000, 5, 4)
        put(0x008, self.policy, 8)
        put(0x030, self.vmpl, 4)
        put(0x034, 1, 4)  # ECDSA P-384 with SHA-384
        put(0x038, self.tcb, 8)
        put(0x040, _PLATFORM_INFO, 8)
        put(0x048, (self.signing_key is EndorsementKey.VLEK) << 2, 4)
        put(0x050, self.report_data, REPORT_DATA_SIZE)
        put(0x090, self.measurement, 48)
        put(0x0C0, self.host_data, 32)
        put(0x140, self.report_id, 32)
        put(0x160, b"\xff" * 32, 32)  # no migration agent
        put(0x180, self.tcb, 8)
        put(0x188, bytes(self.cpuid), 3)
        put(0x1A0, self.chip_id, 64)
        put(0x1E0, self.tcb, 8)
        put(0x1E8, bytes((43, 55, 1)), 3)  # firmware 1.55.43
        put(0x1EC, bytes((43, 55, 1)), 3)
        put(0x1F0, self.tcb, 8)
        put(0x1F8, 1, 8)
        put(0x200, 1, 8)
        return bytes(report)


def sign(report: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The report with its signature: r, s over bytes 0 to 0x29F, each 72 bytes, little-endian."""
    r, s = decode_dss_signature(key.sign(report[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return report[:SIGNED_SIZE] + signature + bytes(REPORT_SIZE - SIGNED_SIZE - len(signature))
