"""Skips, with the reason, where no file system of ours can be mounted."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

DEVICE = Path("/dev/fuse")


@pytest.fixture(scope="session", autouse=True)
def fuse_is_there() -> None:
    if importlib.util.find_spec("pyfuse3") is None:
        pytest.skip("pyfuse3 is not installed here (make test-fuse)")
    try:
        os.close(os.open(DEVICE, os.O_RDWR))
    except OSError as error:
        pytest.skip(f"{DEVICE} cannot be opened here: {error.strerror}")
