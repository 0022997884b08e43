"""What operators read of the journal: by id or the newest, and never all of it."""

from __future__ import annotations

import sqlite3
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from agent.api.decisions import find_decision
from attestation.records import encode_record
from tests.agent.journal.test_journal import record

WANTED = "dec-" + "0a" * 12


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A file with one decision that is wanted, and 4 MB of others."""
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE records (place INTEGER PRIMARY KEY, record BLOB)")
        ids = [WANTED, *(f"dec-{number:024x}" for number in range(20_000))]
        db.executemany("INSERT INTO records (record) VALUES (?)", [(stored(one),) for one in ids])
    return path


def stored(decision_id: str) -> bytes:
    named = msgspec.structs.replace(record(), decision_id=decision_id)
    return encode_record(named, agent="a", boot=bytes(16), seq=1, wall_ns=1, boot_ns=1)


def test_a_decision_is_found_by_its_id(journal: Path) -> None:
    found = find_decision(journal, WANTED)
    assert found is not None
    assert found.record.decision_id == WANTED
    assert find_decision(journal, "dec-" + "f" * 24) is None


@pytest.mark.parametrize("wanted", ["", "d", "dec-", "dec-0", WANTED[:-1], WANTED + "0", "%"])
def test_what_is_no_id_reads_nothing(journal: Path, wanted: str) -> None:
    tracemalloc.start()
    assert find_decision(journal, wanted) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000
