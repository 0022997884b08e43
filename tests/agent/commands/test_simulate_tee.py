"""`lucid-agent simulate-tee` where there is no FUSE: it says what is missing, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import clean_environment

SCRIPT = """
import sys
from pathlib import Path
import agent.simulate_tee.serving
agent.simulate_tee.serving.DEVICE = Path(sys.argv.pop(1))
sys.modules["pyfuse3"] = None  # as if it were not installed
from agent.cli import main
main()
"""


def run(device: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(device), "simulate-tee", *options],
        capture_output=True, text=True, timeout=60, check=False, env=clean_environment(),
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("missing", ["device", "library"])
def test_what_is_missing_is_named(tmp_path: Path, simulated_state: Path, missing: str) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "fuse").touch()
    device = tmp_path / ("none" if missing == "device" else "fuse")
    code, error = run(device, "--mount", str(tmp_path / "mount"), "--state", str(simulated_state))
    assert code == 2
    if missing == "device":
        assert f"{device} is not there" in error
        assert "modprobe fuse" in error
    else:
        assert "pyfuse3 cannot be used" in error
        assert "pip install 'lucid-agent[fuse]'" in error


def test_without_a_place_it_says_how_it_is_called() -> None:
    code, error = run(Path("/dev/fuse"))
    assert code == 2
    assert "--mount" in error
