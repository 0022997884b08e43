"""`lucid demo --once` is the whole way in one command, and so a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.processes import BIN, clean_environment


@pytest.mark.parametrize("machine", ["sev-snp", "tdx"])
def test_the_demo_runs_checks_everything_and_keeps_the_passport(
    tmp_path: Path, machine: str
) -> None:
    out = tmp_path / "demo.cwt"
    done = subprocess.run(
        [str(BIN / "lucid"), "demo", "--once", "--simulate", machine, "--passport-out", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hardware Attested: false" in done.stdout
    assert "TEE Type: Simulated TEE" in done.stdout
    assert "Everything was as expected." in done.stdout
    assert "NOT AS EXPECTED" not in done.stdout
    # The passport outlives the demo: anyone can check it with the root alone.
    root = str(out) + ".root.pem"
    command = [str(BIN / "lucid"), "passport", "verify", str(out)]
    allowed = [*command, "--allow-simulated", "--simulated-root", root]
    assert subprocess.run(allowed, capture_output=True, check=False, timeout=120).returncode == 0
    assert subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 3


def test_a_demo_whose_model_server_is_down_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "lucid"), "demo", "--once", "--upstream", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 3
    assert "--model" in done.stderr
    assert "Traceback" not in done.stderr
