"""A simulated report tree as a file system (FUSE, by pyfuse3), as the kernel's looks from outside.

Source: Linux `fs/configfs/file.c` and `dir.c`; `SimulatedTree` knows what the attributes mean. What
is kept here is what open files are: a binary attribute collects what is written and commits it at
close, whatever came of it; a read is a snapshot made by the first read after the open.

One difference is FUSE's own: an empty write never arrives here, where the kernel says EFAULT.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pyfuse3
import trio
from pyfuse3 import EntryAttributes

from attestation.simulated.tree import MAX_TEXT, SimulatedTree
from attestation.tsm import REPORT_DATA_SIZE

MAX_ENTRIES: Final = 10_000

_STRIDE: Final = 16  # inode numbers from one entry to the next: its own, then its attributes'
_WANTS_READ: Final = frozenset({os.O_RDONLY, os.O_RDWR})
_WANTS_WRITE: Final = frozenset({os.O_WRONLY, os.O_RDWR})


@dataclass(slots=True, kw_only=True)
class _File:
    """An open attribute. `content` is what a reader sees, `written` what a writer has given."""

    inode: int
    entry: str
    attribute: str
    content: bytes | None = None
    written: bytearray | None = None


class FuseTree(pyfuse3.Operations):
    """The operations of the file system; its root is `…/tsm/report`. Errors are the kernel's."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, tree: SimulatedTree) -> None:
        super().__init__()
        self._tree = tree
        self._attributes = tree.attributes
        self._names = tuple(self._attributes)
        self._entries: dict[int, str] = {}  # by inode number
        self._inodes: dict[str, int] = {}
        self._next = _STRIDE
        self._files: dict[int, _File] = {}
        self._next_file = 1
        self._started_ns = time.time_ns()

    # -- names ------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: object = None) -> EntryAttributes:
        """ENOENT: no such entry or attribute."""
        del ctx
        text = os.fsdecode(name)
        if text == ".":
            return self._stat(parent_inode)
        if text == "..":
            return self._stat(pyfuse3.ROOT_INODE)
        if parent_inode == pyfuse3.ROOT_INODE:
            inode = self._inodes.get(text)
        elif parent_inode in self._entries and text in self._attributes:
            inode = parent_inode + 1 + self._names.index(text)
        else:
            inode = None
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._stat(inode)

    async def getattr(self, inode: int, ctx: object = None) -> EntryAttributes:
        """ENOENT: its entry was removed."""
        del ctx
        return self._stat(inode)

    async def opendir(self, inode: int, ctx: object) -> int:
        """Directories are handled by their inode numbers."""
        del ctx
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries, or the attributes of one."""
        if fh == pyfuse3.ROOT_INODE:
            found = [(inode, name) for name, inode in self._inodes.items()]
        elif fh in self._entries:
            found = [(fh + 1 + index, name) for index, name in enumerate(self._names)]
        else:
            raise pyfuse3.FUSEError(errno.ENOENT)
        for inode, name in sorted(found):
            if inode > start_id and not pyfuse3.readdir_reply(
                token, os.fsencode(name), self._stat(inode), inode
            ):
                break

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: object
    ) -> EntryAttributes:
        """EPERM: inside an entry. ENXIO, EEXIST: as the tree. ENOMEM: too many."""
        del mode, ctx
        if parent_inode != pyfuse3.ROOT_INODE:
            raise pyfuse3.FUSEError(errno.EPERM)
        if len(self._entries) >= MAX_ENTRIES:
            raise pyfuse3.FUSEError(errno.ENOMEM)
        entry = os.fsdecode(name)
        with _Errors():
            self._tree.mkdir(entry)
        inode = self._next
        self._next += _STRIDE
        self._entries[inode], self._inodes[entry] = entry, inode
        return self._stat(inode)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: object) -> None:
        """ENOENT: no such entry. ENOTDIR: an attribute."""
        del ctx
        entry = os.fsdecode(name)
        if parent_inode != pyfuse3.ROOT_INODE:
            code = errno.ENOTDIR if entry in self._attributes else errno.ENOENT
            raise pyfuse3.FUSEError(code)
        with _Errors():
            self._tree.rmdir(entry)
        del self._entries[self._inodes.pop(entry)]

    async def unlink(self, *_asked: object) -> None:
        """EPERM: attributes go with their entry alone."""
        raise pyfuse3.FUSEError(errno.EPERM)

    async def create(self, *_asked: object) -> None:
        """EACCES: nobody makes an attribute."""
        raise pyfuse3.FUSEError(errno.EACCES)

    mknod = symlink = link = rename = unlink

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: object,
    ) -> EntryAttributes:
        """Truncation and times are taken and mean nothing, as in configfs. EPERM: anything else."""
        del attr, fh, ctx
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        return self._stat(inode)

    async def statfs(self, ctx: object) -> pyfuse3.StatvfsData:
        """A file system that holds nothing."""
        del ctx
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_namemax = 255
        return found

    # -- open files -------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        """EACCES: to read what is written only or to write what is read only, root included."""
        del ctx
        place = self._place(inode)
        if place is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        entry, attribute = place
        access, mode = flags & os.O_ACCMODE, self._attributes[attribute].mode
        if (access in _WANTS_READ and not mode & 0o444) or (
            access in _WANTS_WRITE and not mode & 0o222
        ):
            raise pyfuse3.FUSEError(errno.EACCES)
        handle = self._next_file
        self._next_file += 1
        self._files[handle] = _File(inode=inode, entry=entry, attribute=attribute)
        return pyfuse3.FileInfo(fh=handle, direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """The snapshot; made by the first read, in a thread: it may ask the machine for a quote."""
        file = self._files[fh]
        if file.content is None:
            self._require_entry(file)
            make = functools.partial(self._tree.read, file.entry, file.attribute)
            with _Errors():
                # Abandoned at the end: a quote that takes an hour must not hold it up.
                file.content = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
        return file.content[off : off + size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Text counts at once; a binary attribute collects. EFBIG: more than 64 bytes."""
        file = self._files[fh]
        self._require_entry(file)
        if not self._attributes[file.attribute].binary:
            with _Errors():
                self._tree.write(file.entry, file.attribute, bytes(buf[:MAX_TEXT]))
            return min(len(buf), MAX_TEXT)
        if file.written is None:
            file.written = bytearray()
        end = off + len(buf)
        if end > REPORT_DATA_SIZE:
            raise pyfuse3.FUSEError(errno.EFBIG)  # and yet the close commits what there is
        file.written.extend(bytes(max(0, end - len(file.written))))
        file.written[off:end] = buf
        return len(buf)

    async def flush(self, fh: int) -> None:
        """What close does, before it returns: commit. What comes of it is not told."""
        file = self._files[fh]
        if file.written is not None and file.inode in self._inodes_of(file):
            self._tree.commit(file.entry, bytes(file.written))
        file.written = None

    async def release(self, fh: int) -> None:
        """The last user of an open file has gone."""
        del self._files[fh]

    # -- inside -----------------------------------------------------------------------------------

    def _inodes_of(self, file: _File) -> Iterable[int]:
        """The inode numbers of an open file's entry, if it is still the one that was opened."""
        inode = self._inodes.get(file.entry)
        return () if inode is None else range(inode, inode + _STRIDE)

    def _require_entry(self, file: _File) -> None:
        if file.inode not in self._inodes_of(file):
            raise pyfuse3.FUSEError(errno.ENOENT)

    def _place(self, inode: int) -> tuple[str, str] | None:
        """Entry and attribute of an inode number; None: a directory, or nothing."""
        base, index = inode - inode % _STRIDE, inode % _STRIDE - 1
        if index < 0 or index >= len(self._names) or base not in self._entries:
            return None
        return self._entries[base], self._names[index]

    def _stat(self, inode: int) -> EntryAttributes:
        found = EntryAttributes()
        if inode == pyfuse3.ROOT_INODE or inode in self._entries:
            found.st_mode, found.st_nlink = stat.S_IFDIR | 0o755, 2
        elif (place := self._place(inode)) is not None:
            attribute = self._attributes[place[1]]
            found.st_mode, found.st_nlink = stat.S_IFREG | attribute.mode, 1
            found.st_size = attribute.size
        else:
            raise pyfuse3.FUSEError(errno.ENOENT)
        found.st_ino = inode
        found.st_uid, found.st_gid = os.getuid(), os.getgid()
        found.st_atime_ns = found.st_mtime_ns = found.st_ctime_ns = self._started_ns
        found.attr_timeout = found.entry_timeout = 0  # the kernel asks every time
        return found


class _Errors:
    """Turns errors of the tree into FUSE's."""

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
