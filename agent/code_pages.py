"""Code that the start needed and that may not be needed again: its pages go back to the system.

Checking a policy bundle runs through 7 MB of Cedar's parser, and a start through as much of other
libraries. Where memory is locked (`agent/custody.py`) these pages could not even be reclaimed: a
lock holds code as well, although code has no secrets and is never swapped, only read again. So
code and constants are unlocked and unmapped from this process. What is needed after all comes back
by itself from the page cache, in microseconds.

Only libraries of modules that have been imported are touched (none is just being loaded), and of
them only mappings that nobody wrote to: what is given back can be read from the file again.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, NamedTuple

import trio

QUIET_SECONDS: Final = 2.0  # what comes with a start (the stream's connection) is then over

_MADV_DONTNEED: Final = 4  # <asm-generic/mman-common.h>
_SMAPS: Final = Path("/proc/self/smaps")


class CodePages:
    """Gives the pages back a while after something was asked for that needed many."""

    def __init__(self) -> None:
        self._asked = trio.Event()

    def ask(self) -> None:
        """Something ran through much code: the start, or a bundle that came into force."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._asked.wait()
            await trio.sleep(QUIET_SECONDS)
            self._asked = trio.Event()
            await trio.to_thread.run_sync(give_back)


class Mapping(NamedTuple):
    """One mapping: where it begins, its size in bytes, and how much of it is in memory."""

    start: int
    size: int
    resident: int


def give_back() -> int:
    """Give the pages back; how many bytes. 0 where the system does not say what is mapped."""
    try:
        smaps = _SMAPS.read_text(errors="replace")
    except OSError:
        return 0
    libc = ctypes.CDLL(None)
    given = 0
    for mapping in code_of(smaps.splitlines(), libraries()):
        start, size = ctypes.c_void_p(mapping.start), ctypes.c_size_t(mapping.size)
        libc.munlock(start, size)
        if libc.madvise(start, size, _MADV_DONTNEED) == 0:
            given += mapping.resident
    return given


def libraries() -> set[str]:
    """Files of the extension modules that have been imported."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file for file in files if file and file.endswith(tuple(EXTENSION_SUFFIXES))}


def code_of(smaps: Iterable[str], files: Collection[str]) -> Iterator[Mapping]:
    """The mappings of these files that are code or constants and that nobody wrote to.

    Args:
        smaps: lines as in proc_pid_smaps(5).
    """
    head: list[str] = []
    resident = 0
    for line in smaps:
        name, _, rest = line.partition(":")
        if " " in name:  # the first line of a mapping: addresses, permissions, …, path
            head = line.split(maxsplit=5)
            resident = 0
        elif name == "Rss":
            resident = int(rest.split()[0]) * 1024
        elif name == "Anonymous" and int(rest.split()[0]) == 0 and _is_code(head, files):
            start, end = (int(address, 16) for address in head[0].split("-"))
            yield Mapping(start, end - start, resident)


def _is_code(head: list[str], files: Collection[str]) -> bool:
    return len(head) == 6 and head[1] in {"r-xp", "r--p"} and head[5] in files
