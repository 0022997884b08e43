"""The host's certificate table: every byte of it is hostile."""

from __future__ import annotations

import struct
from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError
from attestation.snp.table import (
    MAX_CERTIFICATE_SIZE,
    MAX_ENTRIES,
    MAX_TABLE_SIZE,
    CertTable,
    TableEntry,
)

VCEK, ICA, ARK = (e.value for e in (TableEntry.VCEK, TableEntry.ICA, TableEntry.ARK))
UNKNOWN = UUID("11111111-2222-3333-4444-555555555555")


def table(*entries: tuple[UUID, int, int], end: bytes = bytes(24), data: bytes = b"") -> bytes:
    header = b"".join(guid.bytes_le + struct.pack("<II", *place) for guid, *place in entries)
    return header + end + data


def code_of(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        CertTable.parse(data)
    return caught.value.code


def test_guids_are_stored_with_their_first_three_groups_little_endian() -> None:
    guid = bytes.fromhex("8d75da63 64e6 6445 adc5f4b93be8accd")
    data = guid + struct.pack("<II", 48, 3) + bytes(24) + b"abc"
    assert CertTable.parse(data).contents == {TableEntry.VCEK: b"abc"}


def test_what_is_encoded_is_read_again() -> None:
    contents = {entry: entry.name.encode() * 3 for entry in TableEntry}
    assert CertTable.parse(CertTable(contents).encode()).contents == contents


def test_padding_after_the_table_is_ignored() -> None:
    contents = {TableEntry.ARK: b"root"}
    assert CertTable.parse(CertTable(contents).encode() + bytes(4096)).contents == contents


@pytest.mark.parametrize("data", [b"", bytes(24), bytes(4096)])
def test_a_host_that_supplies_nothing_gives_an_empty_table(data: bytes) -> None:
    assert CertTable.parse(data).contents == {}


def test_an_unknown_guid_is_ignored() -> None:
    data = table((UNKNOWN, 72, 2), (VCEK, 74, 2), data=b"xxok")
    assert CertTable.parse(data).contents == {TableEntry.VCEK: b"ok"}


def test_data_up_to_the_last_byte_are_inside_the_table() -> None:
    assert CertTable.parse(table((VCEK, 48, 4), data=b"last")).contents == {
        TableEntry.VCEK: b"last"
    }


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (48, 5),  # one byte too long
        (52, 1),  # begins at the end
        (47, 1),  # the last byte of the terminator
        (0, 4),  # the header itself
        (24, 24),
        (0xFFFF_FFFF, 1),
        (48, 0xFFFF_FFFF),
        (0xFFFF_FFFF, 0xFFFF_FFFF),
        (0xFFFF_FFF0, 0x40),  # wraps to 48 in 32 bits
        (0xFFFF_FFFF - 3, 52),
        (0x8000_0000, 0x8000_0030),
    ],
)
@pytest.mark.parametrize("guid", [VCEK, UNKNOWN])
def test_data_outside_the_table_or_over_its_header_are_refused(
    guid: UUID, offset: int, length: int
) -> None:
    assert code_of(table((guid, offset, length), data=b"data")) == "snp.certs.bounds"


@pytest.mark.parametrize("guid", [VCEK, UNKNOWN])
def test_a_guid_that_is_there_twice_is_refused(guid: UUID) -> None:
    assert code_of(table((guid, 72, 1), (guid, 73, 1), data=b"ab")) == "snp.certs.duplicate"


def test_a_table_without_terminator_is_refused() -> None:
    assert code_of(table((VCEK, 24, 1), end=b"")) == "snp.certs.terminator"
    assert code_of(table((VCEK, 24, 1), end=bytes(23))) == "snp.certs.terminator"


def test_every_truncation_of_a_table_is_refused() -> None:
    whole = CertTable({TableEntry.VCEK: b"a" * 20, TableEntry.ARK: b"b" * 20}).encode()
    for size in range(1, len(whole)):
        assert code_of(whole[:size]) in {"snp.certs.terminator", "snp.certs.bounds"}


def test_too_many_entries_are_refused() -> None:
    entries = [(UUID(int=number + 1), 1000, 0) for number in range(MAX_ENTRIES + 1)]
    assert code_of(table(*entries, data=bytes(1000))) == "snp.certs.entries"
    CertTable.parse(table(*entries[:-1], data=bytes(1000)))


def test_an_oversized_table_is_refused() -> None:
    assert code_of(bytes(MAX_TABLE_SIZE + 1)) == "snp.certs.size"


@pytest.mark.parametrize("length", [0, MAX_CERTIFICATE_SIZE + 1])
def test_an_empty_or_oversized_certificate_is_refused(length: int) -> None:
    assert code_of(table((VCEK, 48, length), data=bytes(length))) == "snp.certs.length"


def test_a_revocation_list_may_be_longer_than_a_certificate() -> None:
    data = table((TableEntry.CRL.value, 48, 20_000), data=bytes(20_000))
    assert len(CertTable.parse(data).contents[TableEntry.CRL]) == 20_000


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_as_malformed(data: bytes) -> None:
    _parse_or_malformed(data)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([VCEK, ICA, ARK, UNKNOWN]),
            st.one_of(st.integers(0, 300), st.integers(0, 0xFFFF_FFFF)),
            st.one_of(st.integers(0, 300), st.integers(0, 0xFFFF_FFFF)),
        ),
        max_size=4,
    ),
    st.sampled_from([b"", bytes(24), b"\1" * 24]),
    st.binary(max_size=200),
)
def test_any_table_is_read_or_refused_as_malformed(
    entries: list[tuple[UUID, int, int]], end: bytes, data: bytes
) -> None:
    _parse_or_malformed(table(*entries, end=end, data=data))


def _parse_or_malformed(data: bytes) -> None:
    with suppress(MalformedError):  # any other exception is a failure
        contents = CertTable.parse(data).contents
        assert all(content in data for content in contents.values())
