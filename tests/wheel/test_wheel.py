"""The wheel alone, in an empty environment, is the whole product."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests import commands
from tests.processes import ROOT, clean_environment

pytestmark = pytest.mark.wheel

TOOLS = ROOT / ".venv-supply" / "bin"


@pytest.fixture(scope="module")
def wheel() -> Path:
    [wheel] = (ROOT / "dist").glob("lucid_agent-*.whl")
    return wheel


@pytest.fixture(scope="module")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned versions, so that a release of somebody else's does not change the outcome."""
    pinned = (ROOT / "requirements" / "runtime.txt").read_text()
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(re.findall(r"^[A-Za-z0-9_.-]+==[^ \\]+", pinned, re.MULTILINE)))
    return path


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run away from the project: nothing is found that the wheel does not bring."""
    env = clean_environment() | environment
    return commands.run(command, cwd=cwd, env=env, check=True, seconds=600).stdout


def test_installed_by_pip_the_demo_holds(wheel: Path, constraints: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    run(bin_ / "pip", "install", "--quiet", "--constraint", constraints, wheel, cwd=tmp_path)
    run(bin_ / "pip", "check", cwd=tmp_path)
    for simulate in ("sev-snp", "tdx"):
        said = run(bin_ / "lucid", "demo", "--once", "--simulate", simulate, cwd=tmp_path)
        assert said.endswith("Everything was as expected.\n")
    for command in ("lucid", "lucid-agent", "lucid-observer"):
        assert "0.1.0" in run(bin_ / command, "--version", cwd=tmp_path)


def test_installed_by_pipx_as_documented(wheel: Path, constraints: Path, tmp_path: Path) -> None:
    places = {
        "PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"), "PIP_CONSTRAINT": str(constraints),
        "PIPX_DEFAULT_PYTHON": os.path.realpath(sys.executable),
    }  # fmt: skip
    run(TOOLS / "pipx", "install", "--backend", "pip", wheel, cwd=tmp_path, **places)
    said = run(tmp_path / "bin" / "lucid", "demo", "--once", cwd=tmp_path)
    assert said.endswith("Everything was as expected.\n")
    assert (tmp_path / "bin" / "lucid-agent").exists()
    assert (tmp_path / "bin" / "lucid-observer").exists()


def test_the_same_source_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Built again from a copy, with other dates."""
    copy = tmp_path / "copy"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in files.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (copy / name).write_bytes((ROOT / name).read_bytes())
            (copy / name).chmod((ROOT / name).stat().st_mode)
    time = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", tmp_path, copy, cwd=tmp_path, SOURCE_DATE_EPOCH=time)  # fmt: skip
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
