"""The kernel's own report tree, and what a killed agent may have left in it.

Source: Linux `Documentation/ABI/testing/configfs-tsm-report`, `fs/configfs/file.c`. Reads and
writes are plain system calls: Python's file objects give None where the kernel says EWOULDBLOCK.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from attestation.tsm import ENTRY_PREFIX, TsmTree

DEFAULT_PATH: Final = Path("/sys/kernel/config/tsm/report")
MAX_BLOB_SIZE: Final = 1 << 24  # bytes; the kernel's own limit on an outblob

_CHUNK: Final = 65_536


class KernelTree:
    """The kernel's tree, with plain system calls: one open, one transfer, one close."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self.path = path

    def entries(self) -> list[str]:
        """Names of the entries that exist."""
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())

    def mkdir(self, entry: str) -> None:
        """Make an entry. ENXIO: no provider. EEXIST: the name is taken."""
        os.mkdir(self._path(entry), 0o700)  # noqa: PTH102 - one system call, as the interface says

    def rmdir(self, entry: str) -> None:
        """Remove an entry. Its attributes go with it; unlinking them first would fail."""
        os.rmdir(self._path(entry))  # noqa: PTH106 - one system call, as the interface says

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """One write; a second one would be another commit for a text attribute."""
        descriptor = os.open(self._path(entry, attribute), os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        if written != len(data):
            raise OSError(errno.EIO, f"{written} of {len(data)} bytes were taken", attribute)

    def read(self, entry: str, attribute: str) -> bytes:
        """Read to the end; the size that stat gives means nothing here."""
        descriptor = os.open(self._path(entry, attribute), os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = bytearray()
            while chunk := os.read(descriptor, _CHUNK):
                content += chunk
                if len(content) > MAX_BLOB_SIZE:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), attribute)
            return bytes(content)
        finally:
            os.close(descriptor)

    def _path(self, *names: str) -> Path:
        for name in names:
            if not name or "/" in name or name in {".", ".."}:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        return self.path.joinpath(*names)


def sweep(
    tree: TsmTree, *, alive: Callable[[int], bool], entry_prefix: str = ENTRY_PREFIX
) -> list[str]:
    """Remove entries that a killed agent left behind; gives their names. Called once, at start.

    Args:
        alive: whether there is a process with this number. Entries of live ones stay.

    An entry that cannot be removed stays: it holds memory, and nobody reads it.
    """
    swept: list[str] = []
    with suppress(OSError):  # no tree: the first quote says so, with what to do
        for entry in tree.entries():
            owner = entry.removeprefix(entry_prefix).partition("-")[0]
            ours = entry.startswith(entry_prefix) and owner.isascii() and owner.isdigit()
            if ours and len(owner) < 10 and not alive(int(owner)):
                with suppress(OSError):
                    tree.rmdir(entry)
                    swept.append(entry)
    return swept
