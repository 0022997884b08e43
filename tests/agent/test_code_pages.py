"""Pages of code go back to the system, and nothing else does."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
from pathlib import Path

import cedarpy
import pytest
import trio
import trio.testing

from agent import code_pages
from agent.code_pages import QUIET_SECONDS, CodePages, Mapping, code_of

LIBRARY = "/opt/a b/_internal.so"


def smaps(
    permissions: str = "r-xp", path: str = LIBRARY, *, rss: int = 64, written: int = 0
) -> str:
    return textwrap.dedent(f"""\
        1000-9000 {permissions} 00001000 fe:00 42                         {path}
        Size:                 32 kB
        Rss:                  {rss} kB
        Private_Dirty:         0 kB
        Anonymous:            {written} kB
        VmFlags: rd ex mr mw me
        """)


def found(text: str) -> list[Mapping]:
    return list(code_of(text.splitlines(), {LIBRARY}))


def test_code_and_constants_of_an_imported_library_are_found() -> None:
    assert found(smaps()) == [Mapping(0x1000, 0x8000, 64 * 1024)]


def test_of_several_mappings_each_is_judged_alone() -> None:
    text = smaps(rss=8) + smaps("rw-p") + smaps("r--p", rss=16) + smaps("r--p", written=4)
    assert [mapping.resident for mapping in found(text)] == [8 * 1024, 16 * 1024]


@pytest.mark.parametrize("permissions", ["rw-p", "rwxp", "r-xs", "r--s", "---p"])
def test_what_is_not_only_read_and_run_stays(permissions: str) -> None:
    assert found(smaps(permissions)) == []


def test_code_that_somebody_wrote_to_stays() -> None:
    """A debugger's breakpoint, a relocation: it could not be read from the file again."""
    assert found(smaps(written=4)) == []


@pytest.mark.parametrize(
    "path", ["/opt/other.so", f"{LIBRARY} (deleted)", "[vdso]", "", "[heap]", LIBRARY[1:]]
)
def test_another_files_mapping_stays(path: str) -> None:
    assert found(smaps(path=path)) == []


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "Rss: 4 kB\n"])
def test_what_cannot_be_read_gives_nothing(text: str) -> None:
    assert found(text) == []


def test_without_proc_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(code_pages, "_SMAPS", tmp_path / "smaps")
    assert code_pages.give_back() == 0


def test_only_extension_modules_count_as_libraries() -> None:
    files = code_pages.libraries()
    assert cedarpy._internal.__file__ in files
    assert all(file.endswith(".so") for file in files)
    assert ctypes.__file__ not in files


async def test_they_go_back_once_and_a_while_after_what_needed_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    async def in_thread(work: object) -> None:
        assert work is code_pages.give_back
        given.append(trio.current_time() - began)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_thread)
    began, pages = trio.current_time(), CodePages()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.run)
        for _ in range(3):  # a start: the first bundle, and what comes with it
            await trio.sleep(0.5)
            pages.ask()
        await trio.sleep(58.5)
        pages.ask()
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert given == [0.5 + QUIET_SECONDS, 60 + QUIET_SECONDS]


LOCKED = """
import ctypes, sys
import cedarpy
from agent.code_pages import give_back
from agent.custody import protect

def code_kilobytes():
    seen, total = False, 0
    for line in open("/proc/self/smaps"):
        if " r-xp " in line:
            seen = "cedarpy" in line
        elif seen and line.startswith("Rss:"):
            total += int(line.split()[1])
            seen = False
    return total

protect()
cedarpy.policies_to_json_str("permit(principal, action, resource);")
before = code_kilobytes()
given = give_back()
after = code_kilobytes()
again = cedarpy.policies_to_json_str("permit(principal, action, resource);")
print(before, after, given, "permit" in again)
"""


def test_a_process_whose_memory_is_locked_gives_back_megabytes_and_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCKED], capture_output=True, text=True, check=True, timeout=60
    )
    before, after, given, works = done.stdout.split()
    assert int(before) > 2048  # kB: the parser has run
    assert int(after) < int(before) / 4
    assert int(given) >= (int(before) - int(after)) * 1024
    assert works == "True"
