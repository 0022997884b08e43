"""The Debian package: installs, starts, upgrades with what was edited, and leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deb.build import build
from tests.systemd.conftest import CACHE
from tests.systemd.machine import Machine

pytestmark = pytest.mark.deb

AGENT = "lucid-agent.service"
NEWER = "9.0.0"
LEFT = "find / -xdev \\( -path /proc -o -path /shared \\) -prune -o -iname '*lucid*' -print"


@pytest.fixture(scope="module")
def newer(shared: Path) -> str:
    """The same with a higher version."""
    shutil.copy(build(CACHE / "deb", NEWER), shared / "newer.deb")
    return "/shared/newer.deb"


def test_lintian_finds_no_error(shared: Path) -> None:
    lintian = subprocess.run(
        ["lintian", "--no-cfg", "--fail-on", "error", "--allow-root", str(shared / "now.deb")],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert lintian.returncode == 0, lintian.stdout[-3000:]


def test_every_override_has_its_reason() -> None:
    path = Path(__file__).parents[2] / "deb/debian/lucid-agent.lintian-overrides"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert all(line.startswith(("# ", "lucid-agent: ")) for line in lines)


def test_the_life_of_the_package(machine: Machine, newer: str) -> None:
    before = machine.sh(LEFT)
    machine.run("dpkg", "-i", "/shared/now.deb")
    # Without a TEE: it is started, says so, and is not started again.
    assert machine.show("lucid-agent-quote.socket", "ActiveState") == "active"
    machine.wait(lambda: machine.show(AGENT, "ActiveState") == "failed", "no TEE is noticed")
    assert machine.show(AGENT, "ExecMainStatus") == "3"
    assert machine.show(AGENT, "NRestarts") == "0"
    assert "no TEE" in machine.journal(AGENT)
    assert "ok" in machine.run("lucid-agent", "check-config")

    # Edited, it starts.
    machine.sh(
        "sed -i 's/^mode = .*/mode = \"simulated\"/; s/^helper = .*//' /etc/lucid/agent.toml;"
        "sed -i 's/^version = .*/version = \"mine\"/' /etc/lucid/bundle/bundle.toml"
    )
    machine.run("systemctl", "restart", AGENT)
    assert machine.show(AGENT, "ActiveState") == "active"
    machine.run("lucid-agent", "healthcheck")
    pid = machine.show(AGENT, "MainPID")
    edited = machine.sh("sha256sum /etc/lucid/agent.toml /etc/lucid/bundle/bundle.toml")

    # An upgrade keeps what was edited and runs the new version.
    machine.run("dpkg", "-i", "--force-confdef", "--force-confold", newer)
    assert machine.sh("sha256sum /etc/lucid/agent.toml /etc/lucid/bundle/bundle.toml") == edited
    assert NEWER in machine.run("dpkg-query", "-W", "-f", "${Version}", "lucid-agent")
    assert machine.show(AGENT, "ActiveState") == "active"
    assert machine.show(AGENT, "MainPID") != pid
    assert '"mine"' in machine.run("lucid-agent", "status", "--json")

    # Removed, the configuration and the journal stay; purged, nothing does.
    machine.run("dpkg", "-r", "lucid-agent")
    machine.sh("test -e /etc/lucid/agent.toml && test -e /var/lib/lucid/journal.sqlite")
    machine.run("dpkg", "-P", "lucid-agent")
    left = set(machine.sh(LEFT).split()) - set(before.split())
    assert left == set()
    assert "lucid" not in machine.sh("cat /etc/passwd /etc/group /etc/shadow")
    units = machine.run("systemctl", "list-units", "--all", "--no-legend", "lucid*")
    assert units.split() == []


def test_the_manual_is_there(shared: Path) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "-c", str(shared / "now.deb")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    for name in ("lucid-agent", "lucid", "lucid-observer"):
        assert f"./usr/share/man/man1/{name}.1.gz" in listed
        assert f"./usr/bin/{name} -> /opt/lucid-agent/bin/{name}" in listed
