"""How the client behaves, whatever tree is behind it: inherit, and give the fixtures.

tree      an empty report tree
machine   the simulated machine that makes its quotes
plan      called with names of faults: the next quotes fail so (`Faults.plan`)
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.configfs_tsm import fetch_quote, find_provider
from attestation.errors import QuoteError
from attestation.kernel_tree import sweep
from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.certs import Chain
from attestation.snp.table import CertTable
from attestation.snp.verify import verify_report
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.verify import verify_quote
from attestation.tsm import Quote, TsmTree
from tests.attestation.tsm_semantics import DATA, OTHER

Plan = Callable[..., object]
ATTEMPTS = 5
PATIENCE = 120.0  # seconds of real time, for threads on a busy machine


class Sleeps(list[float]):
    """Collects the seconds that were asked for; nobody waits."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


class Raced:
    """A tree in which somebody writes to our entry between our write and our read."""

    def __init__(self, tree: TsmTree, times: int) -> None:
        self._tree = tree
        self._times = times
        self.entries, self.mkdir, self.rmdir = tree.entries, tree.mkdir, tree.rmdir
        self.write = tree.write

    def read(self, entry: str, attribute: str) -> bytes:
        if attribute == "outblob" and self._times:
            self._times -= 1
            self.write(entry, "inblob", OTHER)
        return self._tree.read(entry, attribute)


def fetch(tree: TsmTree, data: bytes = DATA, *, retries: int = 0) -> Quote:
    """A quote after exactly so many retries; nothing is left behind."""
    waited = Sleeps()
    quote = fetch_quote(tree, data, attempts=ATTEMPTS, sleep=waited)
    assert tree.entries() == []
    assert len(waited) == retries
    return quote


def failure(tree: TsmTree, *, retries: int = 0) -> QuoteError:
    """The error after exactly so many retries; nothing is left behind."""
    waited = Sleeps()
    with pytest.raises(QuoteError) as caught:
        fetch_quote(tree, DATA, attempts=ATTEMPTS, sleep=waited)
    assert tree.entries() == []
    assert len(waited) == retries
    return caught.value


def verify(machine: SimulatedMachine, quote: Quote, data: bytes) -> None:
    """As a relying party does that was given the simulated vendor's root."""
    now = datetime.now(UTC)
    if isinstance(machine, SimulatedVendor):
        verify_report(
            quote.outblob,
            Chain.from_table(CertTable.parse(quote.auxblob)),
            roots=frozenset({machine.root_sha256()}),
            now=now,
            expected_report_data=data,
        )
    else:
        assert isinstance(machine, SimulatedIntel)
        assert quote.auxblob == b""
        verify_quote(
            quote.outblob,
            Endorsements.parse(machine.collateral(now)),
            now=now,
            expected_report_data=data,
            vendor=machine.vendor,
        )


