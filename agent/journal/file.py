"""The journal's file: opened and prepared, who may see it, and that only one agent has it.

What is in it is `attestation.journal_format`: others read it, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestation.journal_format import (
    APPLICATION_ID,
    SCHEMA,
    SCHEMA_VERSION,
    journal_parts,
    parts_of,
)

WAL_LIMIT: Final = 64 * 1024 * 1024  # bytes the WAL keeps on disk after it was emptied
WAL_PAGES: Final = 4_000  # 4 KiB each; above this the WAL is begun anew
_WAL_PAGES_AT_WORST: Final = 4 * WAL_PAGES  # above this a commit does it, however long it takes

Connect = Callable[[Path], sqlite3.Connection]


class JournalError(Exception):
    """The journal's file cannot be used. The message names it and what to do."""


class DiskFullError(JournalError):
    """Nothing is wrong with the file: it may be used when there is room."""


def no_room(path: Path) -> DiskFullError:
    """The error for a disk, or a quota, that is full."""
    return DiskFullError(
        f"the journal {path} cannot be opened: no space is left on its disk; make room there"
    )


def unusable(path: Path, what: str) -> JournalError:
    """The error for a file that is damaged, changed or something else."""
    return JournalError(
        f"the journal {path} cannot be used: {what}; move it aside together with its -wal file (it"
        " is evidence: do not delete it) and start again"
    )


def connect(path: Path) -> sqlite3.Connection:
    """A plain connection to a file that exists already."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


def open_writer(path: Path, connect: Connect) -> sqlite3.Connection:
    """The writer's connection, set to lose nothing that was committed.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    db = connect(path)
    try:
        for pragma in (
            "busy_timeout=5000",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={_WAL_PAGES_AT_WORST}",
            f"journal_size_limit={WAL_LIMIT}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        db.close()
        raise
    return db


def move_wal(db: sqlite3.Connection) -> int:
    """Move pages from the WAL to the file as far as nobody has to wait; gives the WAL's pages.

    Raises:
        sqlite3.Error: it failed.
    """
    _busy, pages, _moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file; refuse a file that is something else.

    Raises:
        JournalError: another version, no journal, or one with something added to it.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (version, application, tables) == (0, 0, 0):
        db.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id={APPLICATION_ID};"
            f" PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
    elif application != APPLICATION_ID:
        raise unusable(path, "it is not a journal of this agent")
    elif version != SCHEMA_VERSION:
        raise JournalError(
            f"the journal {path} has version {version}, this agent knows version {SCHEMA_VERSION};"
            " use the agent that made it, or move the file aside"
        )
    elif parts_of(db) != journal_parts():
        raise unusable(path, "it has other tables, views or triggers than the agent made")


def take(path: Path) -> int:
    """See to it that the directory is private, the file exists with mode 0600 and nobody else has
    it. Gives a descriptor of the lock: closing it lets go.

    The lock is a file of its own: closing any other descriptor of the database would drop the
    locks that SQLite holds on it.

    Raises:
        JournalError: it cannot be written, others may read it, or another agent has it.
    """
    lock = -1
    try:
        _check_directory(path.parent)
        lock = _open_private(path.with_name(path.name + ".lock"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(_open_private(path))
    except BaseException as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            raise JournalError(
                f"the journal {path} is used by another agent; stop it, or give this one a state"
                " directory of its own"
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(path) from None
        if isinstance(error, OSError):
            raise JournalError(
                f"the journal {path} cannot be opened: {error.strerror}; make its directory"
                " writable for the agent's user (mode 0700)"
            ) from None
        raise
    return lock


def _check_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(directory.stat().st_mode) & 0o022:
        raise JournalError(f"others may write {directory}, where the journal is kept; chmod 0700")


def _open_private(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
        os.close(fd)
        raise JournalError(f"others may use {path}; chmod 0600")
    return fd
