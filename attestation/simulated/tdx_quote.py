"""Quotes of the simulated TEE in Intel's format, versions 4 and 5.

Source of the layout: Intel "TDX DCAP Quoting Library API", appendix 3, as read by
`attestation.tdx.abi`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.tdx.abi import INTEL_QE_VENDOR

# Nothing was launched, so nothing was measured: fixed values that say where they come from.
SIMULATED_MRTD: Final = hashlib.sha384(b"lucid simulated mrtd").digest()
MRSEAM: Final = hashlib.sha384(b"lucid simulated tdx module").digest()
MRSIGNER: Final = hashlib.sha256(b"lucid simulated quoting enclave's signer").digest()
MRENCLAVE: Final = hashlib.sha256(b"lucid simulated quoting enclave").digest()
TEE_TCB_SVN: Final = bytes((7, 1, 3)) + bytes(13)  # module TDX_01, version 7
QE_ISVPRODID: Final = 2
QE_ISVSVN: Final = 8
_SEPT_VE_DISABLE: Final = 1 << 28
_AUTH_DATA: Final = bytes(range(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class TdFields:
    """What a simulated TD report says; the defaults are a quiet, up-to-date TD.

    Attributes:
        tee_tcb_svn2, mrservicetd: 16 and 48 bytes of a report of TD 1.5; None: one of TD 1.0.
    """

    report_data: bytes
    tee_tcb_svn: bytes = TEE_TCB_SVN
    mrseam: bytes = MRSEAM
    mrsignerseam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: int = _SEPT_VE_DISABLE
    xfam: int = 0xE7
    mrtd: bytes = SIMULATED_MRTD
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    rtmr: tuple[bytes, bytes, bytes, bytes] = (bytes(48),) * 4
    tee_tcb_svn2: bytes | None = None
    mrservicetd: bytes | None = None

    def encode(self) -> bytes:
        """584 bytes (TD 1.0) or 648 (TD 1.5).

        Raises:
            ValueError: a field has a wrong length.
        """
        body = b"".join(
            (
                self.tee_tcb_svn,
                self.mrseam,
                self.mrsignerseam,
                self.seam_attributes,
                self.td_attributes.to_bytes(8, "little"),
                self.xfam.to_bytes(8, "little"),
                self.mrtd,
                self.mrconfigid,
                self.mrowner,
                self.mrownerconfig,
                *self.rtmr,
                self.report_data,
                self.tee_tcb_svn2 or b"",
                self.mrservicetd or b"",
            )
        )
        if len(body) != (584 if self.tee_tcb_svn2 is None else 648):
            raise ValueError(f"a TD report has not {len(body)} bytes")
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class QeFields:
    """What the simulated quoting enclave's report says."""

    miscselect: int = 0
    attributes: bytes = b"\x11" + bytes(7) + b"\xe7" + bytes(7)
    mrsigner: bytes = MRSIGNER
    isvprodid: int = QE_ISVPRODID
    isvsvn: int = QE_ISVSVN

    def encode(self, report_data: bytes) -> bytes:
        """384 bytes."""
        return b"".join(
            (
                bytes(16),
                self.miscselect.to_bytes(4, "little"),
                bytes(28),
                self.attributes,
                MRENCLAVE,
                bytes(32),
                self.mrsigner,
                bytes(96),
                self.isvprodid.to_bytes(2, "little"),
                self.isvsvn.to_bytes(2, "little"),
                bytes(60),
                report_data,
            )
        )


def make_quote(
    td: TdFields,
    *,
    attestation_key: ec.EllipticCurvePrivateKey,
    pck_key: ec.EllipticCurvePrivateKey,
    pck_chain: bytes,
    qe: QeFields | None = None,
) -> bytes:
    """A signed quote: version 4 for a report of TD 1.0, version 5 for one of TD 1.5."""
    body, version = td.encode(), 4 if td.tee_tcb_svn2 is None else 5
    header = _le(version, 2) + _le(2, 2) + _le(0x81, 4) + bytes(4) + INTEL_QE_VENDOR + bytes(20)
    described = body if version == 4 else _le(3, 2) + _le(len(body), 4) + body
    signed = header + described
    point = attestation_key.public_key().public_bytes(
        Encoding.X962, PublicFormat.UncompressedPoint
    )[1:]
    bound = hashlib.sha256(point + _AUTH_DATA).digest() + bytes(32)
    qe_report = (qe or QeFields()).encode(bound)
    certification = (
        qe_report
        + sign_raw(pck_key, qe_report)
        + _sized(_AUTH_DATA, 2)
        + _le(5, 2)
        + _sized(pck_chain, 4)
    )
    rest = sign_raw(attestation_key, signed) + point + _le(6, 2) + _sized(certification, 4)
    return signed + _sized(rest, 4)


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """r ‖ s, big-endian, over the SHA-256 of the data."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _le(number: int, size: int) -> bytes:
    return number.to_bytes(size, "little")


def _sized(data: bytes, size: int) -> bytes:
    return _le(len(data), size) + data
