"""The openai client talks through the agent to a real model server (llama-cpp-python).

Every route that the server has, whole and streamed: proceed, redact, deny before and in the middle
of a stream; the agent stopped, and the model server stopped, while a stream goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from enforcement.apis.chat import CHAT_REPLY, CHAT_REQUEST, CHUNK, COMPLETION_REQUEST
from enforcement.apis.responses import RESPONSES_REPLY, RESPONSES_REQUEST
from tests.leaks.bundles import write_bundle
from tests.processes import (
    ROOT,
    AgentProcess,
    ObserverProcess,
    Process,
    free_port,
    pair,
    wait_until,
)

pytestmark = pytest.mark.real

PYTHON = ROOT / ".venv-real" / "bin" / "python"
CLIENT = Path(__file__).with_name("client.py")
EMAIL, CARD = "@example.com", "4111"


class ModelServer:
    """The real server on the tiny model of the vectors."""

    def __init__(self, vectors: Path) -> None:
        if not PYTHON.exists():
            pytest.fail("no model server: run `make test-real`, which installs it")
        model = os.environ.get("LUCID_MODEL", str(vectors / "tinymodel" / "tiny.gguf"))
        port = free_port()
        command = [str(PYTHON), "-m", "llama_cpp.server", "--model", model, "--model_alias", "tiny"]
        command += ["--embedding", "true", "--host", "127.0.0.1", "--port", str(port)]
        self.process = Process(command)
        self.url = f"http://127.0.0.1:{port}"
        wait_until(self._answers, 60, "the model server answers")
        assert self.process.alive, self.process.tail()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/models", timeout=1).status_code == 200
        except httpx.HTTPError:
            return not self.process.alive

    def signal(self, number: int) -> None:
        self.process.process.send_signal(number)

    def end(self) -> None:
        self.process.end()


class OtherServer:
    """A server that somebody else started (`LUCID_MODEL_SERVER`; docs/model-servers.md)."""

    def __init__(self, url: str) -> None:
        self.url = url

    def signal(self, number: int) -> None:
        pytest.skip(f"only a server of our own can be sent signal {number}")

    def end(self) -> None:
        pass


@pytest.fixture(scope="module")
def model_server(vectors: Path) -> Iterator[ModelServer | OtherServer]:
    other = os.environ.get("LUCID_MODEL_SERVER")
    server = OtherServer(other) if other else ModelServer(vectors)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def running(
    model_server: ModelServer | OtherServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AgentProcess, ObserverProcess]]:
    with pair(tmp_path_factory.mktemp("real"), model_server.url) as both:
        yield both


def client(mode: str, agent: AgentProcess) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PYTHON), str(CLIENT), mode, agent.url, "tiny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the client saw, when it has ended."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    value: dict[str, Any] = json.loads(out)
    return value


@pytest.fixture(scope="module")
def seen(running: tuple[AgentProcess, ObserverProcess]) -> dict[str, Any]:
    """What the openai client saw through the agent."""
    return told(client("all", running[0]))


def text_of(streamed: dict[str, Any]) -> str:
    assert streamed["error"] is None
    return "".join(streamed["pieces"])


@pytest.fixture(scope="module")
def direct(model_server: ModelServer | OtherServer) -> dict[str, str]:
    """What the model server says itself."""
    out = {}
    for prompt in ("pii", "plain", "utf8"):
        body = {"model": "tiny", "max_tokens": 48, "temperature": 0}
        messages = [{"role": "user", "content": prompt}]
        reply = httpx.post(
            f"{model_server.url}/v1/chat/completions",
            json=body | {"messages": messages},
            timeout=60,
        ).json()
        out[f"chat {prompt}"] = reply["choices"][0]["message"]["content"]
        reply = httpx.post(
            f"{model_server.url}/v1/completions", json=body | {"prompt": prompt}, timeout=60
        ).json()
        out[f"completion {prompt}"] = reply["choices"][0]["text"]
    return out


def test_the_server_itself_answers_with_personal_data(direct: dict[str, str]) -> None:
    for route in ("chat", "completion"):
        assert EMAIL in direct[f"{route} pii"]
        assert CARD in direct[f"{route} pii"]


@pytest.mark.parametrize("route", ["chat", "completion"])
def test_a_whole_reply_is_masked(seen: dict[str, Any], route: str) -> None:
    for text in (seen[f"{route} pii"], seen["completion echoed"]):
        assert "[EMAIL]" in text
        assert "[CARD]" in text
        assert EMAIL not in text
        assert CARD not in text


@pytest.mark.parametrize("route", ["chat", "completion"])
def test_a_streamed_reply_is_masked_as_the_whole_one(seen: dict[str, Any], route: str) -> None:
    assert text_of(seen[f"{route} pii streamed"]) == seen[f"{route} pii"]


@pytest.mark.parametrize("route", ["chat", "completion"])
@pytest.mark.parametrize("prompt", ["plain", "utf8"])
def test_other_text_is_unchanged_also_when_its_characters_are_split(
    seen: dict[str, Any], direct: dict[str, str], route: str, prompt: str
) -> None:
    text = direct[f"{route} {prompt}"]
    if EMAIL in text or CARD in text:
        pytest.skip("the model says something else to this prompt on this route")
    assert seen[f"{route} {prompt}"] == text_of(seen[f"{route} {prompt} streamed"]) == text


def test_log_probabilities_pass_with_text_that_passes_and_not_with_masked_text(
    seen: dict[str, Any],
) -> None:
    assert not seen["completion pii logprobs"]
    assert seen["completion plain logprobs"] == ("[" not in seen["completion plain"])


def test_models_and_embeddings_pass(seen: dict[str, Any]) -> None:
    assert seen["models"] == ["tiny"]
    if seen["embeddings"] is None:
        pytest.skip("the model server has no embeddings")
    assert len(seen["embeddings"]) == 2
    assert all(size > 0 for size in seen["embeddings"])


@pytest.mark.parametrize("route", ["chat", "completion", "embeddings", "responses"])
def test_a_secret_in_a_request_is_denied_with_the_apis_own_error(
    seen: dict[str, Any], route: str
) -> None:
    refused = seen[f"refused {route}"]
    assert refused["status"] == 403
    assert refused["body"]["type"] == "policy_denied"
    assert refused["body"]["decision_id"].startswith("dec-")


def test_what_cannot_be_read_is_refused(seen: dict[str, Any]) -> None:
    assert seen["picture"]["status"] in (400, 403)
    assert seen["not served"]["status"] == 404  # the model server's own answer


def test_every_decision_reaches_the_observer_and_the_chain_verifies(
    seen: dict[str, Any], running: tuple[AgentProcess, ObserverProcess]
) -> None:
    agent, observer = running
    last = agent.status()["journal"]["last_seq"]
    wait_until(lambda: len(observer.exported()) >= last, 20, "all decisions at the Observer")
    decisions = observer.exported()
    assert {"chat.completions", "completions", "embeddings", "models", "responses"} <= {
        d["route"] for d in decisions
    }
    assert [d["outcome"] for d in decisions].count("redact") >= 5
    stored = json.dumps(decisions)
    assert EMAIL not in stored
    assert CARD not in stored


def test_every_field_of_the_clients_own_types_is_in_the_tables(
    running: tuple[AgentProcess, ObserverProcess],
) -> None:
    message = CHAT_REPLY.fields["choices"].item.fields["message"]  # type: ignore[attr-defined]
    choice = CHAT_REPLY.fields["choices"].item  # type: ignore[attr-defined]
    tables = {
        "chat request": CHAT_REQUEST,
        "chat reply": CHAT_REPLY,
        "chat choice": choice,
        "chat message": message,
        "chat chunk": CHUNK,
        "completion request": COMPLETION_REQUEST,
        "responses request": RESPONSES_REQUEST,
        "responses reply": RESPONSES_REPLY,
    }
    fields = told(client("fields", running[0]))
    assert set(fields) == set(tables)
    missing = {name: set(fields[name]) - set(tables[name].fields) for name in tables}
    assert not any(missing.values()), missing


# -- denied, and broken off ------------------------------------------------------------------------


def test_a_denied_reply_is_an_error_before_and_in_the_middle_of_a_stream(
    model_server: ModelServer | OtherServer, tmp_path: Path
) -> None:
    # With this one detector on, the window is short, so that some text leaves before the denial.
    off = ("api_key", "email", "iban", "phone", "ssn")
    bundle = write_bundle(tmp_path / "bundle", mode="window", hold_back=64, deny=True, off=off)
    with pair(tmp_path, model_server.url, bundle=bundle) as (agent, observer):
        seen = told(client("denied", agent))
        for route in ("chat", "completion"):
            assert seen[route]["status"] == 403
        for name in ("chat streamed", "mid-stream"):
            assert seen[name]["error"] == "APIError"
            assert seen[name]["body"]["type"] == "policy_denied"
            assert CARD not in "".join(seen[name]["pieces"])
        assert len("".join(seen["mid-stream"]["pieces"])) >= 64  # some of it had left
        # The engine was stopped: the server answers another client at once.
        assert httpx.get(f"{model_server.url}/v1/models", timeout=5).status_code == 200
        last = agent.status()["journal"]["last_seq"]
        wait_until(lambda: len(observer.exported()) >= last, 20, "all decisions at the Observer")
        assert [d["outcome"] for d in observer.exported()].count("deny") == 4


@contextmanager
def held_stream(
    agent: AgentProcess, server: ModelServer | OtherServer
) -> Iterator[subprocess.Popen[str]]:
    """A client in the middle of a stream, the model server stopped in the middle of its text."""
    process = client("hold", agent)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "first\n"
        server.signal(signal.SIGSTOP)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_the_agent_killed_mid_stream_is_an_error_for_the_client_and_the_chain_goes_on(
    model_server: ModelServer | OtherServer, tmp_path: Path
) -> None:
    with pair(tmp_path, model_server.url) as (agent, observer):
        with held_stream(agent, model_server) as process:
            agent.stop(signal.SIGKILL)
            model_server.signal(signal.SIGCONT)
            assert told(process)["error"] is not None
        agent.start()
        assert told(client("all", agent))["models"] == ["tiny"]
        last = agent.status()["journal"]["last_seq"]
        boot = agent.status()["journal"]["boot"]
        wait_until(
            lambda: sum(d["boot"] == boot for d in observer.exported()) >= last, 20, "all there"
        )


def test_the_agent_told_to_stop_mid_stream_lets_the_stream_end(
    model_server: ModelServer | OtherServer, tmp_path: Path
) -> None:
    with pair(tmp_path, model_server.url) as (agent, _):
        with held_stream(agent, model_server) as process:
            assert agent.process is not None
            agent.process.process.send_signal(signal.SIGTERM)
            model_server.signal(signal.SIGCONT)
            seen = told(process)
        assert seen["error"] is None
        assert EMAIL not in "".join(seen["pieces"])


def test_the_model_server_killed_mid_stream_is_an_error_and_on_record(
    vectors: Path, tmp_path: Path
) -> None:
    server = ModelServer(vectors)
    try:
        with pair(tmp_path, server.url) as (agent, observer):
            with held_stream(agent, server) as process:
                server.signal(signal.SIGKILL)
                seen = told(process)
            assert seen["error"] is not None
            last = agent.status()["journal"]["last_seq"]
            wait_until(lambda: len(observer.exported()) >= last, 20, "all decisions there")
            replies = [d for d in observer.exported() if d["phase"] == "response"]
            assert len(replies) == 1
            assert any(reason.startswith("aborted:") for reason in replies[0]["reasons"])
    finally:
        server.process.end(signal.SIGKILL)
