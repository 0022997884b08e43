"""Runs inside the virtual machine, against the kernel's own report tree.

Quotes are made by a simulated machine in a process of its own, which answers the fake provider.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from attestation.configfs_tsm import fetch_quote
from attestation.kernel_tree import KernelTree, sweep
from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor
from tests.attestation.tsm_client import ClientConduct, Plan, Sleeps, failure
from tests.attestation.tsm_semantics import SnpSemantics, TdxSemantics, TreeAsFiles

PROVIDER: Final = os.environ["LUCID_FAKE_PROVIDER"]
SNP: Final = PROVIDER == "sev_guest"
STATE: Final = Path("/state")  # made outside: two RSA keys take minutes in here
FAULTS: Final = Path("/tmp/faults")
LARGEST: Final = 32 * 1024  # what the kernel takes for a quote


def machine() -> SimulatedMachine:
    now = datetime.now(UTC)
    if SNP:
        return SimulatedVendor.load_or_create(STATE, now=now)
    return SimulatedIntel.load_or_create(STATE, now=now)


def serve(made: SimulatedMachine) -> None:
    """Answer the provider's requests for ever; one planned fault for each, while there are any."""
    device = os.open("/dev/lucid-faketsm", os.O_RDWR)
    while True:
        request = os.read(device, 68)
        level, data = int.from_bytes(request[:4], "little"), request[4:]
        planned = json.loads(FAULTS.read_text())
        fault = planned.pop(0) if planned else ""
        FAULTS.write_text(json.dumps(planned))
        number, quote, aux = 0, made.outblob(data, level), made.auxblob() or b""
        if fault == "empty":
            quote = b""
        elif fault == "large":
            quote = bytes(LARGEST + 1)
        elif fault == "foreign":
            quote = made.outblob(os.urandom(64), level)
        elif fault:
            number, quote, aux = getattr(errno, fault), b"", b""
        os.write(device, struct.pack("<iII", number, len(quote), len(aux)) + quote + aux)


@pytest.fixture(scope="session", autouse=True)
def vendor() -> Iterator[SimulatedMachine]:
    made = machine()
    FAULTS.write_text("[]")
    child = os.fork()
    if child == 0:
        serve(made)
    yield made
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture
def tree() -> Iterator[KernelTree]:
    made = KernelTree()
    yield made
    for entry in made.entries():
        made.rmdir(entry)


@pytest.fixture
def plan() -> Iterator[Plan]:
    yield lambda *names: FAULTS.write_text(json.dumps(names))
    FAULTS.write_text("[]")


@pytest.fixture(name="machine")
def its_machine(vendor: SimulatedMachine) -> SimulatedMachine:
    return vendor


if SNP:

    class TestKernel(SnpSemantics, TreeAsFiles, ClientConduct):
        """The rules that the stand-ins keep are the kernel's."""

else:

    class TestKernel(TdxSemantics, TreeAsFiles, ClientConduct):  # type: ignore[no-redef]  # or this
        """The rules that the stand-ins keep are the kernel's."""


def test_a_quote_that_is_too_large_for_the_kernel_is_refused(tree: KernelTree, plan: Plan) -> None:
    plan("large")
    error = failure(tree)
    assert (error.code, error.errno, error.final) == ("quote.refused", errno.EFBIG, True)


def test_what_a_really_killed_process_left_is_swept(tree: KernelTree) -> None:
    child = os.fork()
    if child == 0:
        tree.mkdir(f"lucid-{os.getpid()}-left")
        os._exit(0)
    os.waitpid(child, 0)
    assert tree.entries() == [f"lucid-{child}-left"]
    assert sweep(tree, alive=lambda pid: Path(f"/proc/{pid}").exists())
    assert tree.entries() == []


def test_of_many_processes_each_gets_its_own_answers(tree: KernelTree) -> None:
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            right = 0
            try:
                for turn in range(25):
                    data = bytes((number, turn)) * 32
                    right += data in fetch_quote(tree, data, sleep=Sleeps()).outblob
            finally:
                os._exit(right)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [25] * 8
    assert tree.entries() == []
