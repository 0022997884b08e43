"""Opening a journal that somebody hands over: read, never written, and nothing is made beside it.

A WAL beside the file is part of the journal (an agent that was killed leaves one). SQLite cannot
read it without writing beside it, so both are copied to a private temporary directory first.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from attestation.errors import AttestationError, UncheckableError, VerificationError
from lucid.journal.file import MAX_ROW, JournalFile, NotAJournalError, meaning_of

_PAGE_SIZES: Final = frozenset(1 << power for power in range(9, 17))


@contextmanager
def open_journal(path: Path) -> Iterator[JournalFile]:
    """The rows of a file, while the block runs.

    Raises:
        NotAJournalError: it is something else.
        VerificationError: `journal.damaged`, `journal.schema`: a journal, damaged or added to.
        UncheckableError: `journal.unreadable`, `journal.in_use`: it cannot be read, or it changed
            meanwhile.
    """
    with ExitStack() as stack:
        try:
            path = path.resolve(strict=True)
            wal = _stamps(path)[1] is not None
            if wal:
                path = _copy(path, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            before = _stamps(path)
            _check_schema_size(path)
            db = stack.enter_context(closing(_connect(path, wal=wal)))
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from None
        except RuntimeError as error:  # links that go round in a circle
            raise _unreadable(path, str(error)) from None
        except sqlite3.Error as error:
            raise meaning_of(error) from None
        try:
            file = JournalFile(db)
            file.check_format()
            yield file
        except AttestationError:
            _unchanged(path, before)  # or what was found says nothing of the file
            raise
        _unchanged(path, before)


Stamp = tuple[int, int, int] | None


def _stamps(path: Path) -> tuple[Stamp, Stamp]:
    """What changes when the file, or the WAL beside it, does.

    Raises:
        OSError: there is no file.
        NotAJournalError: a directory, a device.
        UncheckableError: another program left a change of it half done.
    """
    main, wal, rollback = (_stamp(Path(f"{path}{end}")) for end in ("", "-wal", "-journal"))
    if main is None and not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if rollback is not None:
        raise UncheckableError(
            "journal.in_use", f"{path}-journal lies beside it: another program was changing it"
        )
    return main, wal


def _stamp(path: Path) -> Stamp:
    """None where there is no file, or an empty one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise NotAJournalError("journal.format", f"{path} is not a file")
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else None


def _unchanged(path: Path, before: tuple[Stamp, Stamp]) -> None:
    try:
        after: object = _stamps(path)
    except OSError:
        after = None
    if after != before:
        raise UncheckableError(
            "journal.in_use",
            f"{path} changed while it was read",
            remedy="stop the agent, or take a copy of the file and its -wal file that nobody"
            " writes to",
        )


def _copy(path: Path, directory: Path) -> Path:
    before, copy = _stamps(path), directory / "journal"
    try:
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", f"{copy}{end}")
    except OSError as error:
        raise _unreadable(
            path,
            f"it has a -wal file, and cannot be copied to {directory}: {error.strerror}",
            remedy="set TMPDIR to a directory with room for both files",
        ) from None
    _unchanged(path, before)
    return copy


def _check_schema_size(path: Path) -> None:
    """SQLite reads the whole schema into memory before anything can be asked. A journal's has one
    page, the first of the file: a leaf of a table's tree (https://sqlite.org/fileformat2.html).

    Raises:
        VerificationError: `journal.schema`: this one has more, in the file or in the WAL.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        first = file.read(101)
    if first.startswith(b"SQLite format 3\0"):
        _check_first_page(first)
    wal = Path(f"{path}-wal")
    if not wal.exists():
        return
    with wal.open("rb") as file:
        page_size = int.from_bytes(file.read(32)[8:12])
        while page_size in _PAGE_SIZES and len(frame := file.read(24 + 101)) == 24 + 101:
            if frame.startswith(b"\0\0\0\1"):
                _check_first_page(frame[24:])
            file.seek(page_size - 101, os.SEEK_CUR)


def _check_first_page(page: bytes) -> None:
    if page[100:] not in (b"", b"\x0d"):
        raise VerificationError("journal.schema", "it has a larger schema than an agent makes")


def _connect(path: Path, *, wal: bool) -> sqlite3.Connection:
    # `immutable`: SQLite makes no file beside it, and takes no lock.
    query = "mode=ro" if wal else "mode=ro&immutable=1"
    db = sqlite3.connect(f"{path.as_uri()}?{query}", uri=True, isolation_level=None)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW)
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return db


def _unreadable(path: Path, why: str, remedy: str = "") -> UncheckableError:
    return UncheckableError("journal.unreadable", f"{path} cannot be read: {why}", remedy=remedy)
