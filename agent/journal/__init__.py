"""The agent's durable, hash-chained log of decisions: one SQLite file.

`journal` gives places and commits groups of decisions; it puts together `backlog` (what waits for
the disk), `signing` (checkpoints) and `retention` (age and size). `store` is the writer's side of
the file, with `turn` (what one transaction holds), `pruning` and `verify`; `wal` keeps the WAL
short. `reader` and `tail` are the stream's side. `file` prepares the file and has the lock; what is
in it is `attestation.journal_format`.
"""

from __future__ import annotations

from agent.journal.file import DiskFullError, JournalError
from agent.journal.journal import Journal

__all__ = ["DiskFullError", "Journal", "JournalError"]