class ClientConduct:
    """What the client does with every tree."""

    def test_a_quote_is_over_our_data_and_verifies(
        self, tree: TsmTree, machine: SimulatedMachine
    ) -> None:
        quote = fetch(tree)
        assert quote.provider == machine.provider == find_provider(tree)
        assert quote.auxblob == (machine.auxblob() or b"")
        verify(machine, quote, DATA)
        verify(machine, fetch(tree, OTHER), OTHER)
        assert tree.entries() == []

    def test_a_privilege_level_is_asked_for_where_there_are_any(
        self, tree: TsmTree, machine: SimulatedMachine
    ) -> None:
        if isinstance(machine, SimulatedVendor):
            quote = fetch_quote(tree, DATA, privlevel=2, sleep=Sleeps())
            assert int.from_bytes(quote.outblob[0x30:0x34], "little") == 2
        else:
            with pytest.raises(QuoteError, match="no such levels"):
                fetch_quote(tree, DATA, privlevel=2, sleep=Sleeps())
        assert tree.entries() == []

    @pytest.mark.parametrize("name", ["EBUSY", "EAGAIN", "ETIMEDOUT", "EIO"])
    def test_what_may_go_away_is_tried_again(self, tree: TsmTree, plan: Plan, name: str) -> None:
        plan(name, name)
        fetch(tree, retries=2)

    @pytest.mark.parametrize("name", ["EBUSY", "ETIMEDOUT", "EIO"])
    def test_what_does_not_go_away_ends(self, tree: TsmTree, plan: Plan, name: str) -> None:
        plan(*[name] * ATTEMPTS)
        error = failure(tree, retries=ATTEMPTS - 1)
        assert (error.code, error.errno) == ("quote.busy", getattr(errno, name))
        fetch(tree)

    def test_an_interrupted_read_does_no_harm(self, tree: TsmTree, plan: Plan) -> None:
        plan("EINTR", "EINTR")
        # Through a file system Python repeats the call itself (PEP 475).
        assert DATA in fetch_quote(tree, DATA, sleep=Sleeps()).outblob
        assert tree.entries() == []

    def test_a_dead_key_is_final_and_needs_a_reboot(self, tree: TsmTree, plan: Plan) -> None:
        plan("ENOTTY")
        error = failure(tree)
        assert error.code == "quote.key_disabled"
        assert error.final
        assert "reboot" in error.remedy

    def test_an_empty_quote_is_never_taken(self, tree: TsmTree, plan: Plan) -> None:
        plan("empty")
        fetch(tree, retries=1)
        plan(*["empty"] * ATTEMPTS)
        assert failure(tree, retries=ATTEMPTS - 1).code == "quote.empty"

    def test_a_quote_over_other_data_is_never_taken(self, tree: TsmTree, plan: Plan) -> None:
        plan("foreign")
        assert failure(tree).code == "quote.foreign"

    def test_a_racing_writer_is_noticed(self, tree: TsmTree) -> None:
        assert DATA in fetch(Raced(tree, 1), retries=1).outblob
        assert failure(Raced(tree, ATTEMPTS), retries=ATTEMPTS - 1).code == "quote.stale"

    def test_whatever_another_writer_does_a_quote_is_ours(self, tree: TsmTree) -> None:
        ended = threading.Event()
        writes = 0

        def meddle() -> None:
            nonlocal writes
            while not ended.is_set():
                for entry in tree.entries():
                    try:
                        tree.write(entry, "inblob", OTHER)
                        writes += 1
                    except OSError:
                        continue  # it has gone already
                time.sleep(0.0002)  # on one CPU the others have to come to it

        thread = threading.Thread(target=meddle)
        thread.start()
        outcomes: dict[str, int] = {}
        end = time.monotonic() + PATIENCE
        try:
            while sum(outcomes.values()) < 40 or not writes:  # on a busy machine they may miss
                assert time.monotonic() < end, "the other writer never came to it"
                try:
                    assert DATA in fetch_quote(tree, DATA, sleep=Sleeps()).outblob
                    outcome = "ours"
                except QuoteError as error:
                    outcome = error.code
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        finally:
            ended.set()
            thread.join()
        assert outcomes.keys() <= {"ours", "quote.stale"}
        assert tree.entries() == []

    def test_an_oversized_write_is_refused_and_leaves_nothing(self, tree: TsmTree) -> None:
        tree.mkdir("e")
        with pytest.raises(OSError, match="large"):
            tree.write("e", "inblob", bytes(65))
        with pytest.raises(OSError, match="Invalid"):
            tree.read("e", "outblob")
        tree.rmdir("e")
        fetch(tree)

    def test_what_a_killed_agent_left_is_swept(self, tree: TsmTree) -> None:
        dead = 4_194_305  # beyond the largest number that a process can have
        for entry in (f"lucid-{dead}-left", f"lucid-{os.getpid()}-at-work", "others"):
            tree.mkdir(entry)
        swept = sweep(tree, alive=lambda pid: Path(f"/proc/{pid}").exists())
        assert swept == [f"lucid-{dead}-left"]
        assert tree.entries() == [f"lucid-{os.getpid()}-at-work", "others"]
        for entry in tree.entries():
            tree.rmdir(entry)

    def test_of_200_requests_at_once_each_gets_its_own_answer(
        self, tree: TsmTree, machine: SimulatedMachine
    ) -> None:
        wrong: list[str] = []
        seen: dict[int, Quote] = {}
        together = threading.Barrier(200)

        def one(number: int) -> None:
            data = number.to_bytes(4, "big") * 16
            together.wait()
            try:
                quote = seen[number] = fetch_quote(tree, data, sleep=Sleeps())
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
        assert len({quote.outblob for quote in seen.values()}) == 200
        assert tree.entries() == []
        for number in (0, 199):
            verify(machine, seen[number], number.to_bytes(4, "big") * 16)
