"""What people give by mistake is named: the file, what it is, and what to do."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.simulated.report import SIMULATED_MEASUREMENT
from attestation.simulated.vendor import SimulatedVendor
from lucid.cli import main
from lucid.guess import guess
from tests.attestation.passports import NOW, Maker
from tests.attestation.snp.conftest import SnpVectors

GENOA = "227a641db25e82ae"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def report(simulated_vendor: SimulatedVendor) -> bytes:
    return simulated_vendor.sign_report(bytes(64))


@pytest.fixture
def snp(vectors: Path) -> SnpVectors:
    return SnpVectors(vectors)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "an empty file"),
        ("hex", "`xxd -r -p`"),
        ("0x hex in lines", "`xxd -r -p`"),
        ("base64", "`base64 -d`"),
        ("pem", "PEM (certificate)"),
        ("der", "DER, as certificates"),
        ("json", "JSON"),
        ("passport", "`lucid passport`"),
    ],
)
@pytest.mark.parametrize("command", [("evidence", "show"), ("evidence", "verify")])
def test_what_is_no_evidence_is_said_to_be_what_it_is(
    tmp_path: Path,
    simulated_vendor: SimulatedVendor,
    report: bytes,
    *,
    kind: str,
    said: str,
    command: tuple[str, ...],
) -> None:
    lines = "\n".join(report.hex()[n : n + 64] for n in range(0, len(report) * 2, 64))
    content = {
        "empty": b"",
        "hex": report.hex().encode(),
        "0x hex in lines": f"0x{lines}\n".encode(),
        "base64": base64.b64encode(report),
        "pem": simulated_vendor.root_certificate_pem(),
        "der": simulated_vendor.root.public_bytes(Encoding.DER),
        "json": b'{"tcbInfo": {}}',
        "passport": b"\xd2\x84\x43\xa1\x01\x26",
    }[kind]
    file = tmp_path / "file"
    file.write_bytes(content)
    done = run(*command, file)
    assert done.exit_code in (2, 3)
    assert "neither a report nor a quote" in done.stderr
    assert said in done.stderr
    assert str(file) in done.stderr


def test_evidence_given_as_a_passport_is_said_to_be_that(tmp_path: Path, report: bytes) -> None:
    (tmp_path / "report").write_bytes(report)
    done = run("passport", "verify", tmp_path / "report")
    assert done.exit_code == 2
    assert "not a passport: this is an SEV-SNP report (`lucid evidence`)" in done.stderr
    (tmp_path / "report.hex").write_text(report.hex())
    assert "xxd" in run("passport", "verify", tmp_path / "report.hex").stderr


def test_what_is_evidence_and_broken_is_no_guess(tmp_path: Path, report: bytes) -> None:
    (tmp_path / "short").write_bytes(report[:1000])
    assert "1184 bytes, this has 1000" in run("evidence", "show", tmp_path / "short").stderr
    (tmp_path / "tail").write_bytes(report + b"what is this?")
    assert (
        "what follows the report is no certificate table"
        in run("evidence", "show", tmp_path / "tail").stderr
    )


def test_a_url_is_not_fetched_and_that_is_said() -> None:
    done = run("evidence", "verify", "https://example.org/report")
    assert done.exit_code == 3
    assert "nothing is fetched here" in done.stderr


@pytest.mark.parametrize("option", ["endorsement-key", "chain", "crl", "policy"])
def test_a_file_of_an_option_that_is_something_else_is_named(
    tmp_path: Path, report: bytes, option: str
) -> None:
    (tmp_path / "report").write_bytes(report)
    (tmp_path / "wrong").write_text('{"json": 1}')
    done = run("evidence", "verify", tmp_path / "report", f"--{option}", tmp_path / "wrong")
    assert done.exit_code == 2
    assert f"--{option} {tmp_path / 'wrong'}: " in done.stderr
    assert "(this is JSON)" in done.stderr
    assert "ParseError" not in done.output


@pytest.mark.parametrize("option", ["tcb-info", "qe-identity", "signing-chain", "pck-crl"])
def test_of_tdx_too(vectors: Path, tmp_path: Path, option: str) -> None:
    quote = vectors / "tdx" / "quotes" / "cbdb5b2f12b9a09b.bin"
    (tmp_path / "wrong").write_bytes(b"\x30\x82nonsense")
    done = run("evidence", "verify", quote, f"--{option}", tmp_path / "wrong")
    assert done.exit_code == 2
    assert f"--{option} {tmp_path / 'wrong'}: " in done.stderr
    done = run("evidence", "verify", quote)
    assert done.exit_code == 3
    for name in ("--tcb-info", "--signing-chain", "--collateral"):
        assert name in done.stderr


def test_certificates_that_do_not_fit_are_named(snp: SnpVectors, tmp_path: Path) -> None:
    case = snp.case(GENOA)
    milan = next(c for c in snp.cases if c["product_ext"].startswith("Milan"))
    file = snp.folder / "reports" / f"{GENOA}.bin"
    chain = tmp_path / "chain.pem"

    def verify(ek: str, *others: str) -> str:
        found = [x509.load_der_x509_certificate(snp.cert(name)) for name in others]
        chain.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in found))
        key = snp.folder / "certs" / f"{ek}.der"
        done = run("evidence", "verify", file, "--endorsement-key", key, "--chain", chain)
        assert done.exit_code == 3
        return done.stderr

    said = verify(case["ek"], milan["ica"][0], milan["ark"][0])
    assert "CN=SEV-Genoa" in said
    assert "CN=SEV-VCEK" in said
    assert "CN=ARK-Genoa" in verify(case["ek"], case["ica"][0])


def test_a_demand_that_is_not_met_says_where_demands_come_from(snp: SnpVectors) -> None:
    case = snp.case("a20e02a2e8198894")
    file = snp.folder / "reports" / "a20e02a2e8198894.bin"
    certs = [snp.folder / "certs" / f"{name}.der" for name in (case["ica"][0], case["ark"][0])]
    done = run(
        *("evidence", "verify", file, "--at", "2026-07-01T00:00:00Z"),
        *("--endorsement-key", snp.folder / "certs" / f"{case['ek']}.der"),
        *("--chain", certs[0], "--chain", certs[1]),
    )
    assert done.exit_code == 1
    assert "snp.tcb.sb_3019" in done.stderr
    assert "docs/checks.md says how (--policy)" in done.stderr


def test_bytes_that_look_like_nothing_are_not_guessed_at(report: bytes) -> None:
    assert guess(bytes(range(128, 256))) == ""
    assert guess(report[:100]) == ""
    assert guess(b"the quick brown fox jumps over the lazy dog") == ""
    assert "SEV-SNP" in guess(report)


@given(st.binary(max_size=5000) | st.text(" \nA=", max_size=5000).map(str.encode))
def test_a_guess_costs_nothing_whatever_the_bytes_are(data: bytes) -> None:
    began = time.perf_counter()
    guess(data)
    guess(b" " * 4090 + data)
    guess(b"A" * 4090 + data)
    assert time.perf_counter() - began < 1


# --- passports


@pytest.fixture
def passport(tmp_path: Path, simulated_vendor: SimulatedVendor) -> list[str | Path]:
    """A simulated one, and the options that it needs."""
    (tmp_path / "p.cwt").write_bytes(Maker(simulated_vendor).token())
    (tmp_path / "root.pem").write_bytes(simulated_vendor.root_certificate_pem())
    return [tmp_path / "p.cwt", "--allow-simulated", "--simulated-root", tmp_path / "root.pem"]


@pytest.mark.parametrize("option", ["hardware-policy", "crl"])
def test_of_passports_too(passport: list[str | Path], tmp_path: Path, option: str) -> None:
    (tmp_path / "wrong").write_text('{"json": 1}')
    done = run("passport", "verify", *passport, f"--{option}", tmp_path / "wrong")
    assert done.exit_code == 2
    assert f"--{option} {tmp_path / 'wrong'}: " in done.stderr
    assert "(this is JSON)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "2044-01-01T00:00:00Z"], "it is 2044-01-01 00:00:00 UTC"),
        (["--nonce", "0011223344556677"], "answers no nonce: it is the one that all get"),
        (["--audience", "bank"], "names no audience"),
        (["--measurement", "00" * 48], f"than expected: {SIMULATED_MEASUREMENT.hex()}"),
        (["--bundle-digest", "00" * 32], "than expected: "),
    ],
)
def test_what_does_not_hold_says_what_was_found(
    passport: list[str | Path], arguments: list[str], said: str
) -> None:
    done = run("passport", "verify", *passport, "--at", str(int(NOW.timestamp())), *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
