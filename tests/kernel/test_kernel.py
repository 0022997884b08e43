"""Boots a virtual machine with the real configfs-tsm code and runs the client in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.build import BuildError, Image, build

pytestmark = pytest.mark.kernel

SECONDS = 600  # a guess: on two cores it takes one to two minutes
CACHE = Path(os.environ.get("LUCID_KERNEL_CACHE", ".kernel")).absolute()


@pytest.fixture(scope="module")
def image() -> Image:
    missing = [name for name in ("apt-get", "dpkg-deb", "gcc-12", "make") if not shutil.which(name)]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    try:
        return build(CACHE)
    except BuildError as error:
        pytest.skip(f"the virtual machine cannot be built here: {error}")


def test_the_client_holds_against_the_kernels_own_code(image: Image) -> None:
    command = [*image.qemu, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1500",
               "-nographic", "-no-reboot", "-net", "none", "-kernel", str(image.kernel),
               "-initrd", str(image.initrd),
               "-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, **image.environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "guest: done" in said, said[-4000:]
    for provider in ("sev_guest", "tdx_guest"):
        assert f"guest: {provider} ended with 0" in said, said[-8000:]
    passed = [int(number) for number in re.findall(r"(\d+) passed", said)]
    assert len(passed) == 2
    assert min(passed) >= 15
    assert "guest: left behind: 0" in said
    assert "failed" not in said.split("guest: ", 1)[1], said[-8000:]
