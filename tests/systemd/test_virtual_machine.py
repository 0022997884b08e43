"""The same units on a kernel of their own: real configfs-tsm, real limits of memory.

The whole way is real but for the hardware: the agent asks the helper's unit, this the kernel, and
this a provider that a simulated machine answers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import CACHE
from tests.vm import BuildError, Guest, Lab, open_lab

pytestmark = pytest.mark.vm

HERE = Path(__file__).parent / "vm"
KERNEL_CACHE = Path(os.environ.get("LUCID_KERNEL_CACHE", ".kernel")).absolute()
PROVIDER = Path(__file__).parents[1] / "kernel/guest/lucid_faketsm.c"
WITHOUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt",
           "usr/share/zoneinfo", "usr/share/perl", "usr/lib/x86_64-linux-gnu/perl")  # fmt: skip
UNITS = {
    "vendor.service": """[Service]
ExecStart=/opt/lucid-agent/bin/python3 -I /test/vendor.py
[Install]
WantedBy=sysinit.target
""",
    "proof.service": """[Unit]
After=basic.target
[Service]
Type=simple
ExecStart=/usr/bin/python3 /test/proof.py
[Install]
WantedBy=multi-user.target
""",
    # A processor in software is slow.
    "lucid-agent.service.d/slow.conf": "[Service]\nWatchdogSec=5min\nTimeoutStartSec=10min\n",
    "lucid-agent-quote@.service.d/slow.conf": "[Service]\nRuntimeMaxSec=5min\n",
}


@pytest.fixture(scope="module")
def lab() -> Lab:
    try:
        return open_lab(KERNEL_CACHE)
    except BuildError as error:
        pytest.skip(f"the virtual machine cannot be built here: {error}")


@pytest.fixture(scope="module")
def initrd(root: Path, shared: Path, lab: Lab) -> Iterator[Path]:
    work = CACHE / "vm"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    place = work / "guest"
    subprocess.run(["cp", "-a", root, place], check=True, timeout=120)
    for name in WITHOUT:
        shutil.rmtree(place / name, ignore_errors=True)
    files = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", shared / "now.deb"],
        check=True,
        capture_output=True,
        timeout=120,
    ).stdout
    subprocess.run(  # not dpkg-deb -x: /lib stays the link that it is
        ["tar", "-x", "--keep-directory-symlink", "-C", place],
        input=files,
        check=True,
        timeout=120,
    )
    guest = Guest(place)
    guest.add_busybox(lab)
    guest.add_modules(lab, "fs/configfs/configfs", "drivers/virt/coco/tsm")
    guest.add(lab.build_module(PROVIDER, work / "module"), "modules/lucid_faketsm.ko")
    guest.add(HERE / "init", "init", executable=True)
    for name in ("vendor.py", "proof.py"):
        guest.add(HERE / name, f"test/{name}")
    guest.add(shared / "vendor", "vendor")
    for name, text in UNITS.items():
        unit = place / "etc/systemd/system" / name
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(text)
    config = place / "etc/lucid/agent.toml"
    config.write_text(config.read_text().replace('mode = "auto"', 'mode = "simulated"'))
    subprocess.run(
        ["systemd-sysusers", f"--root={place}", "lucid-agent.conf"], check=True, timeout=120
    )
    user = re.search(r"^lucid:[^:]*:(\d+):(\d+)", (place / "etc/passwd").read_text(), re.MULTILINE)
    assert user
    guest.add(shared / "vendor", "var/lib/lucid")
    subprocess.run(
        ["chown", "-R", f"{user[1]}:{user[2]}", place / "var/lib/lucid"], check=True, timeout=120
    )
    (place / "var/lib/lucid").chmod(0o700)
    subprocess.run(
        ["systemctl", f"--root={place}", "-q", "enable", "vendor.service", "proof.service",
         "lucid-agent.service", "lucid-agent-quote.socket"], check=True, timeout=120,
    )  # fmt: skip
    yield guest.pack(lab, work / "initrd")
    shutil.rmtree(work)


def test_the_units_on_a_real_kernel(lab: Lab, initrd: Path) -> None:
    said = lab.boot(initrd, memory_mib=2600, seconds=1500)
    shown = said[-12000:]
    told = re.search(r"proof: (\{.*\})", said)
    assert told, shown
    found = json.loads(told[1])
    assert found["active"], shown
    assert "serving" in found["status"], shown
    assert found["user"] == found["lucid"] != "0"
    assert "Permission denied" in found["by the agent's user"], shown
    assert "Read-only file system" in found["in the agent's name space"], shown
    assert found["left behind"] == ""
    assert found["limit"] == str(1536 * 1024 * 1024)
    assert found["killed"], shown
    assert found["again"], shown
