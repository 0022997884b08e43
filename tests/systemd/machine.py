"""A small Debian with a real systemd as its first process, by systemd-nspawn.

The tree is made once by mmdebstrap from the mirror that apt is configured with. Each start lays a
file system in memory over it: nothing that happens inside stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.commands import run

PACKAGES: Final = "systemd,systemd-sysv,python3,ca-certificates,curl,procps"
TOOLS: Final = ("systemd-nspawn", "mmdebstrap", "nsenter", "dpkg-buildpackage", "dh")
GUEST: Final = Path(__file__).with_name("guest")
BOOT_SECONDS: Final = 90.0
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UnavailableError(Exception):
    """There is no such machine here. The message says why."""


def tree(cache: Path) -> Path:
    """The tree, made where it is missing.

    Raises:
        UnavailableError: it cannot be made on this machine.
    """
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        why = f"missing: {', '.join(missing)}" if missing else "needs root"
        raise UnavailableError(f"{why} (apt-get install systemd-container mmdebstrap debhelper)")
    made, done = cache / "tree", cache / "tree.done"
    if not done.exists():
        shutil.rmtree(made, ignore_errors=True)
        cache.mkdir(exist_ok=True)
        command = ["mmdebstrap", "-q", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
        making = run([*command, made], seconds=900)
        if making.returncode:
            raise UnavailableError(f"mmdebstrap: {making.stderr.strip()[-300:]}")
        done.touch()
    return made


class Machine:
    """A running one. `stop` ends it whatever state it is in."""

    def __init__(self, root: Path, *, shared: Path) -> None:
        self._log = shared / "console.log"
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", str(root),
                 "--volatile=overlay", "--console=pipe", f"--bind-ro={shared}:/shared",
                 f"--bind-ro={GUEST}:/guest", "--boot"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._first = self._first_process()
            self.wait(lambda: self.run("systemctl", "is-system-running", check=False).strip()
                      in ("running", "degraded"), "systemd is up", BOOT_SECONDS)  # fmt: skip
        except BaseException:
            self.stop()
            raise

    def _first_process(self) -> int:
        end = time.monotonic() + BOOT_SECONDS
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        while time.monotonic() < end and self._nspawn.poll() is None:
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return int(pid)
            time.sleep(0.1)
        raise UnavailableError(f"systemd-nspawn: {self._log.read_text()[-400:]}")

    def start(self, *command: str, user: str = "") -> subprocess.Popen[str]:
        """Start a command inside; stdout and stderr are read together."""
        enter = ["nsenter", f"--target={self._first}", "--all", "--"]
        if user:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        return subprocess.Popen(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env={"PATH": PATH, "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip

    def run(self, *command: str, user: str = "", check: bool = True, seconds: float = 240) -> str:
        """Run a command inside and give what it said."""
        process = self.start(*command, user=user)
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0 or not check, f"{' '.join(command)}:\n{said}"
        return said

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script inside."""
        return self.run("sh", "-euc", script, check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Poll; a real machine in real time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
            time.sleep(0.2)

    def stop(self) -> None:
        """Power off; killed where that does not help. Its processes end with the first one."""
        if self._nspawn.poll() is None and hasattr(self, "_first"):
            self.start("systemctl", "poweroff").communicate(timeout=60)
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            if hasattr(self, "_first"):
                os.kill(self._first, signal.SIGKILL)
            self._nspawn.kill()
            self._nspawn.wait(10)
