"""The mounted tree keeps the kernel's rules, and the client does with it what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.kernel_tree import KernelTree
from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor
from attestation.tsm import TsmTree
from tests.attestation.tsm_client import ClientConduct, Plan
from tests.attestation.tsm_differential import SameAsStandIn
from tests.attestation.tsm_semantics import SnpSemantics, TdxSemantics, TreeAsFiles, generation
from tests.processes import ROOT

pytestmark = pytest.mark.fuse


class Server:
    """A process that serves a tree and takes plans of faults."""

    def __init__(self, mount: Path, state: Path, tee: str) -> None:
        self.mount = mount
        command = [sys.executable, "-m", "tests.fuse.served", str(mount), str(state), tee]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect()

    def plan(self, *names: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(names) + "\n")
        self._process.stdin.flush()
        self._expect()

    def stop(self) -> int:
        self._process.communicate(timeout=30)
        return self._process.returncode

    def _expect(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ok\n"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def snp(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("snp"), state, "sev-snp")
    yield server
    assert server.stop() == 0
    assert not server.mount.is_mount()


@pytest.fixture(scope="module")
def tdx(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("tdx"), state, "tdx")
    yield server
    assert server.stop() == 0
    assert not server.mount.is_mount()


class Served:
    """Fixtures that `ClientConduct` and the others want, from the `server` of a class."""

    @pytest.fixture
    def tree(self, server: Server) -> Iterator[KernelTree]:
        made = KernelTree(server.mount)
        yield made
        server.plan()
        for entry in made.entries():
            made.rmdir(entry)

    @pytest.fixture
    def plan(self, server: Server) -> Plan:
        return server.plan

    def test_an_empty_inblob_is_a_fault_and_yet_empties_what_was_there(self, tree: TsmTree) -> None:
        """The one difference: FUSE does not pass an empty write on, so it is no fault."""
        tree.mkdir("e")
        tree.write("e", "inblob", b"")
        assert generation(tree) == 0


class TestSnp(Served, SnpSemantics, TreeAsFiles, ClientConduct, SameAsStandIn):
    empty_writes = False

    @pytest.fixture
    def server(self, snp: Server) -> Server:
        return snp

    @pytest.fixture
    def machine(self, state: Path) -> SimulatedMachine:
        return SimulatedVendor.load_or_create(state, now=datetime.now(UTC))

    def test_an_empty_write_of_text_is_a_fault_and_does_not_count(self, tree: TsmTree) -> None:
        """FUSE does not pass an empty write on, so it is no fault."""
        tree.mkdir("e")
        tree.write("e", "privlevel", b"")
        assert generation(tree) == 0


class TestTdx(Served, TdxSemantics, TreeAsFiles, ClientConduct, SameAsStandIn):
    empty_writes = False

    @pytest.fixture
    def server(self, tdx: Server) -> Server:
        return tdx

    @pytest.fixture
    def machine(self, state: Path) -> SimulatedMachine:
        return SimulatedIntel.load_or_create(state, now=datetime.now(UTC))
