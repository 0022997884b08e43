"""The certificate table that the host hands to an SNP guest beside its report.

Source: AMD "SEV-ES Guest-Hypervisor Communication Block Standardization" (publication 56421), SNP
extended guest request. A table is an array of 24-byte entries {GUID 16, offset u32, length u32},
ended by an entry of zeros; the data follow, and offsets count from the start of the table. The host
writes all of it, so all of it is hostile: nothing here is trusted until it chains to a pin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from attestation.errors import MalformedError

MAX_TABLE_SIZE: Final = 65_536  # bytes; Linux passes on at most 16 KiB
MAX_ENTRIES: Final = 32
MAX_CERTIFICATE_SIZE: Final = 8_192  # bytes; the largest real one is 2.4 KiB of PEM

_ENTRY_SIZE: Final = 24
_TERMINATOR: Final = bytes(_ENTRY_SIZE)


class TableEntry(Enum):
    """The contents that are understood; entries with other GUIDs are ignored."""

    VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
    VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
    ICA = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")  # ASK for a VCEK, ASVK for a VLEK
    ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
    CRL = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")


_KNOWN: Final = {entry.value.bytes_le: entry for entry in TableEntry}


@dataclass(frozen=True, slots=True)
class CertTable:
    """What a table holds: the bytes of each understood entry, DER or PEM as the host gave them."""

    contents: Mapping[TableEntry, bytes]

    @classmethod
    def parse(cls, data: bytes) -> CertTable:
        """Read a table. Bytes that no entry points to are ignored (hosts pad to a page).

        An empty table, or no bytes at all (the host supplied none), gives no contents.

        Raises:
            MalformedError: `snp.certs.*`: too large, no terminator, a GUID twice, or data that
                lie outside the table or over its header.
        """
        if len(data) > MAX_TABLE_SIZE:
            raise MalformedError(
                "snp.certs.size",
                f"a certificate table of {len(data)} bytes is over {MAX_TABLE_SIZE}",
            )
        data = bytes(data)
        entries = _entries(data) if data else []
        header = (len(entries) + 1) * _ENTRY_SIZE
        seen: set[bytes] = set()
        contents: dict[TableEntry, bytes] = {}
        for guid, offset, length in entries:
            if guid in seen:
                raise MalformedError(
                    "snp.certs.duplicate", f"{UUID(bytes_le=guid)} is twice in the table"
                )
            seen.add(guid)
            # Python's integers do not wrap: a huge offset plus a huge length stays huge.
            if offset < header or offset + length > len(data):
                raise MalformedError(
                    "snp.certs.bounds",
                    f"{UUID(bytes_le=guid)} claims bytes {offset} to {offset + length} of "
                    f"{len(data)}; the first {header} are the header",
                )
            if (entry := _KNOWN.get(guid)) is None:
                continue
            if not length or (length > MAX_CERTIFICATE_SIZE and entry is not TableEntry.CRL):
                raise MalformedError(
                    "snp.certs.length",
                    f"the {entry.name} has {length} bytes; 1 to {MAX_CERTIFICATE_SIZE} are allowed",
                )
            contents[entry] = data[offset : offset + length]
        return cls(MappingProxyType(contents))

    def encode(self) -> bytes:
        """A table with these contents, without padding."""
        offset = (len(self.contents) + 1) * _ENTRY_SIZE
        header, body = bytearray(), bytearray()
        for entry, content in self.contents.items():
            header += entry.value.bytes_le
            header += offset.to_bytes(4, "little") + len(content).to_bytes(4, "little")
            body += content
            offset += len(content)
        return bytes(header + _TERMINATOR + body)


def _entries(data: bytes) -> list[tuple[bytes, int, int]]:
    """(GUID, offset, length) of each entry up to the terminator."""
    entries: list[tuple[bytes, int, int]] = []
    for start in range(0, _ENTRY_SIZE * (MAX_ENTRIES + 1), _ENTRY_SIZE):
        entry = data[start : start + _ENTRY_SIZE]
        if len(entry) < _ENTRY_SIZE:
            raise MalformedError("snp.certs.terminator", "the table ends inside its header")
        if entry == _TERMINATOR:
            return entries
        entries.append(
            (
                entry[:16],
                int.from_bytes(entry[16:20], "little"),
                int.from_bytes(entry[20:], "little"),
            )
        )
    raise MalformedError("snp.certs.entries", f"the table has more than {MAX_ENTRIES} entries")
