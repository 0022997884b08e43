"""What a PCK certificate says of its platform: Intel's SGX extensions, read exactly.

Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification", 1.3.5.
Reading proves nothing: the chain is verified elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509

from attestation.errors import MalformedError

SGX_EXTENSIONS: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
CODE: Final = "tdx.pck.extension"

# Content octets of the OIDs: 1.2.840.113741.1.13.1, then the last arcs.
_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_PPID, _TCB, _PCEID, _FMSPC, _TYPE, _INSTANCE, _CONFIGURATION = (
    _ARC + bytes((number,)) for number in range(1, 8)
)
_PCESVN: Final = _TCB + bytes((17,))
_CPUSVN: Final = _TCB + bytes((18,))
_SEQUENCE, _OID, _OCTETS, _INTEGER, _ENUMERATED, _BOOLEAN = 0x30, 0x06, 0x04, 0x02, 0x0A, 0x01
_COMPONENTS: Final = tuple(_TCB + bytes((number,)) for number in range(1, 17))
_TCB_PARTS: Final = {*_COMPONENTS, _PCESVN, _CPUSVN}
_MANDATORY: Final = (_PPID, _TCB, _PCEID, _FMSPC, _TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtensions:
    """A platform as Intel certified it.

    Attributes:
        ppid: 16 bytes; names the platform. It links a machine over tenants: treat it as private.
        components: 16 levels of the platform's TCB.
        pcesvn: level of the provisioning certification enclave.
        cpusvn: 16 bytes; the same levels in the CPU's own form.
        pceid: 2 bytes.
        fmspc: 6 bytes; the family, model and stepping that TCB infos are for.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
        platform_instance: 16 bytes, of platforms with several sockets; else None.
    """

    ppid: bytes
    components: bytes
    pcesvn: int
    cpusvn: bytes
    pceid: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance: bytes | None

    @classmethod
    def decode(cls, der: bytes) -> PckExtensions:
        """Read the value of a PCK certificate's extension, each part exactly once, in exact DER.

        Raises:
            MalformedError: `tdx.pck.extension`: one is missing, doubled, of a wrong size, not DER.
        """
        values = _pairs(der, 0, len(der))
        if missing := [oid for oid in _MANDATORY if oid not in values]:
            raise _wrong(f"{len(missing)} mandatory parts are missing")
        tcb = _pairs(der, *values[_TCB])
        if tcb.keys() != _TCB_PARTS:
            raise _wrong("the TCB has not exactly its 18 parts")
        instance = values.get(_INSTANCE)
        return cls(
            ppid=_octets(der, values[_PPID], 16),
            components=bytes(_number(der, tcb[oid], 255) for oid in _COMPONENTS),
            pcesvn=_number(der, tcb[_PCESVN], 0xFFFF),
            cpusvn=_octets(der, tcb[_CPUSVN], 16),
            pceid=_octets(der, values[_PCEID], 2),
            fmspc=_octets(der, values[_FMSPC], 6),
            sgx_type=_number(der, values[_TYPE], 2, tag=_ENUMERATED),
            platform_instance=None if instance is None else _octets(der, instance, 16),
        )


_Span = tuple[int, int]  # of one encoded element, its header included


def _pairs(der: bytes, start: int, end: int) -> dict[bytes, _Span]:
    """SEQUENCE of SEQUENCE { OID, value }: where the value is, by the OID's octets."""
    found: dict[bytes, _Span] = {}
    position = _content(der, (start, end), _SEQUENCE)
    while position < end:
        first, after = _header(der, position, end)
        name, value = _header(der, first, after)
        if der[position] != _SEQUENCE or der[first] != _OID or value >= after:
            raise _wrong("a part is not an OID with a value")
        oid = der[name:value]
        if oid in found:
            raise _wrong("a part is doubled")
        found[oid] = (value, after)
        position = after
    return found


def _header(der: bytes, position: int, limit: int) -> _Span:
    """Where an element's content begins and ends; lengths in their shortest form."""
    start = position + 2
    size = der[position + 1] if start <= limit else 0x80
    if size >= 0x80:
        count = size & 0x7F
        size = int.from_bytes(der[start : start + count], "big")
        if not 1 <= count <= 2 or size < (0x80 if count == 1 else 0x100):
            raise _wrong("a length is not in DER")
        start += count
    if start + size > limit:
        raise _wrong("it ends too early")
    return start, start + size


def _content(der: bytes, span: _Span, tag: int) -> int:
    """Where the content begins of the one element, of this tag, that a span consists of."""
    start, end = _header(der, *span)
    if end != span[1] or der[span[0]] != tag:
        raise _wrong(f"a part has not the tag {tag:#x}, or something follows it")
    return start


def _octets(der: bytes, span: _Span, size: int) -> bytes:
    content = der[_content(der, span, _OCTETS) : span[1]]
    if len(content) != size:
        raise _wrong(f"a part has {len(content)} bytes, not {size}")
    return content


def _number(der: bytes, span: _Span, most: int, *, tag: int = _INTEGER) -> int:
    content = der[_content(der, span, tag) : span[1]]
    # Shortest form, not negative: a zero byte leads only where the next one has its high bit.
    extra = content[0] == 0 and len(content) > 1 and content[1] < 0x80 if content else True
    number = int.from_bytes(content, "big")
    if extra or content[0] >= 0x80 or number > most:
        raise _wrong(f"a number is not in DER, or not between 0 and {most}")
    return number


def _wrong(what: str) -> MalformedError:
    return MalformedError(CODE, f"the SGX extensions of the PCK certificate are malformed: {what}")
