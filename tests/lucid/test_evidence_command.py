"""`lucid evidence`: what it accepts and refuses, its exit codes, and its JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.abi import Report
from attestation.snp.appraise import demands
from lucid.evidence import evidence
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.synthetic import table_of

MILAN, DEBUG, VERSION_1 = "19ade1287746f6fb", "377e6241d3b373ab", "a6b23dd8d3b20170"
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="session")
def snp(vectors: Path) -> SnpVectors:
    return SnpVectors(vectors)


def run(*arguments: object, data: bytes | None = None) -> Result:
    return CliRunner().invoke(evidence, [str(item) for item in arguments], input=data)


def files(snp: SnpVectors, case: dict[str, Any]) -> list[object]:
    return [
        snp.folder / "reports" / f"{case['report']}.bin",
        "--endorsement-key",
        snp.folder / "certs" / f"{case['ek']}.der",
        *(x for h in (*case["ica"], *case["ark"]) for x in ("--chain", certificate(snp, h))),
    ]


def certificate(snp: SnpVectors, name: str) -> Path:
    return snp.folder / "certs" / f"{name}.der"


def verify(*arguments: object, data: bytes | None = None) -> tuple[int, dict[str, Any]]:
    done = run("verify", *arguments, "--json", data=data)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["accepted"] is (done.exit_code == 0)
    assert answer["tee_type"] == "sev-snp" or answer["error"]["code"] == "source"
    return done.exit_code, answer


def ended(answer: dict[str, Any], status: str) -> list[str]:
    return [check["id"] for check in answer["checks"] if check["status"] == status]


def test_every_real_case_is_accepted_in_its_window_and_refused_outside(snp: SnpVectors) -> None:
    for case in snp.cases:
        start = datetime.fromisoformat(case["valid_from"])
        end = datetime.fromisoformat(case["valid_to"])
        common = [*files(snp, case), "--signature-only"]
        for now in (start, end):
            code, answer = verify(*common, "--at", now.isoformat())
            assert code == 0, answer["error"]
            assert answer["product_line"] == case["product_ext"].split("-")[0]
            assert set(demands()) <= set(ended(answer, "skipped"))
            assert "NOT APPRAISED" in answer["marks"][0]
        for now in (start - SECOND, end + SECOND):
            code, answer = verify(*common, "--at", now.isoformat())
            assert code == 1
            assert ended(answer, "failed") == ["snp.chain.validity"]


def test_a_good_report_is_accepted_by_the_default_policy(snp: SnpVectors) -> None:
    case = snp.case(MILAN)
    code, answer = verify(*files(snp, case), "--at", case["valid_from"])
    assert code == 0
    assert "snp.tcb.sb_3019" in ended(answer, "passed")
    assert answer["fields"]["reported_tcb"] == {
        "bootloader": 4,
        "tee": 0,
        "snp": 24,
        "microcode": 219,
    }
    done = run("verify", *files(snp, case), "--at", case["valid_from"])
    assert done.stdout.splitlines()[-1] == "accepted: SEV-SNP on Milan"


def test_debug_is_refused_by_default_and_accepted_where_the_policy_allows_it(
    snp: SnpVectors, tmp_path: Path
) -> None:
    case = snp.case(DEBUG)
    common = [*files(snp, case), "--at", case["valid_from"]]
    code, answer = verify(*common)
    assert code == 1
    assert "snp.guest.no_debug" in ended(answer, "failed")
    policy = tmp_path / "policy.toml"
    policy.write_text("sb_3019 = false\nallow_provisional_firmware = true\n")
    assert ended(verify(*common, "--policy", policy)[1], "failed") == ["snp.guest.no_debug"]
    policy.write_text(policy.read_text() + "[guest]\nallow_debug = true\n")
    assert verify(*common, "--policy", policy)[0] == 0


def test_version_1_and_certificates_that_amd_did_not_sign_are_refused(snp: SnpVectors) -> None:
    report = snp.folder / "reports" / f"{VERSION_1}.bin"
    code, answer = verify(report)
    assert code == 2
    assert ended(answer, "failed") == ["snp.report.version"]
    case = snp.case(MILAN)
    for forged in ("cee96955153de19a", "f875ab6fb518d27b"):
        arguments = files(snp, case)
        arguments[2] = certificate(snp, forged)
        code, answer = verify(*arguments, "--at", case["valid_from"])
        assert code == {"cee96955153de19a": 1, "f875ab6fb518d27b": 2}[forged]
        wrong = {1: "snp.chain.signatures", 2: "snp.certs.extension"}[code]
        assert wrong in ended(answer, "failed")


def test_the_revoked_intermediate_is_named(snp: SnpVectors) -> None:
    case = next(c for c in snp.cases if c["product_ext"].startswith("Genoa"))
    arguments = files(snp, {**case, "ica": ["54467b96b8baf21d"]})
    crl = snp.folder / "crls" / "a3064b0a61d6beb1.crl"
    common = [*arguments, "--at", case["valid_from"], "--signature-only"]
    without = ended(verify(*common)[1], "failed")
    code, answer = verify(*common, "--crl", crl)
    assert code == 1
    assert ended(answer, "failed") == [*without, "snp.crl.not_revoked"]


def test_the_hosts_table_is_used_and_files_go_before_it(snp: SnpVectors) -> None:
    case = snp.case(MILAN)
    data = snp.report(MILAN) + table_of(**snp.certificates(case))
    assert verify("-", "--at", case["valid_from"], data=data)[0] == 0
    wrong = ("--endorsement-key", certificate(snp, "cee96955153de19a"))
    assert verify("-", "--at", case["valid_from"], *wrong, data=data)[0] == 1


def test_pem_files_with_the_whole_chain_are_read(snp: SnpVectors, tmp_path: Path) -> None:
    case = snp.case(MILAN)

    def pem(name: str) -> bytes:
        return x509.load_der_x509_certificate(snp.cert(name)).public_bytes(Encoding.PEM)

    chain, ek = tmp_path / "chain.pem", tmp_path / "ek.pem"
    chain.write_bytes(pem(case["ica"][0]) + pem(case["ark"][0]))
    ek.write_bytes(pem(case["ek"]))
    report = files(snp, case)[0]
    code, _ = verify(report, "--endorsement-key", ek, "--chain", chain, "--at", case["valid_from"])
    assert code == 0


def test_what_is_missing_is_not_refused_but_not_checked(snp: SnpVectors, tmp_path: Path) -> None:
    case = snp.case(MILAN)
    arguments = files(snp, case)
    for left in ([arguments[0]], arguments[:3], arguments[:5]):
        code, answer = verify(*left)
        assert code == 3
        assert answer["error"]["code"] == "snp.chain.missing"
        assert answer["error"]["remedy"]
    stale = ("--crl", snp.folder / "crls" / "05708666bc867e21.crl")
    code, answer = verify(*arguments, *stale, "--at", case["valid_from"])
    assert code == 3
    assert ended(answer, "failed") == []
    code, answer = verify(*arguments, "--crl", tmp_path / "none")
    assert code == 3
    assert verify(tmp_path / "none")[0] == 3


@pytest.mark.parametrize("option", ["--endorsement-key", "--chain", "--crl", "--policy"])
def test_files_that_are_something_else_are_malformed(
    snp: SnpVectors, tmp_path: Path, option: str
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\x00\xff something else")
    case = snp.case(MILAN)
    assert verify(*files(snp, case), option, other, "--at", case["valid_from"])[0] == 2


@pytest.mark.parametrize("data", [b"", b"x", bytes(1184), bytes(4096)])
def test_what_is_no_report_is_malformed(data: bytes) -> None:
    assert verify("-", data=data)[0] == 2
    assert run("show", "-", data=data).exit_code == 2


def test_other_report_data_are_refused(snp: SnpVectors) -> None:
    case = snp.case(MILAN)
    data = Report.parse(snp.report(MILAN)).report_data
    common = [*files(snp, case), "--at", case["valid_from"], "--report-data"]
    assert verify(*common, data.hex())[0] == 0
    code, answer = verify(*common, bytes(64).hex())
    assert code == 1
    assert ended(answer, "failed") == ["snp.report_data.matches"]
    assert run("verify", *common, "00").exit_code == 2


def test_options_that_exclude_each_other(snp: SnpVectors, tmp_path: Path) -> None:
    arguments = files(snp, snp.case(MILAN))
    policy = tmp_path / "p"
    assert run("verify", *arguments, "--policy", policy, "--signature-only").exit_code == 2
    assert run("verify", *arguments, "--allow-simulated").exit_code == 2


def test_show_says_that_nothing_is_verified(snp: SnpVectors) -> None:
    report = files(snp, snp.case(MILAN))[0]
    done = run("show", report)
    assert done.exit_code == 0
    assert "measurement: " in done.stdout
    assert "policy.debug: false" in done.stdout.splitlines()
    assert "{" not in done.stdout
    assert "Nothing of this is verified" in done.stderr
    answer = json.loads(run("show", report, "--json").stdout)
    assert answer["verified"] is False


def test_every_check_is_documented(snp: SnpVectors) -> None:
    case = snp.case(MILAN)
    _, answer = verify(*files(snp, case), "--at", case["valid_from"])
    text = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    documented = set(re.findall(r"^\| `(snp\.[a-z0-9_.]+)`(?: †)? \|", text, re.MULTILINE))
    assert {check["id"] for check in answer["checks"]} <= documented


def test_simulated_evidence_is_accepted_only_with_its_root_and_marked(
    simulated_vendor: SimulatedVendor, tmp_path: Path
) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(simulated_vendor.root_certificate_pem())
    data = simulated_vendor.sign_report(bytes(64)) + simulated_vendor.certificate_table()
    code, answer = verify("-", data=data)
    assert code == 1
    assert "snp.chain.product_line" in ended(answer, "failed")
    code, answer = verify("-", "--allow-simulated", "--simulated-root", root, data=data)
    assert code == 0
    assert "SIMULATED" in answer["marks"][0]
