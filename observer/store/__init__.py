"""What the Observer keeps, in any database that SQLAlchemy's async drivers reach.

`store` opens it and is its one writer; `schema` has the tables. What is written of one thing is in
a module: `boots` (agents, their boots and passports), `records`, `checkpoints`, `alarms`.
`database` connects, and knows what SQLite needs.
"""

from __future__ import annotations

from observer.store.database import StoreError
from observer.store.store import Store, Superseded

__all__ = ["Store", "StoreError", "Superseded"]
