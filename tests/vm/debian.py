"""Packages of the Debian mirror that the machine is configured with, unpacked, not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
BACKPORTS: Final = f"{SUITE}-backports"
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class BuildError(Exception):
    """The machine cannot be built here. The message says why."""


def progress(text: str) -> None:
    """Say what is being done, for somebody who waits."""
    print(f"virtual machine: {text}", file=sys.stderr, flush=True)  # noqa: T201 - progress


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints; at most ten minutes.

    Raises:
        BuildError: it is not there, fails, or does not end.
    """
    try:
        done = subprocess.run(
            command, env={**os.environ, **(environment or {})}, text=True,
            capture_output=True, check=False, timeout=600,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from None
    if done.returncode:
        end = (done.stderr or done.stdout).strip()[-400:]
        raise BuildError(f"{command[0]} ended with {done.returncode}: {end}")
    return done.stdout


def unpacked(directory: Path, packages: Sequence[str]) -> Path:
    """A tree with these packages and what they need beside what is installed. Made once.

    Args:
        directory: where downloads and the tree are kept, for the next time.
        packages: as apt-get takes them: `name` or `name/suite`.

    Raises:
        BuildError: they cannot be had.
    """
    tree, marker = directory / "unpacked", directory / "packages"
    wanted = "\n".join(packages)
    if not marker.exists() or marker.read_text() != wanted:
        progress("fetching Debian packages …")
        tree.mkdir(parents=True, exist_ok=True)
        for package in _fetch(directory / "apt", packages):
            run("dpkg-deb", "-x", package, tree)
        marker.write_text(wanted)
    return tree


def _mirror() -> str:
    """The address of the Debian mirror that apt is configured with."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for file in files:
        text = file.read_text() if file.is_file() else ""
        for line in text.splitlines():
            if found := re.match(r"(?:deb (?:\[.*\] )?|URIs: *)(https?://\S+/debian)/?( |$)", line):
                return found[1]
    raise BuildError("apt has no Debian mirror configured")


def _fetch(apt: Path, packages: Sequence[str]) -> list[Path]:
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    lines = [f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main" for suite in (SUITE, BACKPORTS)]
    (apt / "sources.list").write_text("\n".join(lines) + "\n")
    options = [f"-o{name}={value}" for name, value in (
        ("Dir::Etc::sourcelist", apt / "sources.list"), ("Dir::Etc::sourceparts", "-"),
        ("Dir::State::lists", apt / "lists"), ("Dir::Cache", apt / "cache"),
        ("Debug::NoLocking", 1), ("APT::Sandbox::User", "root"),
    )]  # fmt: skip
    run("apt-get", "-qq", *options, "update")
    run("apt-get", "-qq", "-y", *options, "--download-only", "--no-install-recommends",
        "install", *packages)  # fmt: skip
    return sorted((apt / "cache/archives").glob("*.deb"))
