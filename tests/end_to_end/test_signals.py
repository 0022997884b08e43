"""Signals at every moment of a life: before it has begun, twice, in storms, while it ends."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lucid.demo.upstream import DemoUpstream
from tests.processes import BUNDLE, AgentProcess, Process, free_port, wait_until

AUDITED = """
[claims.risk]
type = "bool"
source = "auditor:late"
phases = ["request"]
"""


@pytest.fixture
def upstream() -> Iterator[str]:
    with DemoUpstream() as running:
        yield running.url


@pytest.fixture
def made(tmp_path: Path, simulated_state: Path, upstream: str) -> Iterator[AgentProcess]:
    """An agent that was not started yet."""
    shutil.copytree(simulated_state, tmp_path / "state")
    (tmp_path / "state").chmod(0o700)
    agent = AgentProcess(tmp_path, upstream)
    yield agent
    if agent.process is not None:
        agent.stop()


def process_of(agent: AgentProcess) -> Process:
    assert agent.process is not None
    return agent.process


def ask(agent: AgentProcess) -> int:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30).status_code


def said(agent: AgentProcess, word: str) -> bool:
    return any(word in line for line in process_of(agent).output)


def starts_again(agent: AgentProcess) -> None:
    agent.start()
    assert agent.status()["ready"]


def test_a_stop_while_it_waits_for_an_auditor_closes_what_had_begun(
    made: AgentProcess, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    with (bundle / "bundle.toml").open("a") as file:
        file.write(AUDITED)
    plain, made.bundle = made.bundle, bundle
    made.extra = f'[[auditors]]\nname = "late"\nurl = "http://127.0.0.1:{free_port()}"\n'
    made.start(wait=False)
    wait_until(lambda: made.status().get("state") == "starting", 30, "it waits for the auditor")
    began, process = time.monotonic(), process_of(made)
    assert made.stop() == 0, process.tail()
    assert time.monotonic() - began < 2
    assert "state=stopping before=starting" in process.tail()
    assert not made.socket.exists()
    made.bundle, made.extra = plain, ""
    starts_again(made)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_any_moment_of_a_start_leaves_what_the_next_start_can_use(
    made: AgentProcess, number: int
) -> None:
    for milliseconds in (0, 150, 300, 450, 600, 800, 1000):
        made.start(wait=False)
        wait_until(lambda: said(made, "tee.found"), 30, "the first that it says")
        time.sleep(milliseconds / 1000)
        process = process_of(made)
        assert made.stop(number) == 0, process.tail()
        assert "stopped" in process.tail()
    starts_again(made)


def test_a_stop_that_comes_again_and_again_takes_its_course(made: AgentProcess) -> None:
    made.start()
    assert ask(made) == 200
    process = process_of(made)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        process.process.send_signal(number)
    assert made.stop() == 0, process.tail()
    assert "stop.again" in process.tail()
    assert "durable_seq=2" in process.tail()


def test_a_storm_of_reloads_disturbs_nobody_and_a_stop_does_not_wait_for_it(
    made: AgentProcess,
) -> None:
    made.start()
    process, over = process_of(made), threading.Event()

    def storm() -> None:
        while not over.is_set():
            process.process.send_signal(signal.SIGHUP)
            time.sleep(0.0005)

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        slowest = 0.0
        for _ in range(50):
            began = time.monotonic()
            assert ask(made) == 200
            slowest = max(slowest, time.monotonic() - began)
        began = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not process.alive, 10, "it ends")
        took = time.monotonic() - began
    finally:
        over.set()
        thread.join()
    assert made.stop() == 0, process.tail()
    assert slowest < 3
    assert took < 2
    assert not any("task.fault" in line for line in process.output)
    reloads = sum("policy.unchanged" in line for line in process.output)
    assert 1 <= reloads <= 50, "wishes that wait are one"
