"""`lucid passport`: what it prints, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attestation.simulated.vendor import SimulatedVendor
from lucid.passport import passport
from tests.attestation.passports import NOW, Maker

AT = NOW.isoformat()


@pytest.fixture(scope="module")
def token(simulated_vendor: SimulatedVendor) -> bytes:
    return Maker(simulated_vendor).token()


@pytest.fixture
def root(tmp_path: Path, simulated_vendor: SimulatedVendor) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(simulated_vendor.root_certificate_pem())
    return path


def ask(command: str, data: bytes, *options: str) -> Result:
    return CliRunner().invoke(passport, [command, "-", "--at", AT, *options], input=data)


def test_a_simulated_passport_is_shown_as_one(token: bytes, root: Path) -> None:
    done = ask("show", token, "--allow-simulated", "--simulated-root", str(root))
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith("Passport ID: pass-")
    assert "Hardware Attested: false" in lines
    assert "TEE Type: Simulated TEE" in lines
    assert "Signature: Valid (SIMULATED root)" in lines


@pytest.mark.parametrize("command", ["show", "verify"])
def test_exit_codes_say_valid_not_valid_no_passport_and_not_checked(
    command: str, token: bytes, root: Path, tmp_path: Path
) -> None:
    allowed = ("--allow-simulated", "--simulated-root", str(root))
    late = (NOW + timedelta(days=1)).isoformat()
    assert ask(command, token, *allowed).exit_code == 0
    assert ask(command, token, *allowed, "--at", late).exit_code == 1
    assert ask(command, token, *allowed, "--nonce", "00" * 16).exit_code == 1
    assert ask(command, b"not a passport", *allowed).exit_code == 2
    assert ask(command, token).exit_code == 3
    assert ask(command, token, "--allow-simulated").exit_code == 2
    missing = CliRunner().invoke(passport, [command, str(tmp_path / "none")])
    assert missing.exit_code == 3


def test_json_has_six_separate_answers_with_every_check(token: bytes, root: Path) -> None:
    done = ask("show", token, "--allow-simulated", "--simulated-root", str(root), "--json")
    data = json.loads(done.output)
    assert data["hardware_attested"] is False
    assert list(data["answers"]) == [
        "genuine_hardware", "chain_and_tcb", "binding_and_freshness", "code_measured",
        "policy_enforced", "simulated",
    ]  # fmt: skip
    statuses = {c["status"] for answer in data["answers"].values() for c in answer["checks"]}
    assert statuses == {"passed", "skipped"}


def test_with_a_flipped_bit_it_never_says_attested_nor_exits_0(token: bytes, root: Path) -> None:
    chance = random.Random(7)
    for _ in range(150):
        bent = bytearray(token)
        bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
        done = ask("show", bytes(bent), "--allow-simulated", "--simulated-root", str(root))
        assert done.exit_code != 0
        assert "Hardware Attested: true" not in done.output


def test_text_of_a_passport_does_not_drive_the_terminal(
    simulated_vendor: SimulatedVendor, root: Path
) -> None:
    token = Maker(simulated_vendor).token(subject="\x1b[2Jx\nHardware Attested: true")
    done = ask("show", token, "--allow-simulated", "--simulated-root", str(root))
    assert "\x1b" not in done.output
    assert "Hardware Attested: true" not in done.output.splitlines()


def test_a_hardware_policy_refuses_what_it_does_not_allow(
    token: bytes, root: Path, tmp_path: Path
) -> None:
    allowed = ("--allow-simulated", "--simulated-root", str(root))
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    done = ask("verify", token, *allowed, "--hardware-policy", str(policy), "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == 0
    assert answer["tcb_status"] == "appraised"
    policy.write_text('chip_ids = ["' + "ab" * 64 + '"]')
    done = ask("verify", token, *allowed, "--hardware-policy", str(policy), "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == 1
    assert answer["error"]["code"] == "snp.chip_id.allowed"
    assert answer["answers"]["chain_and_tcb"]["status"] == "failed"
    assert answer["tcb_status"] == "not_appraised"
    policy.write_text("nonsense")
    assert ask("verify", token, *allowed, "--hardware-policy", str(policy)).exit_code == 2
    policy.write_text("require_crl = true")
    assert ask("verify", token, *allowed, "--hardware-policy", str(policy)).exit_code == 3


def test_what_nobody_demanded_of_the_hardware_is_listed(token: bytes, root: Path) -> None:
    done = ask("show", token, "--allow-simulated", "--simulated-root", str(root), "--json")
    checks = json.loads(done.stdout)["answers"]["chain_and_tcb"]["checks"]
    left = {check["name"] for check in checks if check["status"] == "skipped"}
    assert {"snp.crl.not_revoked", "snp.tcb.minimum_reported", "snp.guest.vmpl"} <= left
