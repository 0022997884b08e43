"""The Observer's tables (SQLAlchemy core). Records are stored as the exact bytes that are chained.

The other columns of `records` are decoded copies to filter and list by; they are cut to
`MAX_TEXT` characters, the bytes are not. All times are nanoseconds since 1970.
`records.id` is given by the one writer, rises with every commit, and orders the live page.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = 1
MAX_TEXT: Final = 200  # characters of a decoded text column
MAX_REASONS: Final = 32  # reasons of one record that can be filtered by

metadata = MetaData()

# A 64-bit key everywhere; SQLite wants its rowid alias spelled INTEGER.
_ID = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

agents = Table(
    "agents",
    metadata,
    Column("agent_id", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("boot_id", LargeBinary, nullable=False),  # the running boot
    Column("epoch", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # life-cycle state of the last heartbeat
    Column("durable_seq", BigInteger, nullable=False),  # of the last heartbeat
    Column("first_seen_ns", BigInteger, nullable=False),
    Column("last_seen_ns", BigInteger, nullable=False),
)

boots = Table(
    "boots",
    metadata,
    Column("boot_id", LargeBinary, primary_key=True),
    Column("agent_id", Text, ForeignKey("agents.agent_id"), nullable=False),
    Column("boot_seed", LargeBinary, nullable=False),
    Column("key", LargeBinary),  # SubjectPublicKeyInfo (DER) of the passport key
    Column("thumbprint", LargeBinary),
    Column("passport", LargeBinary),  # the newest that verified
    Column("passport_info", Text),  # JSON: what of it is shown
    Column("vouched_by", LargeBinary),  # boot that brought it, where it has no passport itself
    Column("first_seen_ns", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("checkpoint_seq", BigInteger),  # newest checkpoint that verified and agrees
    Column("checkpoint_ns", BigInteger),
    Index("boots_by_agent", "agent_id", "first_seen_ns"),
)

records = Table(
    "records",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("agent_id", Text, nullable=False),
    Column("boot_id", LargeBinary, ForeignKey("boots.boot_id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("head", LargeBinary, nullable=False),  # of the chain after this record
    Column("wall_ns", BigInteger, nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Column("decision_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("principal", Text, nullable=False),  # Type::"id"
    Column("action", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reasons", Text, nullable=False),  # JSON list
    Column("complete", Boolean, nullable=False),  # everything of the exchange was seen
    UniqueConstraint("boot_id", "seq"),
    Index("records_by_agent", "agent_id", "id"),
    Index("records_by_model", "model", "id"),
    Index("records_by_principal", "principal", "id"),
    Index("records_by_outcome", "outcome", "id"),
    Index("records_by_request", "request_id"),
)

# One row per reason of a record, to filter by a reason exactly and with an index.
reasons = Table(
    "reasons",
    metadata,
    Column("reason", Text, primary_key=True),
    Column("record_id", _ID, ForeignKey("records.id"), primary_key=True),
    sqlite_with_rowid=False,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("boot_id", LargeBinary, ForeignKey("boots.boot_id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("head", LargeBinary, nullable=False),
    Column("wall_ns", BigInteger, nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Column("cose", LargeBinary, nullable=False),
    Column("recovered_by", LargeBinary),
)

alarms = Table(
    "alarms",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("code", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("boot_id", LargeBinary, nullable=False),  # empty: none
    Column("seq", BigInteger, nullable=False),  # -1: none
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    Column("first_ns", BigInteger, nullable=False),
    Column("last_ns", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Index("alarms_by_agent", "agent_id", "code"),
)
