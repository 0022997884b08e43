"""Boots a virtual machine with the real configfs-tsm code and runs the client in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.kernel.build import build
from tests.vm import BuildError, Lab, open_lab

pytestmark = pytest.mark.kernel

SECONDS = 1200  # a guess: on two idle cores it takes a minute and a half
CACHE = Path(os.environ.get("KERNEL_TEST_CACHE", ".kernel")).absolute()


@pytest.fixture(scope="module")
def lab() -> Lab:
    try:
        return open_lab(CACHE)
    except BuildError as error:
        pytest.skip(f"the virtual machine cannot be built here: {error}")


def test_the_client_holds_against_the_kernels_own_code(lab: Lab) -> None:
    said = lab.boot(build(lab, CACHE), seconds=SECONDS)
    assert "guest: done" in said, said[-4000:]
    for phase in ("sev_guest", "tdx_guest", "none", "unknown", "floor"):
        assert f"guest: {phase} ended with 0" in said, said[-8000:]
    passed = [int(number) for number in re.findall(r"(\d+) passed", said)]
    assert len(passed) == 5
    assert passed[0] >= 65  # SEV-SNP has more to it
    assert passed[1] >= 50
    assert "guest: left behind: 0" in said
    assert "failed" not in said.split("guest: ", 1)[1], said[-8000:]
