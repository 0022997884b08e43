"""What an operator or a client gets wrong has a clear error, and nothing is lost by it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lucid.demo.upstream import DemoUpstream
from tests.processes import (
    BIN,
    BUNDLE,
    AgentProcess,
    ObserverProcess,
    clean_environment,
    free_port,
    wait_until,
)


def run_agent(config: Path, *options: str) -> tuple[int, str]:
    """Start the agent with something wrong; it must end by itself, soon, with one clear error."""
    done = subprocess.run(
        [str(BIN / "lucid-agent"), "run", "--config", str(config), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def agent(tmp_path: Path, simulated_state: Path) -> Iterator[AgentProcess]:
    """An agent that is not started; its simulated TEE exists already."""
    shutil.copytree(simulated_state, tmp_path / "state", dirs_exist_ok=True)
    (tmp_path / "state").chmod(0o700)
    made = AgentProcess(tmp_path, "http://127.0.0.1:9")
    yield made
    if made.process is not None:
        made.stop(signal.SIGKILL)


def chat(agent: AgentProcess, content: str = "hello", **more: object) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30)


# -- the operator's mistakes ---------------------------------------------------------------------


def test_a_broken_configuration_names_every_problem(agent: AgentProcess) -> None:
    agent.extra = "[gatewai]\nx = 1\n[journal]\non_failure = 'shrug'\n"
    code, text = run_agent(agent.config)
    assert code == 2
    assert "gatewai: unknown key; did you mean gateway?" in text


def test_a_state_directory_that_cannot_be_used_is_named(agent: AgentProcess) -> None:
    shutil.rmtree(agent.directory / "state")
    (agent.directory / "state").write_text("a file")
    code, text = run_agent(agent.config)
    assert code == 4
    assert f"the state directory {agent.directory}/state cannot be used" in text
    assert "agent.state_dir" in text


def test_a_missing_bundle_is_named(agent: AgentProcess) -> None:
    agent.bundle = agent.directory / "nowhere"
    code, text = run_agent(agent.config)
    assert code == 2
    assert f"{agent.directory}/nowhere" in text


def test_a_float_in_a_policy_says_which_number_to_write(agent: AgentProcess) -> None:
    agent.bundle = agent.directory / "bundle"
    shutil.copytree(BUNDLE, agent.bundle)
    with (agent.bundle / "bundle.toml").open("a") as file:
        file.write('[claims.injection_risk]\ntype = "score"\nsource = "auditor:injection"\n')
        file.write('phases = ["request"]\noptional = true\n')
    policy = agent.bundle / "policies" / "scores.cedar"
    policy.write_text(
        '@id("injection")\nforbid (principal, action, resource)\n'
        "when { context.claims.injection_risk > 0.7 };\n"
    )
    code, text = run_agent(agent.config)
    assert code == 2
    assert "scores.cedar:3" in text
    assert "7000" in text


def test_no_tee_says_what_was_looked_for_and_how_to_simulate(agent: AgentProcess) -> None:
    config = agent.config
    missing = agent.directory / "no-tsm"
    text = config.read_text().replace(
        'mode = "simulated"', f'mode = "auto"\nreport_path = "{missing}"'
    )
    config.write_text(text)
    code, error = run_agent(config)
    assert code == 3
    assert f"{missing} is not there" in error
    assert "simulated" in error


def test_the_tee_of_the_command_line_counts_more_than_the_files(agent: AgentProcess) -> None:
    code, error = run_agent(agent.config, "--tee", "auto")  # the file says simulated
    assert code == 3
    assert "no TEE" in error
    assert run_agent(agent.config, "--tee", "sgx")[0] == 2


def test_a_taken_port_is_named(agent: AgentProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", agent.port))
        taken.listen()
        code, text = run_agent(agent.config)
    assert code == 2
    assert str(agent.port) in text


def test_a_journal_that_was_changed_is_kept_and_named(agent: AgentProcess) -> None:
    with DemoUpstream() as upstream:
        agent.upstream = upstream.url
        agent.start()
        assert chat(agent).status_code == 200
        agent.stop()
    journal = agent.directory / "state" / "journal.sqlite"
    data = journal.read_bytes()
    place = data.index(b"chat.completions")
    journal.write_bytes(data[:place] + b"CHAT" + data[place + 4 :])
    code, text = run_agent(agent.config)
    assert code == 4
    assert "evidence" in text
    assert journal.exists()


def test_a_broken_bundle_on_reload_changes_nothing(agent: AgentProcess) -> None:
    agent.bundle = agent.directory / "bundle"
    shutil.copytree(BUNDLE, agent.bundle)
    with DemoUpstream() as upstream:
        agent.upstream = upstream.url
        agent.start()
        before = agent.status()["policy"]["digest"]
        (agent.bundle / "policies" / "broken.cedar").write_text("permit(")
        assert agent.process is not None
        agent.process.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: agent.status()["policy"]["reload_failures"] == 1, 10, "the reload is refused"
        )
        assert agent.status()["policy"]["digest"] == before
        assert chat(agent).status_code == 200
        (agent.bundle / "policies" / "broken.cedar").write_text(
            '@id("nobody") forbid (principal == Lucid::User::"nobody", action, resource);\n'
        )
        agent.process.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: agent.status()["policy"]["digest"] != before, 10, "the new bundle is in force"
        )
        status = agent.status()
        assert status["ready"]


# -- the world around ----------------------------------------------------------------------------


def test_a_model_server_that_is_down_is_a_502_on_record(agent: AgentProcess) -> None:
    agent.start()
    reply = chat(agent)
    assert reply.status_code == 502
    assert reply.json()["error"]["type"] == "upstream_error"
    assert agent.status()["journal"]["durable_seq"] == 2


def test_an_observer_that_is_down_closes_nothing_and_gets_all_later(
    agent: AgentProcess, tmp_path: Path
) -> None:
    observer = ObserverProcess(tmp_path, agent.simulated_root)
    agent.observer_port = observer.grpc_port
    with DemoUpstream() as upstream:
        agent.upstream = upstream.url
        agent.start()
        assert chat(agent).status_code == 200
        assert agent.status()["observer"]["lag"] == 2
        observer.start()
        try:
            wait_until(lambda: len(observer.exported()) == 2, 30, "both decisions arrive")
        finally:
            observer.stop()


# -- the client's mistakes -----------------------------------------------------------------------


def test_what_a_client_sends_wrong_is_answered_and_recorded(agent: AgentProcess) -> None:
    agent.extra = "[gateway.limits]\nbody_bytes = 4096\n"
    with DemoUpstream() as upstream:
        agent.upstream = upstream.url
        agent.start()
        url = f"{agent.url}/v1/chat/completions"
        malformed = httpx.post(url, content=b'{"model": ', timeout=10)
        assert (malformed.status_code, malformed.json()["error"]["code"]) == (400, "invalid_json")
        oversized = httpx.post(url, content=b"x" * 5000, timeout=10)
        assert oversized.status_code == 413
        assert oversized.json()["error"]["message"]
        unknown = httpx.get(f"{agent.url}/metrics", timeout=10)
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_route")
        assert chat(agent).status_code == 200


class SlowStream:
    """An upstream whose stream never ends by itself; `closed` when the gateway closes it."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"

    def serve_one(self) -> socket.socket:
        connection, _ = self.server.accept()
        connection.recv(65_536)
        event = {"id": "c", "choices": [{"index": 0, "delta": {"content": "word " * 200}}]}
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n%x\r\n%b\r\n" % (len(data), data)
        )
        return connection


