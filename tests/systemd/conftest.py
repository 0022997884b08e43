"""One package and one tree for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.simulated.vendor import SimulatedVendor
from deb.build import BuildError, build
from tests.systemd.machine import Machine, UnavailableError, tree

CACHE = Path(os.environ.get("LUCID_SYSTEMD_CACHE", ".systemd")).absolute()


@pytest.fixture(scope="session")
def root() -> Path:
    try:
        return tree(CACHE)
    except UnavailableError as error:
        pytest.skip(f"no systemd can be started here: {error}")


@pytest.fixture(scope="session")
def shared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every machine sees as /shared: the package, a simulated vendor, keys for TLS."""
    place = tmp_path_factory.mktemp("shared")
    place.chmod(0o755)
    try:
        package = os.environ.get("LUCID_DEB") or build(CACHE / "deb")
        shutil.copy(package, place / "now.deb")
    except BuildError as error:
        pytest.fail(f"make deb: {error}")
    SimulatedVendor.load_or_create(place / "vendor", now=datetime.now(UTC))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(place / "tls.key"),
         "-out", str(place / "tls.pem")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def machine(root: Path, shared: Path) -> Iterator[Machine]:
    try:
        made = Machine(root, shared=shared)
    except UnavailableError as error:
        pytest.skip(f"no systemd can be started here: {error}")
    yield made
    made.stop()
