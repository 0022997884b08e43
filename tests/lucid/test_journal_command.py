"""`lucid journal verify`: what holds is told, and whatever was done to the file is found."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor, chain
from attestation.checkpoint import sign_checkpoint
from attestation.cose import cose_key
from attestation.records import decode_record, encode_record
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.certs import Chain
from attestation.snp.table import CertTable
from lucid.journal import boots
from lucid.journal.cli import journal
from tests.attestation.passports import DIGEST, NOW, Maker, forged
from tests.lucid.journals import (
    LATER,
    WALL,
    BootPlan,
    File,
    decision,
    passport_id,
    place,
    write,
    write_boot,
)

# A clean one; one that was killed, which the next one signed; a clean one.
CLEAN = BootPlan(seed=b"1" * 32, records=12, signed_at=(4, 9), states=2)
KILLED = BootPlan(seed=b"2" * 32, records=8, signed_at=(6,), killed=True)
LAST = BootPlan(seed=b"3" * 32, records=5, signed_at=(0, 3))
DEMO = (CLEAN, KILLED, LAST)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, simulated_vendor: SimulatedVendor) -> Path:
    directory = tmp_path_factory.mktemp("journal") / "state"
    write(directory / "journal.sqlite", simulated_vendor, *DEMO)
    (directory / "root.pem").write_bytes(simulated_vendor.root_certificate_pem())
    return directory


@pytest.fixture
def file(original: Path, tmp_path: Path) -> File:
    shutil.copytree(original, tmp_path / "copy")
    return File(tmp_path / "copy" / "journal.sqlite", tmp_path / "copy" / "root.pem")


def made(tmp_path: Path, vendor: SimulatedVendor, *plans: BootPlan) -> File:
    path = write(tmp_path / "made" / "journal.sqlite", vendor, *plans)
    root = tmp_path / "root.pem"
    root.write_bytes(vendor.root_certificate_pem())
    return File(path, root)


# -- what holds -----------------------------------------------------------------------------------


def test_a_journal_that_nobody_touched_is_valid(file: File) -> None:
    said = file.found()
    assert (said["exit"], said["valid"], said["error"]) == (0, True, None)
    assert (said["agent"], said["records"], said["unsigned"]) == ("agent", 25, 0)
    assert said["missing_boots"] == []
    clean, killed, last = said["boots"]
    assert [boot["last_seq"] for boot in said["boots"]] == [12, 8, 5]
    assert [boot["signed_seq"] for boot in said["boots"]] == [12, 8, 5]
    assert clean["signed_by"] == last["signed_by"] == "the boot's own key"
    assert killed["recovered_by"] == LAST.boot_id.hex()
    assert LAST.boot_id.hex() in killed["signed_by"]
    assert clean["policies"] == [
        {"digest": DIGEST.hex(), "name": "test", "version": "1", "records": 12}
    ]
    assert (clean["records"], clean["under_passport"]) == (12, 10)
    assert clean["passport"]["hardware_attested"] is False
    assert clean["outcomes"] == {"proceed": 12}


def test_people_are_told_the_same_and_that_it_is_simulated(file: File) -> None:
    done = file.ask()
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "valid: 25 records of 3 boots (SIMULATED: proves nothing about hardware)"
    assert "  Hardware: Simulated TEE (SIMULATED: proves nothing about hardware)" in lines
    assert "  Records: 1 to 12 (12)" in lines
    assert "  Signed Up To: record 12, by the boot's own key" in lines
    assert f"  Policy: {DIGEST.hex()} test 1: 12 records" in lines
    assert "  Passports: 2 records name other passports, which are not in this file" in lines
    assert "UNSIGNED" not in done.stdout
    assert done.stderr == ""


def test_simulated_passports_are_accepted_only_when_asked(file: File, tmp_path: Path) -> None:
    done = file.ask(allow=False)
    assert done.exit_code == 3
    assert "passport.simulated" in done.stderr
    assert file.ask("--allow-simulated", allow=False).exit_code == 2, "a root is needed"
    other = tmp_path / "other.pem"
    other.write_bytes(SimulatedVendor.create(now=LATER).root_certificate_pem())
    file.root = other
    assert file.fault()[:3] == (1, "snp.chain.ark_pinned", 1)


def test_the_file_and_its_folder_stay_as_they_were(file: File) -> None:
    def seen() -> dict[str, tuple[bytes, int]]:
        folder = file.path.parent
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}

    before = seen()
    assert file.ask().exit_code == 0
    assert seen() == before


def test_terms_on_hardware_are_those_of_passports(file: File, tmp_path: Path) -> None:
    assert file.fault("--measurement", "ab" * 48)[:3] == (1, "passport.measurement", 1)
    policy = tmp_path / "policy.toml"
    policy.write_text('chip_ids = ["' + "ab" * 64 + '"]')
    assert file.fault("--hardware-policy", str(policy))[:3] == (1, "snp.chip_id.allowed", 1)
    policy.write_text("nonsense")
    assert file.ask("--hardware-policy", str(policy)).exit_code == 2


def test_revocation_lists_are_of_today_for_passports_of_then(
    file: File, tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    """At the passports' issue today's list was not there yet."""
    crl, policy = tmp_path / "list.crl", tmp_path / "policy.toml"
    policy.write_text("require_crl = true")
    demanded = ("--hardware-policy", str(policy))
    assert file.fault(*demanded)[:3] == (3, "snp.crl.required", 1)
    crl.write_bytes(simulated_vendor.crl(LATER))
    assert file.fault("--crl", str(crl), *demanded) == (0, "", None, None)
    crl.write_bytes(simulated_vendor.crl(NOW - timedelta(days=60)))
    assert file.fault("--crl", str(crl))[:3] == (3, "snp.crl.not_revoked", 1)
    chain_of = Chain.from_table(CertTable.parse(simulated_vendor.certificate_table()))
    crl.write_bytes(simulated_vendor.crl(LATER, [chain_of.ica.serial_number]))
    assert file.fault("--crl", str(crl))[:3] == (1, "snp.crl.not_revoked", 1)


def test_a_passport_of_the_future_is_refused(file: File) -> None:
    assert file.fault("--at", "2026-11-20T00:00:00Z")[:3] == (1, "passport.not_yet", 1)


def test_records_by_another_policy_than_expected_are_refused(file: File) -> None:
    assert file.fault("--bundle-digest", DIGEST.hex()) == (0, "", None, None)
    assert file.fault("--bundle-digest", "00" * 32)[:3] == (1, "passport.bundle_digest", 1)
    both = ("--bundle-digest", "00" * 32, "--bundle-digest", DIGEST.hex())
    assert file.fault(*both) == (0, "", None, None)


# -- bytes and rows that were changed -------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def flip(table: str, column: str, key: str, at: int = 3) -> Callable[[File], None]:
    def change(file: File) -> None:
        ((data,),) = file.rows(f"SELECT {column} FROM {table} WHERE {key}")
        new = flipped(data, at) if isinstance(data, bytes) else data ^ 1
        file.execute(f"UPDATE {table} SET {column} = ? WHERE {key}", new)

    return change


def at(number: int, seq: int) -> str:
    return f"place = {place(number, seq)}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip("records", "record", at(1, 7), 40), ("chain.broken", 1, 7)),
        (flip("records", "record", at(3, 5), 0), ("chain.broken", 3, 5)),
        (flip("records", "head", at(1, 12)), ("chain.broken", 1, 12)),
        (flip("records", "head", at(2, 1)), ("chain.broken", 2, 1)),
        (flip("records", "wall_ns", at(2, 3)), ("record.column", 2, 3)),
        (flip("checkpoints", "cose", at(1, 4), 60), ("cose.signature", 1, 4)),
        (flip("checkpoints", "cose", at(1, 9), -2), ("cose.signature", 1, 9)),
        (flip("checkpoints", "cose", at(2, 8), -2), ("cose.signature", 2, 8)),
        (flip("boots", "seed", "number = 2"), ("boot.seed", 2, None)),
        (flip("boots", "boot_id", "number = 1"), ("boot.passport", 1, None)),
        (flip("boots", "passport", "number = 3", 0), ("cose.tag", 3, None)),
        (flip("boots", "passport", "number = 3", -9), ("cose.signature", 3, None)),
        (flip("boots", "passport", "number = 1", 2000), None),
        (flip("boots", "acked_head", "number = 1"), ("journal.acknowledged", 1, None)),
        (flip("boots", "acked_seq", "number = 1"), ("journal.acknowledged", 1, 1)),
        (flip("boots", "pruned_seq", "number = 1"), ("journal.acknowledged", 1, None)),
        (flip("counters", "value", "name = 'epoch'"), ("journal.boots", None, None)),
    ],
)
def test_each_kind_of_byte_that_was_flipped_is_found(
    file: File, change: Callable[[File], None], says: tuple[str, int | None, int | None] | None
) -> None:
    change(file)
    exit_code, *found = file.fault()
    assert exit_code == 1
    if says is not None:
        assert tuple(found) == says


def test_the_first_fault_says_where_it_is_and_what_was_expected(file: File) -> None:
    file.execute("DELETE FROM records WHERE place = ?", place(1, 7))
    done = file.ask()
    assert done.exit_code == 1
    assert (
        f"boot 1 ({CLEAN.boot_id.hex()}), record 7: record 7 is expected, record 8" in done.stderr
    )
    assert "valid" not in done.stdout


@pytest.mark.parametrize(("number", "seq"), [(1, 1), (1, 7), (2, 1), (3, 1), (3, 4)])
def test_a_record_that_is_missing_is_found(file: File, number: int, seq: int) -> None:
    file.execute("DELETE FROM records WHERE place = ?", place(number, seq))
    assert file.fault() == (1, "chain.gap", number, seq)


@pytest.mark.parametrize(
    ("plan", "number", "seq", "code"),
    [
        (CLEAN, 1, 12, "chain.cut"),
        (KILLED, 2, 8, "chain.cut"),
        (LAST, 3, 5, "chain.cut"),
    ],
)
def test_an_end_that_was_cut_is_found(
    file: File, plan: BootPlan, number: int, seq: int, code: str
) -> None:
    file.execute("DELETE FROM records WHERE place = ?", place(number, seq))
    assert file.fault() == (1, code, number, seq)
    # Cut with its checkpoint, the passport of a boot is left, and all that was signed before.
    file.execute("DELETE FROM records WHERE place > ? AND place < ?", place(1, 1), place(2, 0))
    file.execute("DELETE FROM checkpoints")
    assert file.fault() == (1, "chain.cut", 1, 2)


def test_two_records_that_changed_places_are_found(file: File) -> None:
    first, second = file.rows(
        "SELECT place, head, record FROM records WHERE place IN (?, ?)", place(1, 5), place(1, 6)
    )
    for (at, _, _), (_, head, data) in ((first, second), (second, first)):
        file.execute("UPDATE records SET head = ?, record = ? WHERE place = ?", head, data, at)
    assert file.fault() == (1, "chain.broken", 1, 5)
    # The same with heads that fit: the records say where they belong.
    file.rechain(1, {5: second[2], 6: first[2]})
    assert file.fault() == (1, "record.seq", 1, 5)


def lie(file: File, number: int, plan: BootPlan, to: int, **changes: Any) -> bytes:
    """A record that an attacker makes: sound in itself, and like the one in its place."""
    rows = file.rows("SELECT record FROM records WHERE place = ?", place(number, to))
    given: dict[str, Any] = {"wall_ns": WALL, "boot_ns": 10**6}
    named = "pass-" + passport_id(plan.seed).hex()
    if rows:
        known = decode_record(rows[0][0])
        given, named = {"wall_ns": known.wall_ns, "boot_ns": known.boot_ns}, known.record.passport
    given |= {"agent": plan.agent, "boot": plan.boot_id, "seq": to}
    placed = {name: changes.pop(name, value) for name, value in given.items()}
    return encode_record(decision(99, changes.pop("passport", named), **changes), **placed)


@pytest.mark.parametrize(
    ("number", "plan", "seq", "found"),
    [(1, CLEAN, 12, 12), (1, CLEAN, 5, 9), (1, CLEAN, 1, 2), (2, KILLED, 8, 8), (3, LAST, 2, 3)],
)
def test_a_chain_that_was_made_anew_is_held_against_what_was_signed(
    file: File, number: int, plan: BootPlan, seq: int, found: int
) -> None:
    """The end of the second was signed by the boot after it, and by nobody else."""
    file.rechain(number, {seq: lie(file, number, plan, seq)}, seed=plan.seed)
    assert file.fault() == (1, "chain.signed", number, found)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"agent": "other"}, "record.agent"),
        ({"boot": CLEAN.boot_id}, "record.boot"),
        ({"seq": 5}, "record.seq"),
        ({"boot_ns": 0}, "record.boot_ns"),
        ({"wall_ns": 2**63}, "record.time"),
        ({"outcome": "unknown"}, "record.field"),
        ({"bundle": ("test", "1", bytes(32))}, "record.passport"),
        ({"platform": ("sev-snp", True, "", False)}, "record.passport"),
        ({"model": "m" * 70_000}, "journal.damaged"),
        ({"claims": {"n": 2**64 - 1}}, "journal.unsigned"),  # sound: what is left is no signature
    ],
)
def test_a_record_that_does_not_belong_there_is_found(
    file: File, changes: dict[str, Any], code: str
) -> None:
    """In a tail that nobody signed yet: every other check would let it pass."""
    file.rechain(3, {6: lie(file, 3, LAST, 6, **changes)})
    expected = (1, code, 3, 6) if code != "journal.unsigned" else (3, code, None, None)
    assert file.fault() == expected


def test_a_record_before_its_passport_is_found(file: File) -> None:
    named = "pass-" + passport_id(CLEAN.seed).hex()
    file.rechain(1, {1: lie(file, 1, CLEAN, 1, passport=named)}, seed=CLEAN.seed)
    assert file.fault() == (1, "record.passport", 1, 1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "cbor.truncated"),
        (b"not a record", "cbor.truncated"),
        (b"\x81" * 60_000 + b"\x00", "cbor.depth"),
        (cbor.encode({"v": 1}), "record.missing"),
        (b"\x9a\x7f\xff\xff\xff", "cbor.truncated"),
        (b"\x5b" + b"\xff" * 8, "cbor.truncated"),
    ],
)
def test_what_is_no_record_is_found_however_well_it_hashes(
    file: File, data: bytes, code: str
) -> None:
    file.rechain(3, {6: data})
    assert file.fault() == (1, code, 3, 6)


def test_a_row_that_would_fill_the_memory_is_refused_unread(file: File) -> None:
    file.rechain(3, {6: bytes(2_000_000)})
    assert file.fault() == (1, "journal.damaged", 3, 6)


# -- signatures -----------------------------------------------------------------------------------


def test_checkpoints_by_another_key_are_refused(file: File) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = sign_checkpoint(key, boot_id=CLEAN.boot_id, seq=12, head=file.head(1, 12), wall_ns=WALL)
    file.execute("UPDATE checkpoints SET cose = ? WHERE place = ?", other, place(1, 12))
    assert file.fault() == (1, "checkpoint.key", 1, 12)


@pytest.mark.parametrize(
    ("to", "code", "seq"),
    [
        (place(1, 5), "checkpoint.seq", 5),
        (place(2, 5), "checkpoint.key", 5),
        (place(1, 13), "chain.cut", 13),
        (place(9, 1), "checkpoint.place", None),
        (1, "checkpoint.place", 1),
    ],
)
def test_a_checkpoint_in_another_place_is_refused(
    file: File, to: int, code: str, seq: int | None
) -> None:
    file.execute("UPDATE checkpoints SET place = ? WHERE place = ?", to, place(1, 4))
    assert file.fault()[:2] == (1, code)
    assert file.fault()[3] == seq


def test_without_signatures_the_tail_is_unsigned_and_not_accepted(file: File) -> None:
    file.execute("DELETE FROM checkpoints")
    said = file.found()
    assert (said["exit"], said["valid"], said["error"]["code"]) == (3, False, "journal.unsigned")
    assert [boot["signed_seq"] for boot in said["boots"]] == [2, 0, 0], "passports are left"
    assert [boot["unsigned"] for boot in said["boots"]] == [10, 8, 5]
    done = file.ask()
    assert done.exit_code == 3
    assert "  UNSIGNED: 10 records, 3 to 12: not verified" in done.stdout.splitlines()
    assert "23 records are covered by no signature" in done.stderr
    done = file.ask("--allow-unsigned")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].endswith("(23 of them UNSIGNED)")


def test_the_end_of_a_killed_boot_is_held_against_the_one_that_signed_it(file: File) -> None:
    file.rechain(2, {9: lie(file, 2, KILLED, 9)})
    assert file.fault() == (1, "chain.continued", 2, 10)


def test_a_signer_that_is_not_in_the_file_signs_nothing(file: File) -> None:
    file.execute("UPDATE checkpoints SET recovered_by = ? WHERE place = ?", b"x" * 16, place(2, 8))
    said = file.found()
    assert (said["exit"], said["error"]["code"]) == (3, "journal.unsigned")
    killed = said["boots"][1]
    assert (killed["signed_seq"], killed["unsigned"]) == (6, 2)
    assert killed["checkpoints"] == {"verified": 2, "not_checked": 1}


def test_a_boot_cannot_sign_the_end_of_a_later_one(file: File) -> None:
    file.execute(
        "UPDATE checkpoints SET recovered_by = ? WHERE place = ?", CLEAN.boot_id, place(2, 8)
    )
    assert file.fault() == (1, "checkpoint.signer", 2, 8)


# -- passports ------------------------------------------------------------------------------------


def test_a_passport_forged_by_whoever_has_the_file_is_refused(
    file: File, simulated_vendor: SimulatedVendor
) -> None:
    """A key of one's own signs a passport, and checkpoints over what one wrote."""
    ((token,),) = file.rows("SELECT passport FROM boots WHERE number = 1")
    key = ec.generate_private_key(ec.SECP256R1())
    other = SimulatedVendor.create(now=NOW)
    for fake in (
        forged(token, key, {}),
        forged(token, key, {8: {1: cose_key(key.public_key())}}),
        Maker(simulated_vendor, bound_key=key, seed=CLEAN.seed).token(),
        Maker(other, seed=CLEAN.seed).token(),
    ):
        file.execute("UPDATE boots SET passport = ? WHERE number = 1", fake)
        exit_code, code, number, seq = file.fault()
        assert (exit_code, number, seq) == (1, 1, None)
        assert code in {"passport.kid", "passport.key", "snp.chain.ark_pinned"}


