"""The TDX quote: bytes to typed fields, and nothing taken on trust.

Source: Intel "TDX DCAP Quoting Library API", appendix 3 (quote format of versions 4 and 5), and the
"Intel TDX Module Base Architecture Specification" (TD attributes, XFAM). All integers are
little-endian but the halves of signatures and keys. Every nested length must be consumed exactly.
What follows the signature data is padding of the host's: it is ignored, and nothing may ever
identify a quote by its bytes (see `Quote.identity`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from attestation.errors import MalformedError, UncheckableError

MAX_QUOTE_SIZE: Final = 64 * 1024  # bytes; real ones have up to 9,500, padding included
HEADER_SIZE: Final = 48
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_TDX: Final = 0x81
_SGX: Final = 0x00
_ECDSA_P256: Final = 2
_ECDSA_P384: Final = 3
_SIZE_OF_BODY: Final = {2: 584, 3: 648}  # TD 1.0, TD 1.5
_QE_REPORT_CERTIFICATION: Final = 6
_PCK_CHAIN: Final = 5
_QE_REPORT_SIZE: Final = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the body.

    Attributes:
        version: 4 or 5.
        qe_svn, pce_svn: of version 4 only reserved space; not to be used as evidence.
        user_data: 20 bytes; the first 16 name the platform's QE instance.
    """

    version: int
    qe_svn: int
    pce_svn: int
    user_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The TD's report: what the hardware measured.

    Attributes:
        tee_tcb_svn: 16 levels of the platform when the TD was launched.
        td_attributes, xfam: 8 bytes each, as integers.
        rtmr: four run-time measurements of 48 bytes.
        tee_tcb_svn2: TD 1.5: the levels now; None in TD 1.0.
        mrservicetd: TD 1.5: hash of bound service TDs; None in TD 1.0.
    """

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None
    mrservicetd: bytes | None

    @property
    def debug(self) -> bool:
        """The host may look into this TD: one of the bits 0 to 7 (TUD, "TD under debug") is set,
        of which 0 is DEBUG. Intel: with any of them the TD is not to be trusted.
        """
        return bool(self.td_attributes & 0xFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class QeReport:
    """The SGX report of the quoting enclave, which vouches for the attestation key."""

    cpusvn: bytes
    miscselect: int
    attributes: bytes
    mrenclave: bytes
    mrsigner: bytes
    isvprodid: int
    isvsvn: int
    report_data: bytes
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One quote, structurally sound. No signature is checked here.

    Attributes:
        signed: what the attestation key signed: header and body.
        signature: r ‖ s, big-endian, by the attestation key.
        attestation_key: x ‖ y, big-endian, on P-256 or not.
        qe_signature: r ‖ s by the PCK key over `qe_report.raw`.
        qe_auth_data: hashed into the QE report with the key.
        pck_chain: PEM certificates as the host gave them; may end with zero bytes.
    """

    header: Header
    report: TdReport
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    attestation_key: bytes
    qe_report: QeReport
    qe_signature: bytes = field(repr=False)
    qe_auth_data: bytes
    pck_chain: bytes = field(repr=False)

    @property
    def identity(self) -> bytes:
        """SHA-256 of what is signed: the same however the host pads or re-encodes the rest."""
        return hashlib.sha256(self.signed).digest()

    @classmethod
    def parse(cls, data: bytes) -> Quote:
        """Read a quote of version 4 or 5.

        Raises:
            MalformedError: `tdx.quote.*`: a length is wrong, or a reserved value is used.
            UncheckableError: `tdx.quote.unsupported`: an SGX quote, a P-384 key, another kind of
                certification data or of TD report: well formed perhaps, and not understood here.
        """
        if len(data) > MAX_QUOTE_SIZE:
            raise MalformedError("tdx.quote.length", f"a quote of {len(data)} bytes")
        quote = _Reader(bytes(data), "quote")
        header = _header(quote)
        report = _body(quote, header.version)
        signed = quote.taken
        rest = _Reader(quote.sized(4), "signature data")
        signature, key = rest.take(64), rest.take(64)
        kind = rest.number(2)
        if kind != _QE_REPORT_CERTIFICATION:
            raise _unsupported(f"certification data of type {kind}; type 6 is understood")
        certification = _Reader(rest.sized(4), "QE certification data")
        rest.finish()
        qe_report = _qe_report(certification.take(_QE_REPORT_SIZE))
        qe_signature = certification.take(64)
        auth_data = certification.sized(2)
        kind = certification.number(2)
        if kind != _PCK_CHAIN:
            raise _unsupported(f"inner certification data of type {kind}; type 5 is understood")
        chain = certification.sized(4)
        certification.finish()
        return cls(
            header=header,
            report=report,
            signed=signed,
            signature=signature,
            attestation_key=key,
            qe_report=qe_report,
            qe_signature=qe_signature,
            qe_auth_data=auth_data,
            pck_chain=chain,
        )


