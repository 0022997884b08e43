"""How a report tree behaves, whatever is behind it: inherit, and give a `tree` fixture.

The rules are the kernel's (Linux `drivers/virt/coco/guest/report.c`, `fs/configfs/file.c`), as a
real 6.12 kernel showed them. `SnpSemantics` is for trees with the provider `sev_guest`,
`TdxSemantics` for `tdx_guest`; `TreeAsFiles` is for those that are reached through a file system.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

import pytest

from attestation.kernel_tree import KernelTree
from attestation.tsm import TsmTree

DATA, OTHER = bytes(range(64)), bytes(range(64, 128))
REPORT_DATA = slice(0x50, 0x90)  # of an SEV-SNP report
TDX_REPORT_DATA: Final = slice(568, 632)  # of a TDX quote, version 4


def error_of(operation: Callable[..., object], *arguments: object) -> str:
    """The name of the error number that an operation fails with."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what the tests compare
        operation(*arguments)
    assert caught.value.errno is not None
    return errno.errorcode[caught.value.errno]


def generation(tree: TsmTree, entry: str = "e") -> int:
    return int(tree.read(entry, "generation"))


class TsmSemantics:
    """What every tree must do."""

    provider: ClassVar[bytes]
    readable: ClassVar[tuple[str, ...]]
    where: ClassVar[slice]

    def test_an_entry_exists_from_mkdir_to_rmdir(self, tree: TsmTree) -> None:
        before = tree.entries()
        tree.mkdir("e")
        assert sorted([*before, "e"]) == tree.entries()
        assert error_of(tree.mkdir, "e") == "EEXIST"
        tree.rmdir("e")
        assert tree.entries() == before
        assert error_of(tree.rmdir, "e") == "ENOENT"

    def test_there_is_nothing_in_an_entry_that_does_not_exist(self, tree: TsmTree) -> None:
        assert error_of(tree.read, "none", "outblob") == "ENOENT"
        assert error_of(tree.write, "none", "inblob", DATA) == "ENOENT"

    def test_the_provider_is_one_line(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert tree.read("e", "provider") == self.provider + b"\n"

    def test_an_attribute_that_does_not_exist_is_not_found(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", "nothing") == "ENOENT"
        assert error_of(tree.write, "e", "nothing", b"x") == "ENOENT"

    def test_what_is_written_cannot_be_read(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", "inblob") == "EACCES"

    def test_what_is_read_cannot_be_written(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        for attribute in self.readable:
            assert error_of(tree.write, "e", attribute, b"x") == "EACCES"
        assert generation(tree) == 0

    def test_there_is_no_report_before_an_inblob(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", "outblob") == "EINVAL"

    def test_a_report_is_over_the_inblob(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        report = tree.read("e", "outblob")
        assert report[self.where] == DATA
        assert tree.read("e", "outblob") == report
        tree.write("e", "inblob", OTHER)
        assert tree.read("e", "outblob")[self.where] == OTHER

    def test_each_accepted_write_moves_the_generation_and_reads_do_not(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert generation(tree) == 0
        tree.write("e", "inblob", DATA)
        assert generation(tree) == 1
        tree.read("e", "outblob")
        tree.read("e", "provider")
        assert generation(tree) == 1
        tree.write("e", "inblob", DATA)
        assert generation(tree) == 2

    @pytest.mark.parametrize("size", [1, 32, 63])
    def test_a_short_inblob_is_taken_and_then_gives_no_report(
        self, tree: TsmTree, size: int
    ) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA[:size])
        assert generation(tree) == 1
        assert error_of(tree.read, "e", "outblob") == "EINVAL"

    def test_an_oversized_inblob_fails_and_yet_empties_what_was_there(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        tree.read("e", "outblob")
        assert error_of(tree.write, "e", "inblob", DATA + b"x") == "EFBIG"
        assert generation(tree) == 2
        assert error_of(tree.read, "e", "outblob") == "EINVAL"

    def test_an_empty_inblob_is_a_fault_and_yet_empties_what_was_there(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        assert error_of(tree.write, "e", "inblob", b"") == "EFAULT"
        assert generation(tree) == 2
        assert error_of(tree.read, "e", "outblob") == "EINVAL"

    def test_entries_do_not_touch_each_other(self, tree: TsmTree) -> None:
        for entry, data in (("e", DATA), ("f", OTHER)):
            tree.mkdir(entry)
            tree.write(entry, "inblob", data)
        assert tree.read("e", "outblob")[self.where] == DATA
        assert tree.read("f", "outblob")[self.where] == OTHER
        tree.rmdir("f")
        assert generation(tree) == 1

    def test_an_entry_that_is_made_again_starts_anew(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        tree.rmdir("e")
        tree.mkdir("e")
        assert generation(tree) == 0
        assert error_of(tree.read, "e", "outblob") == "EINVAL"


class SnpSemantics(TsmSemantics):
    """What every tree of an SEV-SNP machine must do."""

    provider = b"sev_guest"
    readable = ("outblob", "auxblob", "provider", "generation", "privlevel_floor")
    where = REPORT_DATA

    def test_the_floor_of_the_privilege_levels_is_one_line(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert tree.read("e", "privlevel_floor") == b"0\n"
        assert error_of(tree.read, "e", "privlevel") == "EACCES"

    def test_there_is_no_certificate_table_before_an_inblob(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", "auxblob") == "EINVAL"

    def test_reading_the_table_does_not_move_the_generation(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        tree.read("e", "auxblob")
        assert tree.read("e", "outblob")[self.where] == DATA
        assert generation(tree) == 1
        tree.write("e", "privlevel", b"1\n")
        assert generation(tree) == 2

    @pytest.mark.parametrize("text", [b"0", b"1", b"2\n", b"3\n", b"0x1", b"01"])
    def test_the_privilege_level_is_text(self, tree: TsmTree, text: bytes) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        tree.write("e", "privlevel", text)
        level = int(text, 16) if b"x" in text else int(text)
        assert tree.read("e", "outblob")[0x30:0x34] == level.to_bytes(4, "little")

    @pytest.mark.parametrize("text", [b"4", b"-1", b"\x01", b" 1", b"1 ", b"1\n\n", b"one"])
    def test_another_privilege_level_is_refused_and_does_not_count(
        self, tree: TsmTree, text: bytes
    ) -> None:
        tree.mkdir("e")
        assert error_of(tree.write, "e", "privlevel", text) == "EINVAL"
        assert generation(tree) == 0

    @pytest.mark.parametrize("text", [b"4294967296", b"0x1ffffffff\n", b"9" * 30 + b"x"])
    def test_a_privilege_level_that_is_no_32_bits_is_out_of_range(
        self, tree: TsmTree, text: bytes
    ) -> None:
        tree.mkdir("e")
        assert error_of(tree.write, "e", "privlevel", text) == "ERANGE"
        assert generation(tree) == 0

    def test_an_empty_write_of_text_is_a_fault_and_does_not_count(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.write, "e", "privlevel", b"") == "EFAULT"
        assert generation(tree) == 0


class TdxSemantics(TsmSemantics):
    """What every tree of a TDX machine must do."""

    provider = b"tdx_guest"
    readable = ("outblob", "provider", "generation")
    where = TDX_REPORT_DATA

    @pytest.mark.parametrize("attribute", ["auxblob", "privlevel", "privlevel_floor"])
    def test_there_is_nothing_of_sev_snp(self, tree: TsmTree, attribute: str) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        assert error_of(tree.read, "e", attribute) == "ENOENT"
        assert error_of(tree.write, "e", attribute, b"1") == "ENOENT"
        assert generation(tree) == 1


class TreeAsFiles:
    """What a tree looks like to programs that know only files. Needs a `tree` fixture."""

    writable: ClassVar[frozenset[str]] = frozenset({"inblob", "privlevel"})
    binary: ClassVar[frozenset[str]] = frozenset({"inblob", "outblob", "auxblob"})

    @pytest.fixture
    def entry(self, tree: KernelTree) -> Path:
        tree.mkdir("e")
        return tree.path / "e"

    def test_modes_and_sizes(self, entry: Path) -> None:
        assert stat.S_IMODE(entry.stat().st_mode) == 0o755
        found = {path.name: path.stat() for path in entry.iterdir()}
        assert found.keys() >= {"inblob", "outblob", "provider", "generation"}
        for name, info in found.items():
            assert stat.S_ISREG(info.st_mode)
            assert stat.S_IMODE(info.st_mode) == (0o200 if name in self.writable else 0o444)
            assert info.st_size == (0 if name in self.binary else 4096)

    def test_nothing_but_entries_can_be_made_or_removed(
        self, entry: Path, tree: KernelTree
    ) -> None:
        assert error_of(os.unlink, entry / "inblob") == "EPERM"
        assert error_of(os.rmdir, entry / "inblob") == "ENOTDIR"
        assert error_of(os.mkdir, entry / "more") == "EPERM"
        assert error_of(os.rename, entry, tree.path / "f") == "EPERM"
        assert error_of(os.rename, entry / "inblob", entry / "outblob") == "EPERM"
        assert error_of(os.symlink, "inblob", entry / "link") == "EPERM"
        assert error_of(os.link, entry / "inblob", entry / "link") == "EPERM"
        assert error_of(os.open, entry / "new", os.O_CREAT | os.O_WRONLY) == "EACCES"
        assert error_of(os.open, tree.path / "new", os.O_CREAT | os.O_WRONLY) == "EACCES"
        assert tree.entries() == ["e"]

    @pytest.mark.parametrize("name", ["inblob", "outblob", "generation"])
    def test_no_attribute_opens_for_both(self, entry: Path, name: str) -> None:
        assert error_of(os.open, entry / name, os.O_RDWR) == "EACCES"

    def test_an_inblob_counts_at_close_and_its_parts_make_one(
        self, entry: Path, tree: KernelTree
    ) -> None:
        descriptor = os.open(entry / "inblob", os.O_WRONLY)
        assert os.write(descriptor, DATA[:32]) == 32
        assert os.write(descriptor, DATA[32:]) == 32
        assert generation(tree) == 0
        os.close(descriptor)
        assert generation(tree) == 1
        assert DATA in tree.read("e", "outblob")

    def test_what_fitted_before_an_oversized_part_counts(
        self, entry: Path, tree: KernelTree
    ) -> None:
        descriptor = os.open(entry / "inblob", os.O_WRONLY)
        os.write(descriptor, DATA)
        assert error_of(os.write, descriptor, b"x") == "EFBIG"
        os.close(descriptor)
        assert generation(tree) == 1
        assert DATA in tree.read("e", "outblob")

    def test_an_inblob_that_was_opened_and_not_written_counts_for_nothing(
        self, entry: Path, tree: KernelTree
    ) -> None:
        tree.write("e", "inblob", DATA)
        os.close(os.open(entry / "inblob", os.O_WRONLY | os.O_TRUNC))
        assert generation(tree) == 1
        assert DATA in tree.read("e", "outblob")

    def test_a_read_is_a_snapshot_of_its_first_moment(self, entry: Path, tree: KernelTree) -> None:
        tree.write("e", "inblob", DATA)
        descriptor = os.open(entry / "outblob", os.O_RDONLY)
        content = os.read(descriptor, 100)
        tree.write("e", "inblob", OTHER)
        while chunk := os.read(descriptor, 100):
            content += chunk
        os.close(descriptor)
        assert DATA in content
        assert OTHER in tree.read("e", "outblob")

    def test_an_open_file_outlives_its_entry_without_content(
        self, entry: Path, tree: KernelTree
    ) -> None:
        reading = os.open(entry / "generation", os.O_RDONLY)
        writing = os.open(entry / "inblob", os.O_WRONLY)
        tree.rmdir("e")
        assert error_of(os.read, reading, 100) == "ENOENT"
        tree.mkdir("e")  # another one of the same name
        os.close(reading)
        os.close(writing)
        assert generation(tree) == 0

    def test_many_entries_are_listed(self, tree: KernelTree) -> None:
        names = [f"entry-{number:03}" for number in range(300)]
        for name in names:
            tree.mkdir(name)
        assert tree.entries() == names
        for name in names:
            tree.rmdir(name)
        assert tree.entries() == []
