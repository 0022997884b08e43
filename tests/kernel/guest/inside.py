"""Runs inside the virtual machine, against the kernel's own report tree.

Quotes are made by a simulated machine in a process of its own, which answers the fake provider.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from attestation.configfs_tsm import fetch_quote
from attestation.errors import QuoteError
from attestation.kernel_tree import KernelTree, sweep
from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor
from attestation.tsm import Quote
from tests.attestation.tsm_semantics import DATA, OTHER, TsmSemantics, error_of

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


def plan(*faults: str) -> None:
    FAULTS.write_text(json.dumps(faults))


class Sleeps(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(tree: KernelTree, data: bytes = DATA, *, retries: int = 0) -> Quote:
    waited = Sleeps()
    quote = fetch_quote(tree, data, sleep=waited)
    assert tree.entries() == []
    assert len(waited) == retries
    return quote


def failure(tree: KernelTree, *, retries: int = 0) -> QuoteError:
    waited = Sleeps()
    with pytest.raises(QuoteError) as caught:
        fetch_quote(tree, DATA, sleep=waited)
    assert tree.entries() == []
    assert len(waited) == retries
    return caught.value


if SNP:  # what only SEV-SNP has is part of these rules

    class TestKernel(TsmSemantics):
        """The rules that the stand-in keeps are the kernel's."""


def test_a_quote_comes_with_what_the_host_supplies(
    tree: KernelTree, vendor: SimulatedMachine
) -> None:
    quote = fetch(tree)
    assert quote.provider == PROVIDER
    assert quote.auxblob == (vendor.auxblob() or b"")
    assert DATA in quote.outblob
    assert fetch(tree, OTHER).outblob != quote.outblob


@pytest.mark.skipif(SNP, reason="of TDX")
def test_on_tdx_there_is_nothing_of_sev_snp(tree: KernelTree) -> None:
    tree.mkdir("e")
    for attribute in ("auxblob", "privlevel_floor"):
        assert error_of(tree.read, "e", attribute) == "ENOENT"


def test_an_interrupted_read_goes_on_by_itself(tree: KernelTree) -> None:
    plan("EINTR", "EINTR")
    fetch(tree)  # Python repeats the system call (PEP 475): the transaction sees nothing of it


@pytest.mark.parametrize("name", ["EBUSY", "EAGAIN", "ETIMEDOUT", "EIO"])
def test_what_may_go_away_is_tried_again(tree: KernelTree, name: str) -> None:
    plan(name, name)
    fetch(tree, retries=2)


def test_what_does_not_go_away_ends(tree: KernelTree) -> None:
    plan(*["EBUSY"] * 5)
    error = failure(tree, retries=4)
    assert error.code == "quote.busy"
    assert error.errno == errno.EBUSY


def test_a_dead_key_is_final(tree: KernelTree) -> None:
    plan("ENOTTY")
    error = failure(tree)
    assert error.code == "quote.key_disabled"
    assert error.final


def test_an_empty_quote_is_never_taken(tree: KernelTree) -> None:
    plan("empty")
    fetch(tree, retries=1)
    plan(*["empty"] * 5)
    assert failure(tree, retries=4).code == "quote.empty"


def test_a_quote_over_other_data_is_never_taken(tree: KernelTree) -> None:
    plan("foreign")
    assert failure(tree).code == "quote.foreign"


def test_a_quote_that_is_too_large_for_the_kernel_is_refused(tree: KernelTree) -> None:
    plan("large")
    error = failure(tree)
    assert error.final


class Raced(KernelTree):
    """Somebody writes to our entry between our write and our read."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def read(self, entry: str, attribute: str) -> bytes:
        if attribute == "outblob" and self._times:
            self._times -= 1
            super().write(entry, "inblob", OTHER)
        return super().read(entry, attribute)


def test_a_racing_writer_is_noticed(tree: KernelTree) -> None:
    assert DATA in fetch(Raced(1), retries=1).outblob
    assert failure(Raced(5), retries=4).code == "quote.stale"
    assert tree.entries() == []


def test_an_oversized_write_is_refused(tree: KernelTree) -> None:
    tree.mkdir("e")
    assert error_of(tree.write, "e", "inblob", bytes(65)) == "EFBIG"


def test_what_a_killed_agent_left_is_swept(tree: KernelTree) -> None:
    child = os.fork()
    if child == 0:
        tree.mkdir(f"lucid-{os.getpid()}-left")
        os._exit(0)
    os.waitpid(child, 0)
    assert tree.entries() == [f"lucid-{child}-left"]
    assert sweep(tree, alive=lambda pid: Path(f"/proc/{pid}").exists())
    assert tree.entries() == []


def test_of_200_requests_at_once_each_gets_its_own_answer(tree: KernelTree) -> None:
    wrong: list[str] = []

    def one(number: int) -> None:
        data = number.to_bytes(4, "big") * 16
        try:
            quote = fetch_quote(tree, data, sleep=Sleeps())
        except QuoteError as error:
            wrong.append(f"{number}: {error}")
            return
        if data not in quote.outblob:
            wrong.append(f"{number}: another's answer")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert tree.entries() == []
