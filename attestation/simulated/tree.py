"""The simulated TEE's report tree: what the kernel's configfs-tsm does, down to its errors.

Source: Linux `drivers/virt/coco/guest/report.c`, `fs/configfs/file.c`, and a real 6.12 kernel with
a test provider, which showed: an oversized or an empty write of `inblob` fails, yet its close
commits an empty blob; `generation` moves at close; reading a stale `auxblob` makes a new report;
what a racing writer did shows only in `generation` and in the report itself.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from attestation.simulated.machine import SimulatedMachine
from attestation.tsm import MAX_PRIVLEVEL, REPORT_DATA_SIZE

MAX_TEXT: Final = 4095  # bytes of one write of text that the kernel takes

_WRITE_ONLY: Final = frozenset({"inblob", "privlevel"})
_READ_ONLY: Final = frozenset({"outblob", "auxblob", "provider", "generation", "privlevel_floor"})
_OF_SEV_SNP: Final = frozenset({"auxblob", "privlevel", "privlevel_floor"})  # TDX has none of these
_BINARY: Final = frozenset({"inblob", "outblob", "auxblob"})
_TEXT_SIZE: Final = 4096  # bytes; a page
_NAME_MAX: Final = 255
# How kstrtouint with base 0 reads: an optional plus, then as many digits as there are of a hex,
# octal or decimal number; after them nothing, or one newline.
_UNSIGNED: Final = re.compile(rb"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_SPOILED: Final = ("empty", "stale", "foreign")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An attribute's file.

    Attributes:
        mode: permission bits; even root can do nothing else with it.
        size: bytes that `stat` gives, whatever it holds: 0 where it is binary, else a page.
    """

    mode: int
    size: int

    @property
    def binary(self) -> bool:
        """Whether what is written counts at close, not at each write."""
        return not self.size


@dataclass(slots=True)
class _Entry:
    inblob: bytes = b""
    privlevel: int = 0
    write_generation: int = 0
    read_generation: int = 0
    outblob: bytes | None = None

    def commit(self, inblob: bytes) -> None:
        self.inblob = bytes(inblob)
        self.write_generation += 1


@dataclass(slots=True, kw_only=True)
class Faults:
    """What to do wrong, for tests. Each count is used up by the report it spoils.

    Attributes:
        errors: error numbers per attribute; each read of it takes the first and fails with it.
        empty: that many reports come out empty.
        racing_writers: before that many reports are made, another writer commits its own inblob.
        foreign: that many reports are made over other report data, with nothing else to see.
        before_read: called with (entry, attribute) before each read, without the lock: may block.
    """

    errors: dict[str, deque[int]] = field(default_factory=dict)
    empty: int = 0
    racing_writers: int = 0
    foreign: int = 0
    before_read: Callable[[str, str], None] | None = None

    def plan(self, names: Iterable[str]) -> None:
        """Forget what was planned and plan these: `empty`, `stale` (a racing writer), `foreign`, or
        an error number (`EBUSY`), which the next read of `outblob` fails with.

        Raises:
            ValueError: another name.
        """
        names = list(names)
        numbers = [name for name in names if name not in _SPOILED]
        if unknown := [name for name in numbers if not isinstance(getattr(errno, name, ()), int)]:
            raise ValueError(f"{unknown[0]!r} is neither an error number nor one of {_SPOILED}")
        self.errors = {"outblob": deque(getattr(errno, name) for name in numbers)}
        self.empty = names.count("empty")
        self.racing_writers = names.count("stale")
        self.foreign = names.count("foreign")


