"""The agent's stream and the Observer, both as they are, over real gRPC: a disputed old boot."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from agent.journal.reader import JournalReader
from agent.stream import session
from agent.stream.grpc_bridge import open_bidi, open_channel
from agent.stream.session import Session
from agent.stream.status import Target
from agent.stream.stream import METHOD
from attestation import chain
from observer.app import Running, serve
from observer.config import Address, ObserverConfig
from observer.queries import all_alarms
from tests.agent.journal.test_journal import record
from tests.agent.stream.test_session import (
    KEY,
    RUNNING,
    Owner,
    crashed,
    eventually,
    running,
    seed,
)
from tests.observer.fake_agent import FakeBoot, connect
from tests.observer.fake_trust import FakeTrust, attested


@contextmanager
def observer(folder: Path, trust: FakeTrust, first: FakeBoot, old: FakeBoot) -> Iterator[Running]:
    """Runs in a thread, and has heard of `old` from `first` before."""
    found: queue.SimpleQueue[Running | BaseException] = queue.SimpleQueue()
    ended: list[threading.Event] = [threading.Event()]

    async def main() -> None:
        nowhere = Address(host="127.0.0.1", port=0)
        config = ObserverConfig(
            listen_grpc=nowhere,
            listen_http=nowhere,
            database=f"sqlite+aiosqlite:///{folder}/observer.db",
        )
        async with serve(config, trust=trust) as started:
            async with connect(started.grpc) as stream:
                await stream.open(first, old)
                await stream.acked(old.batch(1))
            found.put(started)
            await asyncio.to_thread(ended[0].wait)
            kept.extend((row["code"], row["boot_id"]) for row in await all_alarms(started.store))
            heads.update(await started.store.load_heads(old.boot_id, 1, 99))

    kept: list[tuple[str, bytes]] = []
    heads: dict[int, bytes] = {}
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        started = found.get(timeout=20)
        assert isinstance(started, Running)
        yield started
    finally:
        ended[0].set()
        thread.join(20)
    assert kept == [("fork", old.boot_id)]
    assert heads == dict(enumerate(old.heads[1:], start=1)), "the first history stays"


async def test_a_disputed_old_boot_does_not_keep_the_living_one_from_being_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GATHER_SECONDS", 0.001)
    tmp_path.chmod(0o700)
    disputed, other = await crashed(tmp_path, 2)
    old = FakeBoot(agent_id="a", seed=seed(0))
    old.decide(1, model="another")
    assert old.boot_id == disputed
    trust, first = FakeTrust(), FakeBoot(agent_id="a")
    trust.believe(first)
    living = FakeBoot(agent_id="a", seed=RUNNING, key=KEY)
    trust.now[b"passport"] = attested(living)
    with observer(tmp_path, trust, first, old) as started:
        async with running(tmp_path) as journal:
            journal.set_signer(KEY, b"passport")
            owner = Owner(journal)
            channel = open_channel(Target(address=str(started.grpc)))
            reader = JournalReader(journal.path)
            try:
                async with trio.open_nursery() as nursery, open_bidi(channel, METHOD) as bidi:
                    nursery.start_soon(Session(owner, bidi, reader).run)
                    for number in range(1, 6):
                        await journal.durable(journal.append(record(number)))
                        await eventually(lambda: owner.status.acked_seq == journal.durable_seq)
                    await eventually(lambda: owner.status.lag == 0)
                    assert owner.status.connected
                    assert (owner.status.set_aside, owner.status.alarms) == (1, 1)
                    assert owner.status.alarm.startswith(
                        f"fork: boot {disputed.hex()} is set aside"
                    )
                    nursery.cancel_scope.cancel()
            finally:
                reader.close()
                channel.close()
    assert other == chain.boot_id(seed(1))
