"""Runs inside the virtual machine, against the kernel's own report tree.

Quotes are made by a simulated machine in a process of its own, which answers the fake provider.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation.configfs_tsm import fetch_quote
from attestation.kernel_tree import KernelTree, sweep
from attestation.simulated.machine import SimulatedMachine
from tests.attestation.tsm_client import ClientConduct, Plan, Sleeps, failure
from tests.attestation.tsm_differential import SameAsStandIn
from tests.attestation.tsm_semantics import SnpSemantics, TdxSemantics, TreeAsFiles
from tests.kernel.guest.provider import SNP, answering, plan


@pytest.fixture(scope="session", autouse=True)
def vendor() -> Iterator[SimulatedMachine]:
    with answering() as made:
        yield made


@pytest.fixture
def tree() -> Iterator[KernelTree]:
    made = KernelTree()
    yield made
    for entry in made.entries():
        made.rmdir(entry)


@pytest.fixture(name="plan")
def faults() -> Iterator[Plan]:
    yield plan
    plan()


@pytest.fixture(name="machine")
def its_machine(vendor: SimulatedMachine) -> SimulatedMachine:
    return vendor


if SNP:

    class TestKernel(SnpSemantics, TreeAsFiles, ClientConduct, SameAsStandIn):
        """The rules that the stand-ins keep are the kernel's."""

else:

    class TestKernel(TdxSemantics, TreeAsFiles, ClientConduct, SameAsStandIn):  # type: ignore[no-redef]  # or this
        """The rules that the stand-ins keep are the kernel's."""


def test_a_quote_that_is_too_large_for_the_kernel_is_refused(tree: KernelTree) -> None:
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
