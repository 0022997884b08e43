"""How a report tree behaves, whatever is behind it: inherit, and give a `tree` fixture.

The rules are the kernel's (Linux `drivers/virt/coco/guest/report.c`, `fs/configfs/file.c`), as a
real 6.12 kernel showed them. A tree under test has the provider `sev_guest`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from attestation.tsm import TsmTree

DATA, OTHER = bytes(range(64)), bytes(range(64, 128))
REPORT_DATA = slice(0x50, 0x90)


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
        assert tree.read("e", "provider") == b"sev_guest\n"
        assert tree.read("e", "privlevel_floor").endswith(b"\n")

    def test_an_attribute_that_does_not_exist_is_not_found(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", "nothing") == "ENOENT"
        assert error_of(tree.write, "e", "nothing", b"x") == "ENOENT"

    @pytest.mark.parametrize("attribute", ["inblob", "privlevel"])
    def test_what_is_written_cannot_be_read(self, tree: TsmTree, attribute: str) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", attribute) == "EACCES"

    @pytest.mark.parametrize(
        "attribute", ["outblob", "auxblob", "provider", "generation", "privlevel_floor"]
    )
    def test_what_is_read_cannot_be_written(self, tree: TsmTree, attribute: str) -> None:
        tree.mkdir("e")
        assert error_of(tree.write, "e", attribute, b"x") == "EACCES"
        assert generation(tree) == 0

    def test_there_is_no_report_before_an_inblob(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.read, "e", "outblob") == "EINVAL"
        assert error_of(tree.read, "e", "auxblob") == "EINVAL"

    def test_a_report_is_over_the_inblob(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        report = tree.read("e", "outblob")
        assert report[REPORT_DATA] == DATA
        assert tree.read("e", "outblob") == report
        tree.write("e", "inblob", OTHER)
        assert tree.read("e", "outblob")[REPORT_DATA] == OTHER

    def test_each_accepted_write_moves_the_generation_and_reads_do_not(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert generation(tree) == 0
        tree.write("e", "inblob", DATA)
        assert generation(tree) == 1
        tree.read("e", "outblob")
        tree.read("e", "auxblob")
        assert generation(tree) == 1
        tree.write("e", "inblob", DATA)
        tree.write("e", "privlevel", b"1\n")
        assert generation(tree) == 3

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

    def test_an_empty_write_of_text_is_a_fault_and_does_not_count(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        assert error_of(tree.write, "e", "privlevel", b"") == "EFAULT"
        assert generation(tree) == 0

    def test_entries_do_not_touch_each_other(self, tree: TsmTree) -> None:
        for entry, data in (("e", DATA), ("f", OTHER)):
            tree.mkdir(entry)
            tree.write(entry, "inblob", data)
        assert tree.read("e", "outblob")[REPORT_DATA] == DATA
        assert tree.read("f", "outblob")[REPORT_DATA] == OTHER
        tree.rmdir("f")
        assert generation(tree) == 1

    def test_an_entry_that_is_made_again_starts_anew(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        tree.write("e", "inblob", DATA)
        tree.rmdir("e")
        tree.mkdir("e")
        assert generation(tree) == 0
        assert error_of(tree.read, "e", "outblob") == "EINVAL"
