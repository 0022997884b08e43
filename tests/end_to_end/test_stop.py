"""How long a stop takes, and what it leaves, by what the Observer does meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lucid.demo.upstream import DemoUpstream
from tests.processes import AgentProcess, pair, wait_until

ENDS = 2.0  # seconds, on a busy machine; what is waited for in vain would be 5


@pytest.fixture
def upstream() -> Iterator[str]:
    with DemoUpstream() as running:
        yield running.url


def ask(agent: AgentProcess) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30).raise_for_status()


def lag(agent: AgentProcess) -> int:
    return int(agent.status()["observer"]["lag"])


def stopped(agent: AgentProcess) -> tuple[float, str]:
    """Stop it; the seconds that took, and what it said to the end."""
    process = agent.process
    assert process is not None
    began = time.monotonic()
    assert agent.stop() == 0, process.tail()
    return time.monotonic() - began, process.tail()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["away", "hangs"])
def test_with_nothing_left_to_deliver_a_stop_waits_for_no_observer(
    tmp_path: Path, upstream: str, number: int
) -> None:
    with pair(tmp_path, upstream) as (agent, observer):
        ask(agent)
        wait_until(lambda: lag(agent) == 0, 10, "all is delivered")
        assert observer.process is not None
        observer.process.process.send_signal(number)
        try:
            if number == signal.SIGKILL:
                wait_until(lambda: not agent.status()["observer"]["connected"], 10, "it is away")
            took, said = stopped(agent)
        finally:
            observer.process.process.send_signal(signal.SIGCONT)
        assert took < ENDS
        assert "stream.undelivered" not in said


def test_a_stop_delivers_the_last_checkpoint_too(tmp_path: Path, upstream: str) -> None:
    with pair(tmp_path, upstream) as (agent, observer):
        ask(agent)
        took, said = stopped(agent)
        assert took < ENDS, said
        [boot] = observer.get("/api/agents")["agents"][0]["boots"]
        assert boot["verified_seq"] == boot["checkpoint_seq"] == 2


def test_what_is_left_is_tried_for_half_of_the_time_said_and_delivered_by_the_next_start(
    tmp_path: Path, upstream: str
) -> None:
    with pair(tmp_path, upstream, stop_seconds=3) as (agent, observer):
        observer.stop(signal.SIGKILL)
        ask(agent)
        assert lag(agent) == 2
        process = agent.process
        assert process is not None
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: agent.status().get("state") == "stopping", 5, "it is stopping")
        wait_until(lambda: "1.5 s at most" in agent.status().get("next", ""), 5, "what comes next")
        assert "the next start delivers it" in agent.status()["next"]
        took, said = stopped(agent)
        assert 0.5 < took < 1.5 + ENDS
        assert "stream.undelivered" in said
        assert "lag=2" in said
        assert str(tmp_path / "agent" / "state" / "journal.sqlite") in said

        agent.start()  # still without an Observer: it says at once what is left
        assert lag(agent) == 2
        observer.start()
        wait_until(lambda: lag(agent) == 0, 20, "the next start delivers it")
        wait_until(lambda: len(observer.exported()) == 2, 10, "and it is there")


def test_an_observer_that_comes_back_during_the_stop_is_delivered_to(
    tmp_path: Path, upstream: str
) -> None:
    with pair(tmp_path, upstream, stop_seconds=40) as (agent, observer):
        observer.stop(signal.SIGKILL)
        ask(agent)
        process = agent.process
        assert process is not None
        process.process.send_signal(signal.SIGTERM)
        observer.start()
        took, said = stopped(agent)
        assert took < 10
        assert "stream.undelivered" not in said
        assert len(observer.exported()) == 2
