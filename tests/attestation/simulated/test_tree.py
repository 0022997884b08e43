"""The simulated tree keeps the kernel's rules, and can be made to fail as the kernel does."""

from __future__ import annotations

import errno
import threading
from collections import deque
from datetime import UTC, datetime

import pytest

from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor
from tests.attestation.tsm_client import ClientConduct, Plan
from tests.attestation.tsm_semantics import (
    DATA,
    REPORT_DATA,
    SnpSemantics,
    TdxSemantics,
    error_of,
    generation,
)


@pytest.fixture
def tree(simulated_vendor: SimulatedVendor) -> SimulatedTree:
    return SimulatedTree(simulated_vendor)


class TestSnpTree(SnpSemantics, ClientConduct):
    """All that every SEV-SNP tree must do, and the client with it."""

    @pytest.fixture
    def machine(self, simulated_vendor: SimulatedVendor) -> SimulatedVendor:
        return simulated_vendor

    @pytest.fixture
    def plan(self, tree: SimulatedTree) -> Plan:
        return lambda *names: tree.faults.plan(names)


@pytest.fixture(scope="module")
def intel() -> SimulatedIntel:
    return SimulatedIntel.create(now=datetime.now(UTC))


class TestTdxTree(TdxSemantics, ClientConduct):
    """All that every TDX tree must do, and the client with it."""

    @pytest.fixture
    def machine(self, intel: SimulatedIntel) -> SimulatedIntel:
        return intel

    @pytest.fixture
    def tree(self, machine: SimulatedIntel) -> SimulatedTree:
        return SimulatedTree(machine)

    @pytest.fixture
    def plan(self, tree: SimulatedTree) -> Plan:
        return lambda *names: tree.faults.plan(names)


@pytest.mark.parametrize("name", ["", "EUNKNOWN", "errorcode", "Empty", "11"])
def test_a_fault_that_is_not_known_is_a_mistake(tree: SimulatedTree, name: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        tree.faults.plan(["EBUSY", name])
    assert tree.faults.errors == {}


def test_without_a_provider_no_entry_can_be_made(simulated_vendor: SimulatedVendor) -> None:
    tree = SimulatedTree(simulated_vendor)
    tree.provider = None
    assert error_of(tree.mkdir, "e") == "ENXIO"


def test_a_provider_that_goes_away_takes_its_reports_with_it(tree: SimulatedTree) -> None:
    tree.mkdir("e")
    tree.write("e", "inblob", DATA)
    tree.provider = None
    assert error_of(tree.read, "e", "provider") == "ENXIO"
    assert error_of(tree.read, "e", "outblob") == "ENXIO"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x/y", "ENOENT"),
        ("", "ENOENT"),
        (".", "EEXIST"),
        ("..", "EEXIST"),
        ("n" * 256, "ENAMETOOLONG"),
    ],
)
def test_a_name_that_no_file_system_takes_is_refused(
    tree: SimulatedTree, name: str, expected: str
) -> None:
    assert error_of(tree.mkdir, name) == expected
    assert tree.entries() == []


def test_the_certificate_table_comes_with_the_report(
    tree: SimulatedTree, simulated_vendor: SimulatedVendor
) -> None:
    tree.mkdir("e")
    tree.write("e", "inblob", DATA)
    assert tree.read("e", "auxblob") == simulated_vendor.certificate_table()


def test_reading_a_stale_table_makes_a_new_report(tree: SimulatedTree) -> None:
    tree.mkdir("e")
    tree.write("e", "inblob", DATA)
    old = tree.read("e", "outblob")
    tree.write("e", "inblob", DATA)
    tree.faults.foreign = 1
    tree.read("e", "auxblob")
    assert tree.faults.foreign == 0
    assert tree.read("e", "outblob") != old


def test_an_injected_error_comes_out_of_the_read_and_the_next_one_succeeds(
    tree: SimulatedTree,
) -> None:
    tree.mkdir("e")
    tree.write("e", "inblob", DATA)
    tree.faults.errors["outblob"] = deque([errno.EBUSY, errno.EIO])
    assert error_of(tree.read, "e", "outblob") == "EBUSY"
    assert error_of(tree.read, "e", "outblob") == "EIO"
    assert tree.read("e", "outblob")[REPORT_DATA] == DATA


def test_a_racing_writer_shows_only_in_generation_and_report(tree: SimulatedTree) -> None:
    tree.mkdir("e")
    tree.write("e", "inblob", DATA)
    tree.faults.racing_writers = 1
    assert tree.read("e", "outblob")[REPORT_DATA] != DATA
    assert generation(tree) == 2


def test_a_foreign_report_does_not_show_in_the_generation(tree: SimulatedTree) -> None:
    tree.mkdir("e")
    tree.write("e", "inblob", DATA)
    tree.faults.foreign = 1
    assert tree.read("e", "outblob")[REPORT_DATA] != DATA
    assert generation(tree) == 1


def test_a_slow_read_holds_up_nobody_else(tree: SimulatedTree) -> None:
    for entry in ("slow", "quick"):
        tree.mkdir(entry)
        tree.write(entry, "inblob", DATA)
    asked, go_on = threading.Event(), threading.Event()

    def wait(entry: str, attribute: str) -> None:
        if entry == "slow":
            asked.set()
            assert go_on.wait(10)

    tree.faults.before_read = wait
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(tree.read("slow", "outblob")))
    thread.start()
    assert asked.wait(10)
    assert tree.read("quick", "outblob")[REPORT_DATA] == DATA
    go_on.set()
    thread.join(10)
    assert results[0][REPORT_DATA] == DATA


def test_many_threads_each_get_their_own_report(tree: SimulatedTree) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                data = bytes((number, turn)) * 32
                tree.mkdir(entry := f"e{number}")
                tree.write(entry, "inblob", data)
                assert tree.read(entry, "outblob")[REPORT_DATA] == data
                assert generation(tree, entry) == 1
                tree.rmdir(entry)
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's failure
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert tree.entries() == []
