"""podman for tests: containers in a store and a network namespace of their own.

The image is read from the store that `make image` fills. Containers' networks and the packet filter
rules that come with them live in the namespace and end with it; nothing is left on the machine.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

from tests.commands import run

ROOT: Final = Path(__file__).resolve().parents[2]
STORE: Final = Path(os.environ.get("IMAGE_STORE", ROOT / ".image" / "store"))
IMAGE: Final = os.environ.get("IMAGE", "localhost/lucid-agent:dev")
TOOLS: Final = ("podman", "buildah", "runc", "unshare", "nsenter", "ip")

# runc, and limits that need no CAP_SYS_RESOURCE: works on machines with either kind of cgroups.
_CONFIGURATION: Final = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


def skip_where_impossible() -> None:
    """Skip where the tools are missing, or where one may not make namespaces."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)} (.ci/run installs them)")
    tried = run(["unshare", "--net", "--mount", "true"])
    if tried.returncode:
        pytest.skip(f"containers cannot be run here: {tried.stderr.strip()}")


class Podman:
    """Owns its namespace, its run-time files and every container started through it."""

    def __init__(self) -> None:
        self._run = Path(tempfile.mkdtemp(prefix="lucid-podman-"))
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        (self._run / "containers.conf").write_text(_CONFIGURATION)
        # It says when it is there: before, its namespace is still that of the machine.
        held = "ip link set lo up && echo up && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", held], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            assert said.readline() == "up\n"
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            self("pod", "rm", "--all", "--force", "--time", "5")
            self("rm", "--all", "--force", "--time", "5")
            self("volume", "rm", "--all", "--force")
        finally:
            assert self._holder is not None
            self._holder.kill()
            self._holder.wait(10)
            shutil.rmtree(self._run)

    def wrapper(self, path: Path) -> Path:
        """A program that is podman with this store and this namespace, for tools that call it."""
        assert self._holder is not None
        line = shlex.join([*self._entered(), *self._podman])
        path.write_text(
            f'#!/bin/sh\nexport CONTAINERS_CONF={self._run}/containers.conf\nexec {line} "$@"\n'
        )
        path.chmod(0o700)
        return path

    def _entered(self) -> list[str]:
        assert self._holder is not None
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    @property
    def _podman(self) -> list[str]:
        return [
            "podman", "--root", str(self._run / "store"), "--runroot", str(self._run / "run"),
            "--tmpdir", str(self._run / "tmp"), "--network-config-dir", str(self._run / "networks"),
            "--storage-driver", "overlay", "--storage-opt", f"overlay.imagestore={STORE}",
        ]  # fmt: skip

    def _inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LUCID_")}
        environment["CONTAINERS_CONF"] = str(self._run / "containers.conf")
        return run([*self._entered(), *command], env=environment)

    def try_(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run podman, whatever it answers."""
        return self._inside(*self._podman, *arguments)

    def __call__(self, *arguments: str) -> str:
        """Run podman; what it prints. Fails the test if it does not succeed."""
        done = self.try_(*arguments)
        assert done.returncode == 0, f"podman {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def json(self, *arguments: str) -> Any:
        """Run podman; the JSON it prints."""
        return json.loads(self(*arguments))
