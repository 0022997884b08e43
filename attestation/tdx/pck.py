"""What a PCK certificate says of its platform: Intel's SGX extensions, read exactly.

Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification", 1.3.5.
Reading proves nothing: the chain is verified elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    def parse(cls, certificate: x509.Certificate) -> PckExtensions:
        """Read the extensions of a PCK certificate, each exactly once and in exact DER.

        Raises:
            MalformedError: `tdx.pck.extension`: one is missing, doubled, of a wrong size, not DER.
        """
        try:
            extension = certificate.extensions.get_extension_for_oid(SGX_EXTENSIONS)
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
            raise MalformedError(CODE, f"the PCK certificate: {error}") from None
        if not isinstance(extension.value, x509.UnrecognizedExtension):
            raise _wrong("it is of another kind")
        return cls.decode(extension.value.value)

    @classmethod
    def decode(cls, der: bytes) -> PckExtensions:
        """The same, from the extension's value."""
        values = _pairs(_content(der, _SEQUENCE))
        if missing := [oid for oid in _MANDATORY if oid not in values]:
            raise _wrong(f"{len(missing)} mandatory parts are missing")
        tcb = _pairs(_content(values[_TCB], _SEQUENCE))
        wanted = {_TCB + bytes((number,)) for number in range(1, 19)}
        if set(tcb) != wanted:
            raise _wrong("the TCB has not exactly its 18 parts")
        instance = values.get(_INSTANCE)
        return cls(
            ppid=_octets(values[_PPID], 16),
            components=bytes(_number(tcb[_TCB + bytes((n,))], 255) for n in range(1, 17)),
            pcesvn=_number(tcb[_PCESVN], 0xFFFF),
            cpusvn=_octets(tcb[_CPUSVN], 16),
            pceid=_octets(values[_PCEID], 2),
            fmspc=_octets(values[_FMSPC], 6),
            sgx_type=_number(values[_TYPE], 2, tag=_ENUMERATED),
            platform_instance=None if instance is None else _octets(instance, 16),
        )


def _pairs(data: bytes) -> dict[bytes, bytes]:
    """SEQUENCE { OID, value } one after another: the value, still encoded, by the OID's octets."""
    found: dict[bytes, bytes] = {}
    for item in _items(data):
        parts = list(_items(_content(item, _SEQUENCE)))
        if len(parts) != 2:
            raise _wrong("a part is not an OID with a value")
        oid = _content(parts[0], _OID)
        if oid in found:
            raise _wrong("a part is doubled")
        found[oid] = parts[1]
    return found


def _items(data: bytes) -> Iterator[bytes]:
    """The encoded items that `data` consists of; lengths in their shortest form."""
    position = 0
    while position < len(data):
        start = position + 2
        size = data[position + 1] if start <= len(data) else 0x80
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[start : start + count], "big")
            if not 1 <= count <= 2 or size < (0x80 if count == 1 else 0x100):
                raise _wrong("a length is not in DER")
            start += count
        end = start + size
        if end > len(data):
            raise _wrong("it ends too early")
        yield data[position:end]
        position = end


def _content(item: bytes, tag: int) -> bytes:
    if item[:1] != bytes((tag,)) or len(list(_items(item))) != 1:
        raise _wrong(f"a part has not the tag {tag:#x}")
    header = 2 + (item[1] & 0x7F if item[1] >= 0x80 else 0)
    return item[header:]


def _octets(item: bytes, size: int) -> bytes:
    content = _content(item, _OCTETS)
    if len(content) != size:
        raise _wrong(f"a part has {len(content)} bytes, not {size}")
    return content


def _number(item: bytes, most: int, *, tag: int = _INTEGER) -> int:
    content = _content(item, tag)
    number = int.from_bytes(content, "big", signed=True)
    shortest = content == number.to_bytes(
        max((number.bit_length() + 8) // 8, 1), "big", signed=True
    )
    if not content or not shortest or not 0 <= number <= most:
        raise _wrong(f"a number is not in DER, or not between 0 and {most}")
    return number


def _wrong(what: str) -> MalformedError:
    return MalformedError(CODE, f"the SGX extensions of the PCK certificate are malformed: {what}")