def test_a_client_gone_mid_stream_stops_the_model_server_and_is_recorded(
    agent: AgentProcess,
) -> None:
    upstream = SlowStream()
    agent.upstream = upstream.url
    agent.start()
    body = json.dumps(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    )
    client = socket.create_connection(("127.0.0.1", agent.port))
    client.sendall(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    with upstream.serve_one() as connection, upstream.server:
        assert b"200 OK" in client.recv(65_536)
        client.close()
        connection.settimeout(10)
        assert connection.recv(1) == b"", "the gateway closes the upstream at once"
    wait_until(lambda: agent.status()["journal"]["durable_seq"] == 2, 10, "both decisions recorded")


def test_the_gateway_serves_the_passport_and_the_socket_answers_challenges(
    agent: AgentProcess,
) -> None:
    agent.start()
    public = httpx.get(f"{agent.url}/.well-known/lucid/passport", timeout=10)
    assert public.headers["content-type"].startswith("application/eat+cwt")
    nonce = "00112233445566778899aabbccddeeff"
    asked = json.dumps({"nonce": nonce, "audience": "me"}).encode()
    code, fresh = agent.api("POST", "/v1/passport", asked)
    assert code == 200
    assert fresh != public.content
    path = agent.directory / "fresh.cwt"
    path.write_bytes(fresh)
    command = [str(BIN / "lucid"), "passport", "verify", str(path), "--allow-simulated",
               "--simulated-root", str(agent.simulated_root), "--nonce", nonce]  # fmt: skip
    assert subprocess.run([*command, "--audience", "me"], check=False, timeout=120).returncode == 0
    assert subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 1
    wrong = ["--audience", "me", "--at", "2020-01-01"]
    assert (
        subprocess.run([*command, *wrong], check=False, capture_output=True, timeout=120).returncode
        == 1
    )
    for bad in (b"{}", b'{"nonce": "00"}', b'{"nonce": "zz"}', b"x", b'{"nonce": "' + b"0" * 200):
        assert agent.api("POST", "/v1/passport", bad)[0] == 400
    assert agent.api("GET", "/nowhere")[0] == 404
    assert agent.api("DELETE", "/healthz")[0] == 405
    assert b"lucid_ready 1.0" in agent.api("GET", "/metrics")[1]


def test_the_second_agent_on_one_socket_is_refused(agent: AgentProcess) -> None:
    agent.start()
    other = AgentProcess(agent.directory, agent.upstream, port=free_port())
    code, text = run_agent(other.config)
    assert code == 4
    assert "another agent" in text
