"""The openai client talks through the agent to a real model server (llama-cpp-python)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

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
EMAIL, CARD = "@example.com", "4111"


@pytest.fixture(scope="module")
def model_server(vectors: Path) -> Iterator[str]:
    if not PYTHON.exists():
        pytest.fail("no model server: run `make test-real`, which installs it")
    model = os.environ.get("LUCID_MODEL", str(vectors / "tinymodel" / "tiny.gguf"))
    port = free_port()
    command = [str(PYTHON), "-m", "llama_cpp.server", "--model", model, "--model_alias", "tiny"]
    server = Process([*command, "--host", "127.0.0.1", "--port", str(port)])
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/v1/models", timeout=1).status_code == 200
        except httpx.HTTPError:
            return not server.alive

    try:
        wait_until(answers, 60, "the model server answers")
        assert server.alive, server.tail()
        yield url
    finally:
        server.end()


@pytest.fixture(scope="module")
def running(
    model_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AgentProcess, ObserverProcess]]:
    with pair(tmp_path_factory.mktemp("real"), model_server) as both:
        yield both


@pytest.fixture(scope="module")
def seen(running: tuple[AgentProcess, ObserverProcess]) -> dict[str, Any]:
    """What the openai client saw through the agent."""
    script = str(Path(__file__).with_name("client.py"))
    done = subprocess.run(
        [str(PYTHON), script, running[0].url, "tiny"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture(scope="module")
def direct(model_server: str) -> str:
    """What the model server says itself to the prompt `pii`."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "pii"}],
        "max_tokens": 48,
        "temperature": 0,
    }
    answer = httpx.post(f"{model_server}/v1/chat/completions", json=body, timeout=60).json()
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_the_server_itself_answers_with_personal_data(direct: str) -> None:
    assert EMAIL in direct
    assert CARD in direct


def test_a_whole_reply_is_masked(seen: dict[str, Any]) -> None:
    assert "[EMAIL]" in seen["pii"]
    assert "[CARD]" in seen["pii"]
    assert EMAIL not in seen["pii"]
    assert CARD not in seen["pii"]


def test_a_streamed_reply_is_masked_as_the_whole_one(seen: dict[str, Any]) -> None:
    assert "".join(seen["pii-stream"]) == seen["pii"]
    assert seen["pii-finish"] in ("stop", "length")


def test_other_text_is_unchanged_also_when_its_characters_are_split(
    seen: dict[str, Any],
) -> None:
    assert "".join(seen["utf8-stream"]) == seen["utf8"]
    assert "".join(seen["plain-stream"]) == seen["plain"]
    assert any(ord(c) > 127 for c in seen["utf8"])


def test_a_secret_in_the_prompt_is_denied_with_the_apis_own_error(seen: dict[str, Any]) -> None:
    assert seen["denied"]["type"] == "policy_denied"
    assert seen["denied"]["decision_id"].startswith("dec-")


def test_every_decision_reaches_the_observer_and_the_chain_verifies(
    seen: dict[str, Any], running: tuple[AgentProcess, ObserverProcess]
) -> None:
    agent, observer = running
    last = agent.status()["journal"]["last_seq"]
    wait_until(lambda: len(observer.exported()) >= last, 20, "all decisions at the Observer")
    outcomes = [d["outcome"] for d in observer.exported()]
    assert outcomes.count("redact") == 2
    assert outcomes.count("deny") == 1
