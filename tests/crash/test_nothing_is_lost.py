"""kill -9 of the agent under load, and an Observer that is away under load: nothing is lost.

The promise: every decision whose reply a client saw is at the Observer, once, and the chain
verifies from the first record of each boot.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from attestation import chain
from attestation.records import decode_record
from lucid.demo.upstream import DemoUpstream
from tests.processes import AgentProcess, ObserverProcess, pair, wait_until

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("LUCID_KILLS", "3"))
OUTAGE_SECONDS = float(os.environ.get("LUCID_OUTAGE_SECONDS", "60"))
CLIENTS = 6
PROMPTS = ("hello", "what is the contact?", "my mail is bob@example.com")


class Load:
    """Clients in threads; `seen` holds the decision ids of the replies that arrived whole."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[str] = []
        self.failed = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=10) as client:
            for prompt in itertools.islice(itertools.cycle(PROMPTS), number, None):
                if self._stop.is_set():
                    return
                body = {
                    "model": "m",
                    "messages": [{"role": "user", "content": prompt}],
                    "stream": number % 2 == 0,
                }
                try:
                    reply = client.post(f"{self.url}/v1/chat/completions", json=body)
                except httpx.HTTPError:
                    self.failed += 1
                    time.sleep(0.02)
                    continue
                if "lucid-decision-id" in reply.headers:
                    self.seen.append(reply.headers["lucid-decision-id"])

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def assert_all_there(load: Load, agent: AgentProcess, observer: ObserverProcess) -> None:
    last = agent.status()["journal"]["last_seq"]
    boot = agent.status()["journal"]["boot"]

    def caught_up() -> bool:
        agents = observer.get("/api/agents")["agents"]
        return any(
            b["boot"] == boot and b["verified_seq"] >= last for a in agents for b in a["boots"]
        )

    wait_until(caught_up, 60, f"the Observer has {last} records of boot {boot}")
    there = observer.exported()
    ids = Counter(d["decision_id"] for d in there)
    assert len(load.seen) > 100, "the load was real"
    assert not [i for i in load.seen if i not in ids], "a decision that a client saw is missing"
    assert max(ids.values()) == 1, "a decision is there twice"
    # Our own check of the chain, from the raw records, apart from the Observer's.
    by_boot: dict[str, list[bytes]] = {}
    for d in sorted(there, key=lambda d: (d["boot"], d["seq"])):
        by_boot.setdefault(d["boot"], []).append(bytes.fromhex(d["raw"]))
    heads = {b["boot"]: b for a in observer.get("/api/agents")["agents"] for b in a["boots"]}
    for boot_hex, records in by_boot.items():
        assert [decode_record(r).seq for r in records] == list(range(1, len(records) + 1))
        seed = bytes.fromhex(heads[boot_hex]["boot_seed"])
        assert chain.boot_id(seed).hex() == boot_hex
        head = chain.advance_all(chain.genesis(seed), records)
        assert head.hex() == heads[boot_hex]["head"]
    assert not [a for agent in observer.get("/api/agents")["agents"] for a in agent["alarms"]]


def test_killing_the_agent_under_load_loses_no_decision_that_a_client_saw(tmp_path: Path) -> None:
    with DemoUpstream() as upstream, pair(tmp_path, upstream.url) as (agent, observer):
        load = Load(agent.url)
        with load.running():
            for _ in range(KILLS):
                time.sleep(4)
                agent.stop(signal.SIGKILL)
                agent.start()
            time.sleep(2)
        assert load.failed > 0, "the kills were felt"
        assert_all_there(load, agent, observer)


def test_an_observer_that_is_away_under_load_gets_everything_when_it_returns(
    tmp_path: Path,
) -> None:
    with DemoUpstream() as upstream, pair(tmp_path, upstream.url) as (agent, observer):
        load = Load(agent.url)
        with load.running():
            time.sleep(2)
            observer.stop(signal.SIGKILL)
            time.sleep(OUTAGE_SECONDS)
            assert agent.status()["ready"], "an Observer that is away closes nothing"
            observer.start()
            time.sleep(2)
        assert load.failed == 0
        assert_all_there(load, agent, observer)


def test_a_clean_stop_delivers_everything_before_the_process_ends(tmp_path: Path) -> None:
    with DemoUpstream() as upstream, pair(tmp_path, upstream.url) as (agent, observer):
        load = Load(agent.url)
        with load.running():
            time.sleep(2)
        last = agent.status()["journal"]["last_seq"]
        assert agent.stop(signal.SIGTERM) == 0
        assert len(observer.exported()) == last
