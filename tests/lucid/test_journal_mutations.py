"""Whatever is done to the bytes of a journal: it is refused, or it still says the same."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.anchors import TrustAnchors
from attestation.errors import AttestationError
from attestation.simulated.vendor import SimulatedVendor
from lucid.journal.opening import open_journal
from lucid.journal.report import json_of, lines_of
from lucid.journal.verify import Demands, verify_journal
from lucid.passport_terms import Terms
from tests.attestation.passports import NOW
from tests.lucid.journals import BootPlan, write

# All that a valid journal says. What is not here nobody signed, and the command believes none of
# it: when a boot began, what the Observer has, how many decisions got no record.
_SAID = (
    "SELECT number, boot_id, seed, passport, pruned_seq FROM boots ORDER BY number",
    "SELECT place, wall_ns, head, record FROM records ORDER BY place",
    "SELECT place, cose, recovered_by FROM checkpoints ORDER BY place",
)
_PAGE = 4096


def said(path: Path) -> list[list[Any]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        return [db.execute(question).fetchall() for question in _SAID]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, simulated_vendor: SimulatedVendor) -> Path:
    path = tmp_path_factory.mktemp("mutations") / "state" / "journal.sqlite"
    return write(
        path,
        simulated_vendor,
        BootPlan(seed=b"1" * 32, records=9, signed_at=(4,), states=2),
        BootPlan(seed=b"2" * 32, records=6, signed_at=(3,), killed=True),
        BootPlan(seed=b"3" * 32, records=3),
    )


@pytest.fixture(scope="module")
def demands(simulated_vendor: SimulatedVendor) -> Demands:
    root = simulated_vendor.root_certificate_pem()
    terms = Terms(
        anchors=TrustAnchors.builtin().with_simulated_root(root),
        allow_simulated=True,
        measurement=None,
        crls=(),
        policy_file=None,
    )
    return Demands(terms=terms, now=NOW + timedelta(days=1))


def holds(path: Path, demands: Demands) -> bool:
    """Whether it is valid, and every record signed. Nothing else than its own errors is raised."""
    try:
        with open_journal(path) as opened:
            verified = verify_journal(opened, demands)
    except AttestationError:
        return False
    assert list(lines_of(verified))
    assert json_of(verified)
    return verified.unsigned == 0


def check(path: Path, original: Path, data: bytes, demands: Demands) -> bool:
    path.write_bytes(data)
    if not holds(path, demands):
        return False
    assert said(path) == said(original)
    return True


@settings(max_examples=250)
@given(data=st.data())
def test_bytes_that_are_changed_anywhere_are_found_or_say_nothing(
    file: Path, demands: Demands, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bent = bytearray(file.read_bytes())
    places = st.integers(0, len(bent) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        at, new = data.draw(places), data.draw(st.binary(min_size=1, max_size=9))
        bent[at : at + len(new)] = new
    check(tmp_path_factory.mktemp("bent") / "j", file, bytes(bent), demands)


@settings(max_examples=60)
@given(data=st.data())
def test_pages_that_are_lost_doubled_or_exchanged_are_found(
    file: Path, demands: Demands, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = file.read_bytes()
    pages = [whole[at : at + _PAGE] for at in range(0, len(whole), _PAGE)]
    numbers = st.integers(0, len(pages) - 1)
    first, second = data.draw(numbers), data.draw(numbers)
    match data.draw(st.sampled_from(["swap", "copy", "drop", "zero"])):
        case "swap":
            pages[first], pages[second] = pages[second], pages[first]
        case "copy":
            pages[first] = pages[second]
        case "drop":
            del pages[first]
        case _:
            pages[first] = bytes(_PAGE)
    check(tmp_path_factory.mktemp("bent") / "j", file, b"".join(pages), demands)


def test_every_byte_of_a_page_of_records_counts(
    file: Path, demands: Demands, tmp_path: Path
) -> None:
    """One bit in each part of the file, in order: chance may pass a place by."""
    whole = file.read_bytes()
    assert check(tmp_path / "j", file, whole, demands)
    kept = 0
    for at in range(17, len(whole), 211):
        bent = bytearray(whole)
        bent[at] ^= 0x10
        kept += check(tmp_path / "j", file, bytes(bent), demands)
    assert kept < len(whole) // 211, "some were refused"