def test_the_passport_of_another_boot_is_refused(file: File) -> None:
    file.execute(
        "UPDATE boots SET passport = (SELECT passport FROM boots WHERE number = 3) WHERE number = 1"
    )
    assert file.fault() == (1, "boot.passport", 1, None)


def test_without_its_passport_a_boot_is_not_attested_and_its_checkpoints_prove_nothing(
    file: File,
) -> None:
    file.execute("UPDATE boots SET passport = x'' WHERE number = 1")
    said = file.found()
    assert (said["exit"], said["error"]["code"]) == (3, "journal.unsigned")
    clean = said["boots"][0]
    assert (clean["passport"], clean["unsigned"]) == (None, 12)
    assert clean["checkpoints"] == {"verified": 0, "not_checked": 4}
    assert "Hardware: NOT ATTESTED" in file.ask().stdout


def test_what_a_passport_says_of_the_journal_must_be_so(
    tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    plan = BootPlan(seed=b"1" * 32, records=6, states=4)
    file = made(tmp_path, simulated_vendor, plan)
    assert file.fault() == (0, "", None, None)
    file.execute("DELETE FROM checkpoints")
    file.rechain(1, {3: lie(file, 1, plan, 3)})
    assert file.fault("--allow-unsigned") == (1, "chain.signed", 1, 4)


def test_the_next_boot_cannot_stand_in_for_a_passport_that_is_gone(
    tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    """Whoever has a machine of his own could take the passport away and sign what he wrote."""
    nameless = BootPlan(seed=b"1" * 32, records=3, passport=False)
    file = made(tmp_path, simulated_vendor, nameless, replace(LAST, seed=b"2" * 32))
    said = file.found()
    assert (said["exit"], said["unsigned"]) == (3, 3)
    assert said["boots"][0]["passport"] is None
    assert file.fault("--allow-unsigned")[0] == 0
    assert said["boots"][0]["recovered_by"] == chain.boot_id(b"2" * 32).hex()


# -- boots ----------------------------------------------------------------------------------------


def test_a_boot_of_another_agent_is_refused(
    file: File, tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    """A whole boot, sound in itself, in the place of one of this agent."""
    foreign = made(tmp_path, simulated_vendor, replace(LAST, seed=b"9" * 32, agent="agent-2"))
    ((boot_id, seed, passport, head),) = foreign.rows(
        "SELECT boot_id, seed, passport, acked_head FROM boots"
    )
    shift = place(2, 0)
    file.execute("DELETE FROM records WHERE place > ? AND place < ?", place(3, 0), place(4, 0))
    file.execute("DELETE FROM checkpoints WHERE place > ?", place(2, 0))
    file.execute(
        "UPDATE boots SET boot_id = ?, seed = ?, passport = ?, acked_head = ? WHERE number = 3",
        boot_id, seed, passport, head,
    )  # fmt: skip
    for row in foreign.rows("SELECT place, wall_ns, head, record FROM records"):
        file.execute("INSERT INTO records VALUES (?, ?, ?, ?)", row[0] + shift, *row[1:])
    for row in foreign.rows("SELECT place, cose, recovered_by FROM checkpoints"):
        file.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", row[0] + shift, *row[1:])
    assert file.fault() == (1, "boot.agent", 3, None)


def test_one_boot_is_not_shown_twice(file: File) -> None:
    file.execute("DELETE FROM checkpoints WHERE place > ?", place(3, 0))
    file.execute("UPDATE sqlite_sequence SET seq = 4")
    file.execute("UPDATE counters SET value = 4 WHERE name = 'epoch'")
    file.execute(
        "INSERT INTO boots (number, boot_id, seed, started_ns, passport, acked_head)"
        " SELECT 4, x'00112233445566778899aabbccddeeff', seed, 0, passport, acked_head FROM boots"
        " WHERE number = 3"
    )
    assert file.fault() == (1, "boot.passport", 4, None)


def drop_boot(file: File, number: int) -> None:
    file.execute("DELETE FROM boots WHERE number = ?", number)
    for table in ("records", "checkpoints"):
        file.execute(
            f"DELETE FROM {table} WHERE place >= ? AND place < ?",
            place(number, 0),
            place(number + 1, 0),
        )


def test_records_of_no_boot_are_refused(file: File) -> None:
    file.execute("DELETE FROM boots WHERE number = 2")
    assert file.fault()[:2] == (1, "journal.boots")
    drop_boot(file, 3)
    file.execute("UPDATE counters SET value = 1 WHERE name = 'epoch'")
    assert file.fault()[:2] == (1, "journal.boots")


def test_the_newest_boot_cannot_go_alone(file: File) -> None:
    drop_boot(file, 3)
    assert file.fault() == (1, "journal.boots", None, None)


def test_boots_that_are_not_there_are_named(file: File) -> None:
    drop_boot(file, 1)
    said = file.found()
    assert (said["exit"], said["missing_boots"]) == (0, [[1, 1]])
    assert "Boot 1: not in this file" in file.ask().stdout


# -- what is no longer kept -----------------------------------------------------------------------


def prune(file: File, number: int, through: int, *, acked: int) -> None:
    head = file.head(number, acked)
    file.execute(
        "UPDATE boots SET acked_seq = ?, acked_head = ?, pruned_seq = ? WHERE number = ?",
        acked, head, through, number,
    )  # fmt: skip
    for table in ("records", "checkpoints"):
        file.execute(
            f"DELETE FROM {table} WHERE place > ? AND place <= ?",
            place(number, 0),
            place(number, through),
        )


@pytest.mark.parametrize(("acked", "gone"), [(5, 5), (9, 6), (12, 6)])
def test_what_was_pruned_is_not_in_this_file_and_not_counted(
    file: File, acked: int, gone: int
) -> None:
    """Without the head before it, the first record that is left is kept for its head alone."""
    prune(file, 1, 5, acked=acked)
    said = file.found()
    clean = said["boots"][0]
    assert (said["exit"], clean["pruned_through"]) == (0, gone)
    assert (clean["first_seq"], clean["records"]) == (gone + 1, 12 - gone)
    assert f"  Not In This File: records 1 to {gone}, no longer kept" in file.ask().stdout


@pytest.mark.parametrize(
    ("seq", "says"),
    [(6, ("chain.gap", 1, 6)), (7, ("chain.gap", 1, 7)), (12, ("chain.cut", 1, 12))],
)
def test_nothing_is_missing_after_what_was_pruned(
    file: File, seq: int, says: tuple[str, int, int]
) -> None:
    prune(file, 1, 5, acked=9)
    file.execute("DELETE FROM records WHERE place = ?", place(1, seq))
    assert file.fault()[1:] == says


def test_a_boot_is_never_pruned_to_nothing(file: File) -> None:
    prune(file, 3, 5, acked=5)
    assert file.fault() == (1, "chain.cut", 3, 6)


def test_a_later_record_than_the_file_has_was_acknowledged(file: File) -> None:
    file.execute("UPDATE boots SET acked_seq = 6 WHERE number = 3")
    assert file.fault()[:3] == (1, "chain.cut", 3)
    file.execute("UPDATE boots SET acked_seq = 0, signed_seq = 6 WHERE number = 3")
    assert file.fault()[:3] == (1, "chain.cut", 3)


# -- what is known from elsewhere -----------------------------------------------------------------


def known(file: File, plan: BootPlan, number: int, seq: int) -> tuple[str, str]:
    return "--expect-head", f"{plan.boot_id.hex()}:{seq}:{file.head(number, seq).hex()}"


def test_a_head_that_the_observer_has_must_be_there(file: File) -> None:
    assert file.fault(*known(file, LAST, 3, 5), *known(file, CLEAN, 1, 7))[0] == 0
    genesis = chain.genesis(LAST.seed).hex()
    assert file.fault("--expect-head", f"{LAST.boot_id.hex()}:0:{genesis}")[0] == 0
    other = f"{LAST.boot_id.hex()}:4:{'00' * 32}"
    assert file.fault("--expect-head", other) == (1, "chain.signed", 3, 4)
    newer = f"{LAST.boot_id.hex()}:6:{'00' * 32}"
    assert file.fault("--expect-head", newer) == (1, "chain.cut", 3, 6)
    gone = f"{'00' * 16}:6:{'00' * 32}"
    assert file.fault("--expect-head", gone) == (1, "journal.boot_missing", None, None)


@pytest.mark.parametrize("head", ["", "x", "00:1:00", f"{'0' * 32}:-1:{'0' * 64}", ":::"])
def test_what_is_no_head_is_bad_usage(file: File, head: str) -> None:
    assert file.ask("--expect-head", head).exit_code == 2


def test_a_known_head_covers_what_nobody_signed(file: File) -> None:
    file.execute("DELETE FROM checkpoints WHERE place > ?", place(3, 0))
    assert file.fault()[:2] == (3, "journal.unsigned")
    assert file.fault(*known(file, LAST, 3, 5))[0] == 0


def test_a_head_of_what_was_pruned_could_not_be_checked(file: File) -> None:
    options = known(file, CLEAN, 1, 3)
    prune(file, 1, 5, acked=9)
    assert file.fault(*options)[:3] == (3, "chain.pruned", 1)


def test_an_older_copy_is_refused_where_a_newer_passport_is_known(
    file: File, tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    """A rollback: the older file is whole in itself."""
    kept = tmp_path / "passport.cwt"
    ((token,),) = file.rows("SELECT passport FROM boots WHERE number = 3")
    kept.write_bytes(token)
    assert file.fault("--expect-passport", str(kept))[0] == 0
    older = made(tmp_path, simulated_vendor, CLEAN)
    assert older.fault()[0] == 0
    said = older.fault("--expect-passport", str(kept))
    assert said == (1, "journal.boot_missing", None, None)
    maker = Maker(simulated_vendor, seed=CLEAN.seed, head=b"x" * 32)
    kept.write_bytes(maker.token(journal_seq=20, passport_id=b"q" * 16))
    assert older.fault("--expect-passport", str(kept)) == (1, "boot.key", 1, None)
    kept.write_bytes(b"no passport")
    assert older.ask("--expect-passport", str(kept)).exit_code == 2


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addition",
    [
        "CREATE TRIGGER more AFTER INSERT ON records BEGIN DELETE FROM records; END",
        "CREATE VIEW more AS SELECT * FROM records",
        "CREATE TABLE more (a)",
        "CREATE INDEX more ON records(wall_ns)",
        "CREATE VIRTUAL TABLE more USING fts5(a)",
        "ALTER TABLE counters ADD COLUMN more TEXT",
        "DROP VIEW ends",
    ],
)
def test_a_file_with_more_than_an_agent_makes_is_refused(file: File, addition: str) -> None:
    file.execute(addition)
    assert file.fault() == (1, "journal.schema", None, None)


@pytest.mark.parametrize("in_wal", [False, True])
def test_a_schema_that_would_fill_the_memory_is_refused_unread(
    file: File, in_wal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = " ".join(f"CREATE TABLE t{n} (a);" for n in range(100))
    with closing(sqlite3.connect(file.path)) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.executescript(f"BEGIN; {tables} COMMIT;")
        wal = Path(f"{file.path}-wal").read_bytes()
        main = file.path.read_bytes()
    if in_wal:
        file.path.write_bytes(main)
        Path(f"{file.path}-wal").write_bytes(wal)
    monkeypatch.setattr("lucid.journal.opening._connect", None)
    assert file.fault() == (1, "journal.schema", None, None)


@pytest.mark.parametrize("pragma", ["application_id = 7", "user_version = 2"])
def test_another_database_is_no_journal(file: File, pragma: str) -> None:
    file.execute(f"PRAGMA {pragma}")
    assert file.fault() == (2, "journal.format", None, None)


@pytest.mark.parametrize("data", [b"", b"x", b"SQLite format 3\0", bytes(4096), b"text " * 999])
def test_what_is_no_database_is_no_journal(file: File, data: bytes) -> None:
    file.path.write_bytes(data)
    assert file.fault() == (2, "journal.format", None, None)


def test_a_folder_or_a_device_is_no_journal(file: File) -> None:
    for path in (file.path.parent, Path("/dev/zero")):
        done = CliRunner().invoke(journal, ["verify", str(path), "--json"])
        assert (done.exit_code, "journal.format" in done.stdout) == (2, True)


def test_a_journal_without_boots_proves_nothing(file: File) -> None:
    for table in ("boots", "records", "checkpoints"):
        file.execute(f"DELETE FROM {table}")
    assert file.fault() == (3, "journal.empty", None, None)


def test_what_cannot_be_read_could_not_be_checked(file: File) -> None:
    missing = CliRunner().invoke(journal, ["verify", str(file.path) + ".none"])
    assert missing.exit_code == 3
    assert "No such file" in missing.stderr
    circle = file.path.with_name("circle")
    circle.symlink_to(circle)
    assert CliRunner().invoke(journal, ["verify", str(circle)]).exit_code == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_could_not_be_checked(file: File) -> None:
    file.path.chmod(0)
    assert file.fault() == (3, "journal.unreadable", None, None)


@pytest.mark.parametrize("pages", [1, 3, 7])
def test_a_file_that_was_cut_short_is_damaged(file: File, pages: int) -> None:
    file.path.write_bytes(file.path.read_bytes()[: pages * 4096])
    assert file.fault()[:2] == (1, "journal.damaged")


def test_a_wal_beside_the_file_is_part_of_the_journal(
    original: Path, tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    """As an agent leaves it that was killed: the file alone has less, and is whole."""
    path = tmp_path / "state" / "journal.sqlite"
    write(path, simulated_vendor, CLEAN)
    with closing(sqlite3.connect(path)) as held:
        held.execute("SELECT count(*) FROM records").fetchone()  # so that no close empties the WAL
        trio.run(write_boot, path, simulated_vendor, replace(LAST, killed=True, signed_at=(3,)))
        copy = tmp_path / "copy"
        copy.mkdir()
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", copy / f"journal.sqlite{end}")
    file = File(copy / "journal.sqlite", original / "root.pem")
    said = file.found("--allow-unsigned")
    assert (said["exit"], said["records"], said["unsigned"]) == (0, 17, 2)
    assert sorted(p.name for p in copy.iterdir()) == ["journal.sqlite", "journal.sqlite-wal"]


def test_an_empty_wal_is_none(file: File) -> None:
    Path(f"{file.path}-wal").touch()
    assert file.fault()[0] == 0


def test_a_wal_of_another_journal_does_not_go_unseen(file: File) -> None:
    Path(f"{file.path}-wal").write_bytes(b"x" * 100_000)
    said = file.found()
    assert (said["exit"], said["records"]) == (0, 25), "what SQLite takes for no WAL is none"


def test_a_change_that_another_program_left_half_done_is_not_looked_past(file: File) -> None:
    Path(f"{file.path}-journal").write_bytes(b"x")
    assert file.fault() == (3, "journal.in_use", None, None)


def test_a_file_that_changes_while_it_is_read_could_not_be_checked(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = boots.vouch

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        os.utime(file.path)
        return real(*args, **kwargs)

    monkeypatch.setattr("lucid.journal.verify.vouch", meanwhile)
    assert file.fault() == (3, "journal.in_use", None, None)
    file.execute("DELETE FROM records WHERE place = ?", place(1, 7))
    assert file.fault() == (3, "journal.in_use", None, None), "nor does a fault prove anything"


def test_text_of_a_journal_does_not_drive_the_terminal(
    tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    bad = "\x1b[2Jx\nvalid: all"
    plan = replace(LAST, agent=bad, changes={"bundle": (bad, bad, DIGEST)})
    done = made(tmp_path, simulated_vendor, plan).ask()
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "valid: all" not in done.output.splitlines()
