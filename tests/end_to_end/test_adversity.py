"""The real agent where the system has nothing left for it, or takes away what it had."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lucid.demo.upstream import DemoUpstream
from tests.processes import BIN, AgentProcess, clean_environment, wait_until


@pytest.fixture
def agent(tmp_path: Path, simulated_state: Path) -> Iterator[AgentProcess]:
    """An agent that was not started yet."""
    shutil.copytree(simulated_state, tmp_path / "state")
    (tmp_path / "state").chmod(0o700)
    with DemoUpstream() as upstream:
        agent = AgentProcess(tmp_path, upstream.url)
        yield agent
        if agent.process is not None:
            agent.stop()


def ask(agent: AgentProcess) -> int:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30).status_code


def pid_of(agent: AgentProcess) -> int:
    assert agent.process is not None
    return agent.process.process.pid


def said(agent: AgentProcess, word: str) -> int:
    assert agent.process is not None
    return sum(word in line for line in agent.process.output)


def seconds_used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_disk_that_takes_nothing_refuses_and_recovers_without_a_gap(agent: AgentProcess) -> None:
    agent.start()
    assert ask(agent) == 200
    limit = (4096, resource.RLIM_INFINITY)  # no file grows beyond that: every write fails
    resource.prlimit(pid_of(agent), resource.RLIMIT_FSIZE, limit)
    assert ask(agent) == 503
    status = agent.status()
    assert status["state"] == "blocked"
    assert "disk I/O error" in status["reason"]
    resource.prlimit(pid_of(agent), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    wait_until(lambda: ask(agent) == 200, 20, "it records again by itself")
    last = agent.status()["journal"]["last_seq"]
    assert agent.stop() == 0
    agent.start()  # verifies the chain
    assert agent.status()["ready"]
    assert last >= 5


def test_a_journal_that_was_taken_away_refuses_until_it_is_back(
    agent: AgentProcess, tmp_path: Path
) -> None:
    agent.start()
    assert ask(agent) == 200
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    assert ask(agent) == 503, "what a file that is gone would hold is gone"
    assert "no longer the file that was opened" in agent.status()["reason"]
    (tmp_path / "elsewhere").rename(tmp_path / "state")
    wait_until(lambda: ask(agent) == 200, 20, "it records again by itself")


def test_without_descriptors_nobody_spins_or_dies_and_it_is_said_once(agent: AgentProcess) -> None:
    agent.start()
    assert ask(agent) == 200
    pid = pid_of(agent)
    held = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (held + 4, 4096))
    clients = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(20)]
    local = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    try:
        for client in local:
            client.connect(str(agent.socket))
        wait_until(lambda: bool(said(agent, "gateway.out_of_resources")), 10, "it is said")
        before, began = seconds_used(pid), time.monotonic()
        time.sleep(2)
        assert (seconds_used(pid) - before) / (time.monotonic() - began) < 0.1
        agent_process = agent.process
        assert agent_process is not None
        agent_process.process.send_signal(
            signal.SIGHUP
        )  # what needs a file fails, and ends nothing
        wait_until(lambda: bool(said(agent, "policy.reload_refused")), 10, "the reload fails")
    finally:
        for client in [*clients, *local]:
            client.close()
    wait_until(lambda: agent.status().get("ready", False), 10, "places are free again")
    assert ask(agent) == 200
    assert said(agent, "out_of_resources") <= 2, "once a minute for each door"
    metrics = agent.api("GET", "/metrics")[1].decode()
    assert 'lucid_gateway_refusals_total{code="out_of_resources"}' in metrics
    assert said(agent, "task.fault") == 0


def test_the_second_agent_on_a_state_directory_is_refused_and_disturbs_nothing(
    agent: AgentProcess, tmp_path: Path
) -> None:
    agent.start()
    (tmp_path / "second").mkdir()
    second = AgentProcess(tmp_path / "second", agent.upstream)
    text = second.config.read_text().replace("second/state", "state")
    second_config = tmp_path / "second.toml"
    second_config.write_text(text, encoding="utf-8")
    before = sorted(path.name for path in (tmp_path / "state").rglob("*"))
    done = subprocess.run(
        [str(BIN / "lucid-agent"), "run", "--config", str(second_config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 4
    assert f"used by another agent: test-agent, process {pid_of(agent)} on" in done.stderr
    assert sorted(path.name for path in (tmp_path / "state").rglob("*")) == before
    assert ask(agent) == 200


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", "<&-"])
def test_closed_standard_streams_are_nobody_elses(agent: AgentProcess, closed: str) -> None:
    """A log line must not be written into what got the number 2."""
    command = f"exec {BIN}/lucid-agent run --config {agent.config} {closed}"
    process = subprocess.Popen(["/bin/sh", "-c", command], env=clean_environment())
    try:
        wait_until(lambda: agent.status().get("ready", False), 30, "it is ready")
        for number in (0, 1, 2):
            place = str(Path(f"/proc/{process.pid}/fd/{number}").readlink())
            assert not place.startswith(("socket:", "anon_inode:")), place
            assert "state" not in place
        assert ask(agent) == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
