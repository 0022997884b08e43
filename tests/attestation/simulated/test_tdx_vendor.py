"""The simulated Intel: kept like the simulated AMD, and a machine behind the kernel's interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestation.configfs_tsm import fetch_quote
from attestation.errors import QuoteError
from attestation.simulated.tdx import FILES, SimulatedIntel
from attestation.simulated.tree import SimulatedTree
from attestation.tdx.abi import Quote
from tests.attestation.tsm_semantics import error_of

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def test_keys_are_private_and_loaded_again(tmp_path: Path) -> None:
    made = SimulatedIntel.load_or_create(tmp_path, now=NOW)
    again = SimulatedIntel.load_or_create(tmp_path, now=NOW + timedelta(days=400))
    assert again.root == made.root
    assert again.files() == made.files()
    folder = tmp_path / "simulated-tdx"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_and_never_replaced(tmp_path: Path, name: str) -> None:
    SimulatedIntel.load_or_create(tmp_path, now=NOW)
    file = tmp_path / "simulated-tdx" / name
    file.write_bytes(b"")
    assert refused(tmp_path) == "simulated.damaged"
    assert file.read_bytes() == b""


# The quoting enclave vouches for any attestation key: that one belongs to nothing else.
@pytest.mark.parametrize("name", [name for name in FILES if name != "attestation.key"])
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, name: str) -> None:
    SimulatedIntel.load_or_create(tmp_path, now=NOW)
    foreign = SimulatedIntel.create(now=NOW).files()[name]
    (tmp_path / "simulated-tdx" / name).write_bytes(foreign)
    assert refused(tmp_path) == "simulated.damaged"


def refused(state: Path) -> str:
    with pytest.raises(QuoteError) as caught:
        SimulatedIntel.load_or_create(state, now=NOW)
    return caught.value.code


def test_one_that_is_not_valid_now_is_refused(tmp_path: Path) -> None:
    SimulatedIntel.load_or_create(tmp_path, now=NOW)
    with pytest.raises(QuoteError) as caught:
        SimulatedIntel.load_or_create(tmp_path, now=NOW - timedelta(days=3))
    assert caught.value.code == "simulated.damaged"


def test_its_quotes_come_through_the_kernels_interface() -> None:
    tree = SimulatedTree(SimulatedIntel.create(now=NOW))
    quote = fetch_quote(tree, bytes(range(64)))
    assert quote.provider == "tdx_guest"
    assert quote.auxblob == b""
    assert Quote.parse(quote.outblob).report.report_data == bytes(range(64))
    assert tree.entries() == []


def test_what_only_sev_snp_has_is_not_there() -> None:
    tree = SimulatedTree(SimulatedIntel.create(now=NOW))
    tree.mkdir("e")
    tree.write("e", "inblob", bytes(64))
    for attribute in ("auxblob", "privlevel_floor", "privlevel"):
        assert error_of(tree.read, "e", attribute) == "ENOENT"
    assert error_of(tree.write, "e", "privlevel", b"0") == "ENOENT"
