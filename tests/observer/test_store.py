"""The database: one Observer per file, versions, bounds of what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from attestation.checkpoint import Checkpoint
from observer.boots import OfferedBoot
from observer.config import Address, ConfigError, ObserverConfig
from observer.effects import Alarm, AlarmCode, Begin, SaveCheckpoint
from observer.queries import all_alarms
from observer.store import Store
from observer.store.schema import alarms, boots, checkpoints
from tests.observer.fake_agent import FakeBoot
from tests.observer.fake_trust import attested

MINUTE = 60 * 10**9


def with_store(tmp_path: Path, work: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        store = await Store.open(f"sqlite+aiosqlite:///{tmp_path}/observer.db")
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def test_two_observers_never_share_a_database(tmp_path: Path) -> None:
    async def work(_store: Store) -> None:
        with pytest.raises(ConfigError, match="another Observer"):
            await Store.open(f"sqlite+aiosqlite:///{tmp_path}/observer.db")

    with_store(tmp_path, work)
    with_store(tmp_path, lambda _: asyncio.sleep(0))  # after the first is gone it is free


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot be used"),
        ("sqlite+nodriver:///x.db", "cannot be used"),
        ("sqlite+aiosqlite://", "forgets everything"),
        ("sqlite+aiosqlite:///:memory:", "forgets everything"),
        ("sqlite+aiosqlite:////nowhere/at/all/x.db", "cannot write the database .*make its folder"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_with_a_reason(url: str, says: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=says):
            await Store.open(url)

    asyncio.run(main())


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "observer.db").write_bytes(b"not a database, " * 100)

    async def main() -> None:
        with pytest.raises(ConfigError, match="cannot be opened"):
            await Store.open(f"sqlite+aiosqlite:///{tmp_path}/observer.db")

    asyncio.run(main())


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    async def spoil(store: Store) -> None:
        async with store.transaction() as connection:
            await connection.execute(text("UPDATE meta SET value = '99'"))

    with_store(tmp_path, spoil)
    with pytest.raises(ConfigError, match="version 99"):
        with_store(tmp_path, spoil)


def test_only_its_owner_reads_the_database(tmp_path: Path) -> None:
    async def work(_store: Store) -> None:
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert "observer.db" in modes
        assert set(modes.values()) == {0o600}, modes

    with_store(tmp_path, work)


def test_commits_are_made_durable(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        async with store.engine.connect() as connection:
            assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert await connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
            assert await connection.scalar(text("PRAGMA foreign_keys")) == 1

    with_store(tmp_path, work)


def alarm(number: int, **changes: Any) -> Alarm:
    fields: dict[str, Any] = {
        "code": AlarmCode.FORK,
        "agent_id": "agent-1",
        "boot_id": b"boot",
        "seq": number,
        "reason": "chain.fork",
        "detail": "two histories",
        "evidence": b"x" * 100_000,
    } | changes
    return Alarm(**fields)


def test_alarms_of_one_boot_are_bounded_and_repetitions_are_counted(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for number in range(40):
            await store.save_alarm(alarm(number))
            await store.save_alarm(alarm(0))
        rows = await all_alarms(store)
        assert len(rows) == 16
        assert sum(row["count"] for row in rows) == 80
        assert max(len(row["evidence"]) for row in rows) == 64 * 1024

    with_store(tmp_path, work)


def test_strangers_cannot_push_the_alarms_of_proven_agents_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("observer.store.alarms.MAX_UNTRUSTED", 3)

    async def work(store: Store) -> None:
        await store.save_alarm(alarm(1))
        for number in range(10):
            await store.save_alarm(alarm(0, code=AlarmCode.UNTRUSTED, agent_id=f"x{number}"))
        rows = await store.read(select(alarms.c.code, alarms.c.agent_id).order_by(alarms.c.id))
        assert [row.agent_id for row in rows] == ["agent-1", "x7", "x8", "x9"]

    with_store(tmp_path, work)


OWN = None
LATER = b"l" * 16  # a boot that recovered the journal


def kept(
    tmp_path: Path, made: Sequence[tuple[int, int, bytes | None]]
) -> list[tuple[int, bytes | None]]:
    """Save checkpoints (seq, second, who recovered); those that are kept. The boot's row always
    states the newest of them."""
    boot = FakeBoot()
    offered = OfferedBoot(
        boot_id=boot.boot_id,
        boot_seed=boot.seed,
        attested=attested(boot),
        first_unacked_seq=1,
        last_seq=0,
    )
    found: list[tuple[int, bytes | None]] = []

    async def work(store: Store) -> None:
        begin = Begin(
            agent_id=boot.agent_id, version="", epoch=1, running=offered, boots=(offered,)
        )
        await store.begin(begin, allowed=lambda: True)
        for seq, second, recovered_by in made:
            checkpoint = Checkpoint(
                boot_id=boot.boot_id, seq=seq, head=bytes(32), wall_ns=second * 10**9
            )
            await store.save_checkpoint(
                SaveCheckpoint(
                    agent_id=boot.agent_id,
                    checkpoint=checkpoint,
                    cose=b"",
                    recovered_by=recovered_by,
                )
            )
        columns = (checkpoints.c.seq, checkpoints.c.recovered_by)
        rows = await store.read(select(*columns).order_by(checkpoints.c.seq))
        found.extend((row.seq, row.recovered_by) for row in rows)
        (row,) = await store.read(select(boots.c.checkpoint_seq))
        assert row.checkpoint_seq == found[-1][0]

    with_store(tmp_path, work)
    return found


def test_one_checkpoint_a_minute_is_kept_and_the_newest(tmp_path: Path) -> None:
    seconds = ((1, 1), (2, 20), (2, 20), (3, 59), (4, 61), (5, 90), (6, 121))
    found = kept(tmp_path, [(seq, second, OWN) for seq, second in seconds])
    assert found == [(3, OWN), (5, OWN), (6, OWN)]


def test_a_checkpoint_that_comes_again_or_late_takes_no_newer_one_away(tmp_path: Path) -> None:
    made = [(1, 1, OWN), (5, 20, OWN), (3, 10, OWN), (1, 1, OWN)]
    assert kept(tmp_path, made) == [(5, OWN)]


def test_what_a_later_boot_signed_takes_nothing_of_the_boots_own_away(tmp_path: Path) -> None:
    made = [(4, 10, OWN), (6, 20, LATER), (7, 30, LATER), (7, 40, OWN), (7, 50, LATER)]
    assert kept(tmp_path, made) == [(4, OWN), (7, OWN)]


# -- configuration -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", ["", ":", "8080", "localhost", "host:", "host:x", "host:65536", "::1:80", "host:-1"]
)
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        Address.parse(wrong)


@pytest.mark.parametrize(
    ("written", "host", "port", "loopback"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("[::1]:0", "::1", 0, True),
        ("localhost:1", "localhost", 1, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
    ],
)
def test_addresses_are_read_and_written_alike(
    written: str, host: str, port: int, loopback: bool
) -> None:
    address = Address.parse(written)
    assert (address.host, address.port, address.loopback) == (host, port, loopback)
    assert str(address) == written


def config(**changes: Any) -> ObserverConfig:
    fields: dict[str, Any] = {
        "listen_grpc": Address(host="127.0.0.1", port=0),
        "listen_http": Address(host="127.0.0.1", port=0),
        "database": "sqlite+aiosqlite:///x.db",
    } | changes
    return ObserverConfig(**fields)


def test_what_opens_the_observer_to_others_is_said() -> None:
    assert config().warnings() == ()
    everywhere = Address(host="0.0.0.0", port=80)
    assert "no login" in config(listen_http=everywhere).warnings()[0]
    assert "without TLS" in config(listen_grpc=everywhere).warnings()[0]
    simulated = config(allow_simulated=True, simulated_roots=(Path("root.pem"),))
    assert "not hardware attested" in simulated.warnings()[0]
    assert "nobody without --simulated-root" in config(allow_simulated=True).warnings()[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"simulated_roots": (Path("root.pem"),)},
        {"grpc_key": Path("k")},
        {"grpc_certificate": Path("c")},
    ],
)
def test_options_that_need_another_one_are_refused_alone(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        config(**changes)
