"""`lucid policy` at a real agent: its decisions explained, compared, and shadowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner

from lucid.demo.upstream import DemoUpstream
from lucid.policy.cli import policy
from tests.processes import BUNDLE, AgentProcess

STRICT = """
@id("no-personal-data")
@phase("request")
forbid (principal, action, resource)
when { context.claims.pii_found };
"""


def ask(agent: AgentProcess, text: str) -> httpx.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30)


def run(agent: AgentProcess, *arguments: str | Path, code: int) -> Any:
    words = [*map(str, arguments), "--agent", str(agent.socket), "--json"]
    result = CliRunner().invoke(policy, words)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_decisions_of_a_running_agent_are_explained_compared_and_shadowed(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    candidate = tmp_path / "candidate"
    shutil.copytree(BUNDLE, candidate)
    (candidate / "policies" / "strict.cedar").write_text(STRICT)
    with DemoUpstream() as upstream:
        agent = AgentProcess(tmp_path / "agent", upstream.url)
        agent.start()
        try:
            digest = run(agent, "shadow", "start", candidate, code=0)["shadow"]
            warned = ask(agent, "My address is bob@example.org.")
            assert warned.status_code == 200
            assert ask(agent, "What is confidential computing?").status_code == 200
            assert httpx.get(f"{agent.url}/nothing", timeout=10).status_code == 404

            decisions = json.loads(agent.api("GET", "/v1/decisions?last=50")[1])["decisions"]
            [request] = [
                decision
                for decision in decisions
                if decision["outcome"] == "warn" and decision["phase"] == "request"
            ]
            assert request["shadow"] == f"{digest[:16]} deny no-personal-data,pii-in-request"
            assert {d["shadow"] for d in decisions if d["outcome"] == "proceed"} == {
                f"{digest[:16]} same"
            }

            found = run(agent, "explain", "--decision", request["decision_id"], code=0)
            assert found["decided_by_this_bundle"]
            assert (found["exact"], found["basis"]["platform"]) == (True, "not read")
            decided = [entry["id"] for entry in found["policies"] if entry["decided"]]
            assert decided == ["pii-in-request"]
            other = run(agent, "explain", candidate, "--decision", request["decision_id"], code=1)
            assert (other["outcome"], other["same_outcome"]) == ("deny", False)
            run(agent, "explain", "--decision", "dec-unknown", code=2)

            changes = run(agent, "diff", "live", candidate, "--decisions", "50", code=1)
            assert request["decision_id"] in {change["where"] for change in changes["changes"]}
            assert changes["skipped"] == 1  # the route that is not there
            assert changes["assumed"] == 0

            report = run(agent, "shadow", "report", code=1)
            [difference] = [d for d in report["differences"] if d["phase"] == "request"]
            assert difference["examples"] == [request["decision_id"]]

            pushed = run(agent, "push", candidate, "--without-tests", code=1)  # its tests fail
            assert pushed["cases"]
            shutil.rmtree(candidate / "tests")
            pushed = run(agent, "push", candidate, "--without-tests", code=0)
            assert agent.status()["policy"]["digest"] == pushed["digest"]
            assert ask(agent, "My address is bob@example.org.").status_code == 403
            agent.stop()
            agent.start()  # it stays in force
            assert agent.status()["policy"]["digest"] == pushed["digest"]
            run(agent, "rollback", code=0)
            assert ask(agent, "My address is bob@example.org.").status_code == 200
        finally:
            if agent.process is not None:
                agent.stop()
