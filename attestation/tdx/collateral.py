"""Intel's signed documents about TDX: TCB info and the identity of the quoting enclave.

Source: Intel PCS API version 4, "Get TDX TCB Info" and "Get TDX QE Identity". What is signed are
the exact bytes of the inner JSON value as received, so they are cut out, never written again.
`check_signed` and `check_current` judge signature and dates; the signer's certificates are in
`attestation.tdx.chain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from cryptography.exceptions import InvalidSignature

from attestation.certificates import utc
from attestation.errors import VerificationError
from attestation.tdx.certs import Certificate
from attestation.tdx.signatures import raw_signature
from attestation.tdx.signed_json import Fields, read_document, wrong


class TcbStatus(StrEnum):
    """What Intel says of a level. In a document any other word is refused."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    # No document says these: they are found by comparing a TD's launch with now (TD 1.5).
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


_S: Final = TcbStatus
# The words that Intel's own library knows in each kind of row.
_OF_MODULE: Final = frozenset({_S.UP_TO_DATE, _S.OUT_OF_DATE, _S.REVOKED})
_OF_ENCLAVE: Final = _OF_MODULE | {_S.CONFIGURATION_NEEDED, _S.OUT_OF_DATE_CONFIGURATION_NEEDED}
_OF_PLATFORM: Final = _OF_ENCLAVE | {
    _S.SW_HARDENING_NEEDED,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDocument:
    """A document with the bytes that its signature (r ‖ s, P-256 with SHA-256) covers."""

    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    issued: datetime
    next_update: datetime
    evaluation_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One row of a document, with what it says of itself."""

    status: TcbStatus
    date: datetime
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLevel(Level):
    """A row of TCB info: 16 SGX levels, the PCE's, 16 TDX levels."""

    sgx: bytes
    pcesvn: int
    tdx: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveLevel(Level):
    """A row of an identity, of the quoting enclave or of a TDX module."""

    isvsvn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleIdentity:
    """Who may be the TDX module; `number` is the major version in its id (`TDX_0A` is 10)."""

    number: int
    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[EnclaveLevel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo(SignedDocument):
    """TCB info of version 3 for TDX. `module` is for modules that have no number."""

    fmspc: bytes
    pceid: bytes
    module: ModuleIdentity
    modules: tuple[ModuleIdentity, ...]
    levels: tuple[PlatformLevel, ...]

    @classmethod
    def parse(cls, data: bytes) -> TcbInfo:
        """Read a document as served: `{"tcbInfo":{…},"signature":"…"}`.

        Raises:
            MalformedError: `tdx.collateral.format`: something else, also TCB info for SGX.
        """
        signed, signature, value = read_document(data, "tcbInfo")
        fields = Fields(value, "tcbInfo")
        if fields.text("id") != "TDX" or fields.number("version", 99) != 3:
            raise wrong("this is not TCB info of version 3 for TDX")
        if fields.number("tcbType", 99) != 0:
            raise wrong("an unknown way to compare TCBs (tcbType)")
        module = fields.table("tdxModule")
        return cls(
            signed=signed,
            signature=signature,
            issued=fields.time("issueDate"),
            next_update=fields.time("nextUpdate"),
            evaluation_number=fields.number("tcbEvaluationDataNumber", 2**31),
            fmspc=fields.octets("fmspc", 6),
            pceid=fields.octets("pceId", 2),
            module=_module(module, 0, ()),
            modules=tuple(
                _module(item, _module_number(item), item.levels(_module_level))
                for item in fields.tables("tdxModuleIdentities", optional=True)
            ),
            levels=fields.levels(_platform_level),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity(SignedDocument):
    """Identity of version 2 of the TD quoting enclave."""

    miscselect: int
    miscselect_mask: int
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isvprodid: int
    levels: tuple[EnclaveLevel, ...]

    @classmethod
    def parse(cls, data: bytes) -> QeIdentity:
        """Read a document as served: `{"enclaveIdentity":{…},"signature":"…"}`.

        Raises:
            MalformedError: `tdx.collateral.format`: something else, also of another enclave.
        """
        signed, signature, value = read_document(data, "enclaveIdentity")
        fields = Fields(value, "enclaveIdentity")
        if fields.text("id") != "TD_QE" or fields.number("version", 99) != 2:
            raise wrong("this is not an identity of version 2 of the TD quoting enclave")
        return cls(
            signed=signed,
            signature=signature,
            issued=fields.time("issueDate"),
            next_update=fields.time("nextUpdate"),
            evaluation_number=fields.number("tcbEvaluationDataNumber", 2**31),
            miscselect=int.from_bytes(fields.octets("miscselect", 4), "big"),
            miscselect_mask=int.from_bytes(fields.octets("miscselectMask", 4), "big"),
            attributes=fields.octets("attributes", 16),
            attributes_mask=fields.octets("attributesMask", 16),
            mrsigner=fields.octets("mrsigner", 32),
            isvprodid=fields.number("isvprodid", 0xFFFF),
            levels=fields.levels(_enclave_level),
        )


def check_signed(
    name: str, document: SignedDocument, signers: Sequence[Certificate]
) -> tuple[str, None]:
    """One of these keys signed the document.

    Raises:
        VerificationError: `name`: none did.
    """
    for signer in signers:
        with suppress(InvalidSignature):
            signer.key.holds(raw_signature(document.signature), document.signed)
            return f"by {signer.common_name}", None
    raise VerificationError(name, "Intel's document is not signed by Intel's key for documents")


def check_current(name: str, document: SignedDocument, now: datetime) -> tuple[str, None]:
    """`now` is between the document's issue and its next update.

    Raises:
        VerificationError: `name`: it is not.
    """
    if not document.issued <= now <= document.next_update:
        raise VerificationError(
            name,
            f"Intel's document is good from {utc(document.issued)} to"
            f" {utc(document.next_update)}, it is {utc(now)}",
            remedy="fetch the present document, or check the clock",
        )
    return f"number {document.evaluation_number}, until {utc(document.next_update)}", None


def _status(fields: Fields, known: frozenset[TcbStatus]) -> dict[str, Any]:
    word = fields.text("tcbStatus")
    try:
        status = TcbStatus(word)
    except ValueError:
        status = None
    if status not in known:
        raise wrong(f"the status {word[:40]!r} is not known here")
    return {
        "status": status,
        "date": fields.time("tcbDate"),
        "advisories": fields.strings("advisoryIDs"),
    }


def _platform_level(fields: Fields) -> PlatformLevel:
    tcb = fields.table("tcb")
    return PlatformLevel(
        sgx=_components(tcb, "sgxtcbcomponents"),
        pcesvn=tcb.number("pcesvn", 0xFFFF),
        tdx=_components(tcb, "tdxtcbcomponents"),
        **_status(fields, _OF_PLATFORM),
    )


def _components(tcb: Fields, name: str) -> bytes:
    found = tcb.items(name)
    levels: list[Any] = [item.get("svn") if isinstance(item, dict) else None for item in found]
    if len(levels) != 16 or not all(type(svn) is int and 0 <= svn <= 255 for svn in levels):
        raise wrong(f"{name} is not 16 levels between 0 and 255")
    return bytes(levels)


def _enclave_level(fields: Fields) -> EnclaveLevel:
    return _by_isvsvn(fields, _OF_ENCLAVE)


def _module_level(fields: Fields) -> EnclaveLevel:
    return _by_isvsvn(fields, _OF_MODULE)


def _by_isvsvn(fields: Fields, known: frozenset[TcbStatus]) -> EnclaveLevel:
    isvsvn = fields.table("tcb").number("isvsvn", 0xFFFF)
    return EnclaveLevel(isvsvn=isvsvn, **_status(fields, known))


def _module_number(fields: Fields) -> int:
    """The id is `TDX_` and the number in *hexadecimal*."""
    name = fields.text("id")
    digits = name.removeprefix("TDX_")
    if len(name) != 6 or len(digits) != 2 or not all(c in "0123456789abcdefABCDEF" for c in digits):
        raise wrong(f"the id {name[:40]!r} of a TDX module is not TDX_ and two hex digits")
    return int(digits, 16)


def _module(fields: Fields, number: int, levels: tuple[EnclaveLevel, ...]) -> ModuleIdentity:
    return ModuleIdentity(
        number=number,
        mrsigner=fields.octets("mrsigner", 48),
        attributes=fields.octets("attributes", 8),
        attributes_mask=fields.octets("attributesMask", 8),
        levels=levels,
    )