class SimulatedTree:
    """A `TsmTree` with the kernel's semantics over a simulated machine. Safe for threads.

    Attributes:
        provider: what `provider` reads; None: no provider is registered.
        floor: the lowest privilege level that is given; above 0 in a guest below VMPL 0.
        faults: what to do wrong.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        self.provider: str | None = machine.provider
        self.floor = 0
        self.faults = Faults()
        self._machine = machine
        without = frozenset() if machine.auxblob() is not None else _OF_SEV_SNP
        self._write_only, self._read_only = _WRITE_ONLY - without, _READ_ONLY - without
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    @property
    def attributes(self) -> dict[str, Attribute]:
        """What each entry has, as a file system shows it."""
        return {
            name: Attribute(
                mode=0o200 if name in self._write_only else 0o444,
                size=0 if name in _BINARY else _TEXT_SIZE,
            )
            for name in sorted(self._write_only | self._read_only)
        }

    def entries(self) -> list[str]:
        """Names of the entries that exist."""
        with self._lock:
            return sorted(self._entries)

    def mkdir(self, entry: str) -> None:
        """Make an entry. ENXIO: no provider. EEXIST: the name is taken."""
        with self._lock:
            if not entry or "/" in entry:
                raise _error(errno.ENOENT, entry)
            if len(os.fsencode(entry)) > _NAME_MAX:
                raise _error(errno.ENAMETOOLONG, entry)
            if entry in self._entries or entry in {".", ".."}:
                raise _error(errno.EEXIST, entry)
            if self.provider is None:
                raise _error(errno.ENXIO, entry)
            self._entries[entry] = _Entry()

    def rmdir(self, entry: str) -> None:
        """Remove an entry. ENOENT: there is none."""
        with self._lock:
            self._find(entry)
            del self._entries[entry]

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """One open, one write, one close. EACCES: read-only. EFBIG: over 64 bytes of inblob.
        EFAULT: no bytes. EINVAL, ERANGE: not a privilege level. EIO: only a part was taken.
        """
        with self._lock:
            found = self._find(entry)
            if attribute in self._read_only:
                raise _error(errno.EACCES, entry, attribute)
            if attribute not in self._write_only:
                raise _error(errno.ENOENT, entry, attribute)
            if attribute == "privlevel":
                if not data:
                    raise _error(errno.EFAULT, entry, attribute)
                found.privlevel = self._privlevel(entry, data[:MAX_TEXT])
                found.write_generation += 1
                if len(data) > MAX_TEXT:  # the kernel takes a page, and its answer says so
                    raise _error(errno.EIO, entry, attribute)
                return
            # Such a write fails, but the close commits what the buffer holds: nothing.
            number = errno.EFBIG if len(data) > REPORT_DATA_SIZE else 0 if data else errno.EFAULT
            found.commit(b"" if number else data)
            if number:
                raise _error(number, entry, attribute)

    def commit(self, entry: str, data: bytes) -> None:
        """What a close of `inblob` does with what was written since the open, up to 64 bytes."""
        with self._lock:
            self._find(entry).commit(data)

    def read(self, entry: str, attribute: str) -> bytes:
        """One open, read to the end, close. EACCES: write-only. EINVAL: no or a bad inblob."""
        if self.faults.before_read is not None:
            self.faults.before_read(entry, attribute)
        with self._lock:
            found = self._find(entry)
            if attribute in self._write_only:
                raise _error(errno.EACCES, entry, attribute)
            if attribute not in self._read_only:
                raise _error(errno.ENOENT, entry, attribute)
            if self.faults.errors.get(attribute):
                raise _error(self.faults.errors[attribute].popleft(), entry, attribute)
            match attribute:
                case "generation":
                    return b"%d\n" % found.write_generation
                case "privlevel_floor":
                    return b"%d\n" % self.floor
                case "provider":
                    if self.provider is None:
                        raise _error(errno.ENXIO, entry, attribute)
                    return self.provider.encode() + b"\n"
            report = self._report(entry, attribute, found)
            return report if attribute == "outblob" else self._machine.auxblob() or b""

    def _find(self, entry: str) -> _Entry:
        try:
            return self._entries[entry]
        except KeyError:
            raise _error(errno.ENOENT, entry) from None

    def _privlevel(self, entry: str, data: bytes) -> int:
        text = data.partition(b"\0")[0]
        if not (match := _UNSIGNED.match(text)):
            raise _error(errno.EINVAL, entry, "privlevel")
        digits = match[1].lower()
        base = 16 if digits.startswith(b"0x") else 8 if digits.startswith(b"0") else 10
        level = int(digits, base)
        if level >> 64:
            raise _error(errno.ERANGE, entry, "privlevel")  # before what follows is looked at
        if text[match.end() :] not in {b"", b"\n"}:
            raise _error(errno.EINVAL, entry, "privlevel")
        if level >> 32:
            raise _error(errno.ERANGE, entry, "privlevel")
        if not self.floor <= level <= MAX_PRIVLEVEL:
            raise _error(errno.EINVAL, entry, "privlevel")
        return level

    def _report(self, entry: str, attribute: str, found: _Entry) -> bytes:
        """The cached report, or a new one where something was written since."""
        if self.provider is None:
            raise _error(errno.ENXIO, entry, attribute)
        if not found.inblob:
            raise _error(errno.EINVAL, entry, attribute)
        if found.outblob is not None and found.read_generation == found.write_generation:
            return found.outblob
        if self.faults.racing_writers:
            self.faults.racing_writers -= 1
            found.commit(os.urandom(REPORT_DATA_SIZE))
        found.outblob = None  # the kernel frees the old one before it asks for the new one
        if len(found.inblob) != REPORT_DATA_SIZE or found.privlevel < self.floor:
            raise _error(errno.EINVAL, entry, attribute)  # a level below is the firmware's refusal
        data = found.inblob
        if self.faults.foreign:
            self.faults.foreign -= 1
            data = os.urandom(REPORT_DATA_SIZE)
        found.outblob = self._machine.outblob(data, found.privlevel)
        if self.faults.empty:
            self.faults.empty -= 1
            found.outblob = b""
        found.read_generation = found.write_generation
        return found.outblob


def _error(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), "/".join(path))
