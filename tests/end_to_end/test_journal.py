"""A journal of a real agent that served, was killed, served again: checked by the real command."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from lucid.demo.upstream import DemoUpstream
from tests.processes import BIN, AgentProcess, pair, wait_until


def verify(file: Path, root: Path, *options: str) -> tuple[int, dict[str, Any]]:
    allowed = ["--allow-simulated", "--simulated-root", str(root)]
    done = subprocess.run(
        [BIN / "lucid", "journal", "verify", str(file), "--json", *allowed, *options],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def serve(agent: AgentProcess, count: int) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    for _ in range(count):
        httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30).raise_for_status()


def test_an_auditor_gets_the_journal_and_what_the_observer_has(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    with DemoUpstream() as upstream, pair(tmp_path, upstream.url) as (agent, observer):

        def copy(name: str) -> Path:
            for part in (agent.directory / "state").glob("journal.sqlite*"):
                shutil.copy(part, copies / part.name.replace("journal.sqlite", name))
            return copies / name

        serve(agent, 12)
        agent.stop(signal.SIGKILL)
        killed = copy("killed")
        code, found = verify(killed, agent.simulated_root, "--allow-unsigned")
        assert (code, found["records"]) == (0, 24)
        agent.start()
        serve(agent, 5)
        assert agent.stop() == 0
        whole = copy("whole")
        code, found = verify(whole, agent.simulated_root)
        assert (code, found["error"]) == (0, None)
        assert (found["records"], found["unsigned"]) == (34, 0)
        first, second = found["boots"]
        assert first["signed_by"] == "the boot's own key" or second["boot"] in first["signed_by"]
        assert first["under_passport"] == first["records"] == 24

        def boots() -> list[dict[str, Any]]:
            return [b for a in observer.get("/api/agents")["agents"] for b in a["boots"]]

        wait_until(lambda: sum(b["verified_seq"] for b in boots()) == 34, 20, "all delivered")
        heads = [
            f"--expect-head={boot['boot']}:{boot['verified_seq']}:{boot['head']}"
            for boot in boots()
        ]
    code, _ = verify(whole, agent.simulated_root, *heads)
    assert code == 0
    code, found = verify(killed, agent.simulated_root, "--allow-unsigned", *heads)
    assert (code, found["error"]["code"]) == (1, "journal.boot_missing"), "an older copy"
    with closing(sqlite3.connect(whole)) as db, db:
        db.execute("UPDATE records SET record = zeroblob(length(record)) WHERE place % 16 = 7")
    code, found = verify(whole, agent.simulated_root)
    assert (code, found["error"]["code"], found["error"]["seq"]) == (1, "chain.broken", 7)
