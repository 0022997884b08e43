"""Builds the Debian package.

    python -m deb.build DIRECTORY [--version VERSION]

Needs debhelper and Debian's own Python, which the package then depends on. Wheels are those of
`requirements/runtime.txt`, pinned and hashed; nothing is compiled. All dates are those of the last
commit, so that the same commit gives the same package.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from deb.manual import write_pages

ROOT: Final = Path(__file__).resolve().parents[1]
PREFIX: Final = Path("opt/lucid-agent")
DEBIAN_PYTHON: Final = Path("/usr/bin/python3")
COMMANDS: Final = ("lucid-agent", "lucid", "lucid-observer")
TOOLS: Final = ("dpkg-buildpackage", "dh", "dpkg-deb")


class BuildError(Exception):
    """The package cannot be built here. The message says why, and what to do."""


def build(directory: Path, version: str = "") -> Path:
    """Build below `directory`; gives the package.

    Raises:
        BuildError: something is missing on this machine, or a step failed.
    """
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing or not DEBIAN_PYTHON.exists():
        raise BuildError(f"missing: {', '.join(missing) or DEBIAN_PYTHON}"
                         " (apt-get install debhelper python3)")  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = version or project["version"]
    epoch = _run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    directory.mkdir(parents=True, exist_ok=True)
    python = _run(DEBIAN_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    stage = directory / "stage"
    stamp = directory / "stage.done"
    wanted = f"{python} {_inputs()}"
    if not stamp.exists() or stamp.read_text() != wanted:
        _stage(directory, stage, python)
        stamp.write_text(wanted)
    source = directory / "source"
    _lay_out_source(source, version, epoch)
    environment = {
        "SOURCE_DATE_EPOCH": epoch,
        "LUCID_STAGE": str(stage),
        "LUCID_PYTHON": python,
        "DEB_BUILD_OPTIONS": "nocheck",
    }
    _run("dpkg-buildpackage", "-b", "-us", "-uc", "-d", cwd=source, environment=environment)
    (package,) = directory.glob(f"lucid-agent_{version}_*.deb")
    return package


def _inputs() -> str:
    """Changes whenever something that is staged does."""
    state = _run("git", "-C", ROOT, "rev-parse", "HEAD").strip()
    changed = _run("git", "-C", ROOT, "status", "--porcelain")
    return f"{state} {hashlib.sha256(changed.encode()).hexdigest()}"


def _stage(directory: Path, stage: Path, python: str) -> None:
    """The files below /opt and /etc, as they will be installed."""
    shutil.rmtree(stage, ignore_errors=True)
    home = stage / PREFIX
    home.mkdir(parents=True)
    _run(DEBIAN_PYTHON, "-m", "venv", "--without-pip", home)
    target = home / "bin/python3"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    install: list[str | Path] = [
        *pip,
        "--python",
        target,
        "install",
        "--no-compile",
        "--no-warn-script-location",
    ]
    _run(*install, "--only-binary", ":all:", "--require-hashes",
         "-r", ROOT / "requirements/runtime.txt")  # fmt: skip
    wheels = directory / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT)
    _run(*install, "--no-deps", "--no-index", next(wheels.glob("*.whl")))
    _make_relocatable(home, python)
    _run(home / "bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
         "-s", stage, "-p", "/", home / "lib")  # fmt: skip
    _run(home / "bin/python3", "-m", "agent.cli", "init", stage / "etc/lucid", "--service",
         "--no-key")  # fmt: skip
    write_pages(home / "bin/python3", stage / "usr/share/man/man1")


def _make_relocatable(home: Path, python: str) -> None:
    """No place of the build stays in it; of the commands only ours."""
    for path in (home / "bin").iterdir():
        if path.is_symlink():
            continue
        if path.name in COMMANDS:
            _first, _, rest = path.read_text().partition("\n")
            # -I: neither the environment nor the current directory changes what is imported.
            path.write_text(f"#!/{PREFIX}/bin/python3 -I\n{rest}")
        else:
            path.unlink()
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
    )
    (home / "lib64").unlink(missing_ok=True)
    shutil.rmtree(home / "include", ignore_errors=True)
    for record in home.rglob("direct_url.json"):
        record.unlink()
    for folder in home.rglob("__pycache__"):
        shutil.rmtree(folder)


def _lay_out_source(source: Path, version: str, epoch: str) -> None:
    """What dpkg-buildpackage works in: `debian/` and the unit files."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "deb/debian", source / "debian")
    shutil.copytree(ROOT / "systemd", source / "systemd")
    date = format_datetime(datetime.fromtimestamp(int(epoch), UTC))
    (source / "debian/changelog").write_text(
        f"lucid-agent ({version}) unstable; urgency=medium\n\n  * Built from the commit of this"
        f" date.\n\n -- Lucid maintainers <maintainers@lucid.invalid>  {date}\n"
    )


def _run(
    *command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    done = subprocess.run(  # noqa: S603 - commands of ours
        command, cwd=cwd, env={**os.environ, **(environment or {})}, text=True,
        capture_output=True, check=False, timeout=900,
    )  # fmt: skip
    if done.returncode:
        end = re.sub(r"\n+", "\n", (done.stdout + done.stderr).strip())[-1500:]
        raise BuildError(f"{command[0]} ended with {done.returncode}:\n{end}")
    return done.stdout


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--version", default="", help="default: that of pyproject.toml")
    arguments = parser.parse_args()
    try:
        package = build(arguments.directory.resolve(), arguments.version)
    except BuildError as error:
        sys.exit(f"make deb: {error}")
    size = package.stat().st_size / 1e6
    print(f"{package} ({size:.0f} MB)")  # noqa: T201 - what was asked for


if __name__ == "__main__":
    main()