class _Reader:
    """Takes fields off the front; never beyond the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    @property
    def taken(self) -> bytes:
        return self._data[: self._at]

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedError(
                "tdx.quote.length",
                f"the {self._what} ends after {len(self._data)} bytes, {end} are needed",
            )
        part, self._at = self._data[self._at : end], end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def sized(self, size: int) -> bytes:
        """A field with its length, of `size` bytes, before it."""
        return self.take(self.number(size))

    def finish(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise MalformedError(
                "tdx.quote.length", f"{left} bytes are left over in the {self._what}"
            )


def _header(quote: _Reader) -> Header:
    version, key_type, tee = quote.number(2), quote.number(2), quote.number(4)
    if tee == _SGX:
        raise _unsupported("an SGX quote")
    if tee != _TDX:
        raise MalformedError("tdx.quote.tee_type", f"TEE type {tee:#x} is not TDX (0x81)")
    if version not in (4, 5):
        raise MalformedError("tdx.quote.version", f"quote version {version} is not 4 or 5")
    if key_type == _ECDSA_P384:
        raise _unsupported("an attestation key on P-384")
    if key_type != _ECDSA_P256:
        raise MalformedError("tdx.quote.key_type", f"attestation key type {key_type} is unknown")
    qe_svn, pce_svn, vendor, user_data = (
        quote.number(2),
        quote.number(2),
        quote.take(16),
        quote.take(20),
    )
    if vendor != INTEL_QE_VENDOR:
        raise MalformedError("tdx.quote.vendor", f"the QE vendor {vendor.hex()} is not Intel")
    return Header(version=version, qe_svn=qe_svn, pce_svn=pce_svn, user_data=user_data)


def _body(quote: _Reader, version: int) -> TdReport:
    kind, size = 2, _SIZE_OF_BODY[2]
    if version == 5:
        kind, size = quote.number(2), quote.number(4)
        if kind not in _SIZE_OF_BODY:
            raise _unsupported(f"a body of type {kind}; TD 1.0 and TD 1.5 are understood")
        if size != _SIZE_OF_BODY[kind]:
            raise MalformedError(
                "tdx.quote.length", f"a body of type {kind} has {_SIZE_OF_BODY[kind]} bytes"
            )
    body = _Reader(quote.take(size), "TD report")
    take = body.take
    report = TdReport(
        tee_tcb_svn=take(16),
        mrseam=take(48),
        mrsignerseam=take(48),
        seam_attributes=take(8),
        td_attributes=body.number(8),
        xfam=body.number(8),
        mrtd=take(48),
        mrconfigid=take(48),
        mrowner=take(48),
        mrownerconfig=take(48),
        rtmr=(take(48), take(48), take(48), take(48)),
        report_data=take(64),
        tee_tcb_svn2=take(16) if kind == 3 else None,
        mrservicetd=take(48) if kind == 3 else None,
    )
    body.finish()
    return report


def _qe_report(raw: bytes) -> QeReport:
    reader = _Reader(raw, "QE report")
    cpusvn, miscselect, _ = reader.take(16), reader.number(4), reader.take(28)
    attributes, mrenclave, _, mrsigner, _ = (
        reader.take(16),
        reader.take(32),
        reader.take(32),
        reader.take(32),
        reader.take(96),
    )
    isvprodid, isvsvn, _ = reader.number(2), reader.number(2), reader.take(60)
    report_data = reader.take(64)
    reader.finish()
    return QeReport(
        cpusvn=cpusvn,
        miscselect=miscselect,
        attributes=attributes,
        mrenclave=mrenclave,
        mrsigner=mrsigner,
        isvprodid=isvprodid,
        isvsvn=isvsvn,
        report_data=report_data,
        raw=raw,
    )


def _unsupported(what: str) -> UncheckableError:
    return UncheckableError(
        "tdx.quote.unsupported", f"this is {what}", remedy="a newer version may understand it"
    )
