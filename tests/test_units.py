"""The unit files: without a fault for systemd, hardened, and true to the agent's exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from agent.errors import ExitCode
from enforcement.http.limits import Limits

UNITS = Path(__file__).resolve().parents[1] / "systemd"
EXPOSURE = 15  # tenths of 10; daemons of this field have 96
SERVICES = ("lucid-agent.service", "lucid-agent-quote@.service")
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not on this machine (Debian package systemd)",
)


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_what_the_gateway_may_hold_fits_into_the_memory_that_it_is_given() -> None:
    (unit,) = settings("lucid-agent.service")["MemoryMax"]
    chart = yaml.safe_load((UNITS.parent / "deploy/helm/lucid-agent/values.yaml").read_text())
    pod = chart["agent"]["resources"]["limits"]["memory"]
    besides = 128  # MiB: the agent itself, and decisions that wait for the disk
    needed = 5 * Limits().buffered_bytes / 2**20 + besides
    assert needed <= int(unit.removesuffix("M"))
    assert needed <= int(pod.removesuffix("Gi")) * 1024


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a command that exists on any machine, and one instance of the template."""
    for path in UNITS.iterdir():
        if path.suffix in {".service", ".socket", ".slice"}:
            text = path.read_text().replace("/opt/lucid-agent/bin/lucid-agent", "/bin/true")
            for name in {path.name, path.name.replace("@.", "@1.")}:
                (tmp_path / name).write_text(text)
    return tmp_path


@needs_analyze
def test_systemd_finds_no_fault_in_any_unit(installed: Path) -> None:
    units = sorted(path.name for path in installed.iterdir() if "@." not in path.name)
    assert len(units) == 4
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        cwd=installed, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@needs_analyze
def test_systemd_would_find_a_fault(installed: Path) -> None:
    unit = installed / "lucid-agent.service"
    unit.write_text(unit.read_text().replace("ProtectSystem=", "ProtectSystm="))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit.name],
        cwd=installed, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "ProtectSystm" in done.stderr


@needs_analyze
@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_exposed_to_little(installed: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager",
         f"./{unit.replace('@.', '@1.')}"],
        cwd=installed, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_what_a_restart_cannot_help_is_not_restarted() -> None:
    found = settings("lucid-agent.service")
    assert found["Restart"] == ["on-failure"]
    prevented = {int(code) for code in found["RestartPreventExitStatus"][0].split()}
    assert prevented == {ExitCode.USAGE, ExitCode.NO_TEE, ExitCode.STATE}


@pytest.mark.parametrize("unit", SERVICES)
def test_no_service_has_a_capability(unit: str) -> None:
    found = settings(unit)
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == [""]
    assert found["NoNewPrivileges"] == ["yes"]


def test_the_helper_has_no_network_and_the_agent_no_root() -> None:
    helper, agent = settings("lucid-agent-quote@.service"), settings("lucid-agent.service")
    assert helper["PrivateNetwork"] == ["yes"]
    assert helper["RestrictAddressFamilies"] == ["none"]
    assert "User" not in helper
    assert agent["User"] == settings("lucid-agent-quote.socket")["SocketUser"] == ["lucid"]
    assert "--user lucid" in helper["ExecStart"][0]
