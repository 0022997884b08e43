"""The journal's file as a format: one SQLite database, written by the agent, read by whoever checks
a copy of it. No I/O but a database in memory.

A record's row id, its *place*, is (boot number << 40) + seq, so that inserts always append. The
head stored beside each record makes any place of the chain checkable without the records before it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from typing import Final

APPLICATION_ID: Final = 0x4C756369  # "Luci", in the header of the file
SCHEMA_VERSION: Final = 1
BOOT_SPAN: Final = 1 << 40  # places of one boot

SCHEMA: Final = """
CREATE TABLE boots (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  base INTEGER NOT NULL GENERATED ALWAYS AS (number << 40) VIRTUAL,
  boot_id BLOB NOT NULL UNIQUE,
  seed BLOB NOT NULL,
  started_ns INTEGER NOT NULL,
  passport BLOB NOT NULL DEFAULT x'',
  acked_seq INTEGER NOT NULL DEFAULT 0,   -- the Observer has committed everything up to here
  acked_head BLOB NOT NULL,
  pruned_seq INTEGER NOT NULL DEFAULT 0,  -- everything up to here is no longer kept
  signed_seq INTEGER NOT NULL DEFAULT 0   -- the Observer has a checkpoint at this seq
) STRICT;
CREATE TABLE records (
  place INTEGER PRIMARY KEY,
  wall_ns INTEGER NOT NULL,
  head BLOB NOT NULL,
  record BLOB NOT NULL
) STRICT;
CREATE TABLE checkpoints (
  place INTEGER PRIMARY KEY,
  cose BLOB NOT NULL,
  recovered_by BLOB NOT NULL  -- empty: signed by the boot's own key
) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('epoch', 0), ('unrecorded', 0);
CREATE VIEW ends AS SELECT *, coalesce(
  (SELECT max(place) FROM records
    WHERE place > boots.base AND place < boots.base + (1 << 40)) - base, pruned_seq) AS last_seq
  FROM boots;
"""

_COMMENT: Final = re.compile(r"--[^\n]*")
Part = tuple[str, str, str]  # kind, name, SQL


def parts_of(db: sqlite3.Connection) -> set[Part]:
    """What a database consists of, without comments and white space.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    try:
        return _without_comments(db.execute("SELECT type, name, sql FROM sqlite_schema"))
    except UnicodeDecodeError:  # also where SQLite quotes such text in an error
        raise sqlite3.DatabaseError("its schema is not text") from None


def _without_comments(rows: Iterable[tuple[str, str, str | None]]) -> set[Part]:
    return {(kind, name, " ".join(_COMMENT.sub("", sql or "").split())) for kind, name, sql in rows}


@cache
def journal_parts() -> set[Part]:
    """What a journal consists of. A trigger, for one, can drop what an INSERT said it wrote."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        return parts_of(db)
