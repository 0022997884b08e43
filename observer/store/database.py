"""Connecting to a database: what SQLite needs to be durable, and one Observer per file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from observer.config import ConfigError


class StoreError(Exception):
    """The database did not do what was asked; nothing of it was kept. Try again later."""


def connect(url: str) -> tuple[AsyncEngine, int | None]:
    """An engine for a database URL, and the descriptor that holds the lock of a SQLite file.

    Raises:
        ConfigError: the URL cannot be used, or another Observer has the file.
    """
    try:
        parsed = make_url(url)
        engine = create_async_engine(url)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(
            f"the database URL cannot be used: {error}; for example sqlite+aiosqlite:///observer.db"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return engine, None
    event.listen(engine.sync_engine, "connect", _sqlite_pragmas)
    return engine, _lock_sqlite(parsed.database)


def reason(error: BaseException) -> str:
    """The driver's own words; SQLAlchemy's would repeat the statement and its parameters."""
    return str(getattr(error, "orig", None) or type(error).__name__)


def _lock_sqlite(database: str | None) -> int:
    """One Observer per file: record ids are given out in memory."""
    if not database or database == ":memory:":
        raise ConfigError("a database in memory forgets everything; name a file")
    path = Path(f"{database}.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        # Only its owner reads it; SQLite gives its other files the mode of this one.
        os.close(os.open(database, flags, 0o600))
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        remedy = "; make its folder first" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(
            f"cannot write the database {database}: {error.strerror}{remedy}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"another Observer is using {database}") from error
    return descriptor


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an Ack promises that a power cut loses nothing
        "foreign_keys=ON",
        "busy_timeout=5000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
