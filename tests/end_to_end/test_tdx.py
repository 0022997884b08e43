"""The whole way on a simulated TDX machine: attested, decided, shown by the Observer, verified."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx

from lucid.demo.upstream import DemoUpstream
from tests.processes import BIN, clean_environment, pair, wait_until


def test_an_agent_on_tdx_does_all_that_one_on_sev_snp_does(tmp_path: Path) -> None:
    with (
        DemoUpstream() as upstream,
        pair(tmp_path, upstream.url, simulate="tdx") as (agent, observer),
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30)
        assert answer.status_code == 200
        wait_until(lambda: len(observer.exported()) >= 2, 30, "decisions at the Observer")
        status, token = agent.api("GET", "/v1/passport")
        assert status == 200
        file = tmp_path / "passport"
        file.write_bytes(token)
        policy = tmp_path / "policy.toml"
        policy.write_text('statuses = ["UpToDate"]\n')
        done = subprocess.run(
            [str(BIN / "lucid"), "passport", "show", str(file), "--json", "--allow-simulated",
             "--simulated-root", str(agent.simulated_root), "--hardware-policy", str(policy)],
            capture_output=True, text=True, timeout=60, check=False, env=clean_environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["hardware_attested"] is False
        assert found["tcb_status"] == "appraised"
        names = [c["name"] for c in found["answers"]["chain_and_tcb"]["checks"]]
        assert "tdx.tcb.status" in names
        (known,) = observer.get("/api/agents")["agents"]
        assert known["agent"] == "test-agent"
        assert known["alarms"] == []
        phases = {row["phase"] for row in observer.exported()}
        assert phases == {"request", "response"}
