"""Whoever answers as an agent is not believed to be one: not in size, not in time, not in form."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from lucid.cli import main
from lucid.policy import agent_client
from lucid.policy.agent_client import AgentClient, AgentError
from tests.lucid.hostile import hostile

FORMS = {
    "/bomb": "compressed",
    "/crumbs": "no whole answer in 0.3 s",
    "/head": "no whole answer in 0.3 s",
    "/silent": "no whole answer in 0.3 s",
    "/endless": "larger than 1048576 bytes",
    "/redirect": "does not answer like an agent",
    "/number": "does not answer like an agent",
    "/deep": "does not answer like an agent",
    "/nothing": "does not answer like an agent",
    "/break-off": "no agent answers",
    "/no-http": "no agent answers",
}


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Short for what never ends; what ends has time on a busy machine, too."""
    callspec = getattr(request.node, "callspec", None)
    form = callspec.params.get("form", "/crumbs") if callspec else "/crumbs"
    endless = form in ("/crumbs", "/head", "/silent")
    monkeypatch.setattr(agent_client, "SECONDS", 0.3 if endless else 30.0)
    monkeypatch.setattr(agent_client, "MAX_ANSWER", 1024 * 1024)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("on_socket", [True, False])
def test_every_way_not_to_answer_ends_in_time_and_says_which(
    tmp_path: Path, *, form: str, on_socket: bool
) -> None:
    with hostile(tmp_path / "agent.sock" if on_socket else None, form) as where:
        began = time.monotonic()
        tracemalloc.start()
        try:
            with pytest.raises(AgentError) as caught:
                AgentClient(where).get("/v1/status")
            assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
        finally:
            tracemalloc.stop()
        assert time.monotonic() - began < 25
    assert FORMS[form] in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    "command", [("history",), ("rollback",), ("shadow", "report"), ("diff", "live", "live")]
)
def test_the_commands_say_it_and_end_with_3(tmp_path: Path, command: tuple[str, ...]) -> None:
    with hostile(tmp_path / "agent.sock", "/crumbs") as where:
        done = CliRunner().invoke(main, ["policy", *command, "--agent", where])
    assert done.exit_code == 3, done.output
    assert "no whole answer in 0.3 s" in done.output


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="no such socket"):
        AgentClient(str(tmp_path / "none")).get("/")
    with pytest.raises(AgentError, match=r"no agent answers on http://127\.0\.0\.1:1:"):
        AgentClient("http://127.0.0.1:1").get("/")
