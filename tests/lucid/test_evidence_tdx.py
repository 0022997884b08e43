"""`lucid evidence` with TDX quotes: what it accepts and refuses, its exit codes, and its JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.simulated.tdx import SimulatedIntel
from attestation.tdx.abi import Quote
from attestation.tdx.appraise import demands
from lucid.evidence import evidence
from tests.attestation.tdx.conftest import TdxVectors
from tests.attestation.tdx.test_event_log import REAL, RTMR, log

SECOND = timedelta(seconds=1)
GOOD, TD_15, UNSUPPORTED = "cbdb5b2f12b9a09b", "cf77a6e91e48291d", "434d108b23c65653"


@pytest.fixture(scope="session")
def tdx(vectors: Path) -> TdxVectors:
    return TdxVectors(vectors)


def run(*arguments: object, data: bytes | None = None) -> Result:
    return CliRunner().invoke(evidence, [str(item) for item in arguments], input=data)


def verify(*arguments: object, data: bytes | None = None) -> tuple[int, dict[str, Any]]:
    done = run("verify", *arguments, "--json", data=data)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["accepted"] is (done.exit_code == 0)
    assert answer["tee_type"] == "tdx"
    return done.exit_code, answer


def ended(answer: dict[str, Any], status: str) -> list[str]:
    return [check["id"] for check in answer["checks"] if check["status"] == status]


def case_of(tdx: TdxVectors, quote: str) -> dict[str, Any]:
    return next(case for case in tdx.cases if case["quote"] == quote)


def quote_file(tdx: TdxVectors, case: dict[str, Any]) -> Path:
    return tdx.folder / "quotes" / f"{case['quote']}.bin"


def at(case: dict[str, Any]) -> tuple[str, str]:
    return "--at", str(case["time"])


def single(files: dict[str, bytes], folder: Path) -> list[object]:
    """Options for what Intel publishes, each in its own file."""
    options: list[object] = []
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        options += [f"--{name.replace('_', '-')}", path]
    return options


def whole(tdx: TdxVectors, case: dict[str, Any], folder: Path) -> Path:
    """The same as one file, as others of the field keep it."""
    files = tdx.files(case)
    info, identity = (json.loads(files[name]) for name in ("tcb_info", "qe_identity"))
    chain = files["signing_chain"].decode()
    value = {
        "pck_crl_issuer_chain": "",
        "root_ca_crl": files["root_crl"].hex(),
        "pck_crl": files["pck_crl"].hex(),
        "tcb_info_issuer_chain": chain,
        "tcb_info": json.dumps(info["tcbInfo"], separators=(",", ":")),
        "tcb_info_signature": info["signature"],
        "qe_identity_issuer_chain": chain,
        "qe_identity": json.dumps(identity["enclaveIdentity"], separators=(",", ":")),
        "qe_identity_signature": identity["signature"],
    }
    path = folder / "collateral.json"
    path.write_text(json.dumps(value))
    return path


def test_every_case_ends_as_intels_algorithm_says(tdx: TdxVectors, tmp_path: Path) -> None:
    for case in tdx.cases:
        options = single(tdx.files(case), tmp_path)
        code, answer = verify(quote_file(tdx, case), *options, *at(case), "--signature-only")
        wanted = case["intel_algo"]
        if wanted["status"] == "NotSupported":
            assert code == 1
            assert ended(answer, "failed") == ["tdx.tcb.level"]
            assert answer["tcb_status"] is answer["tcb_date"] is answer["advisories"] is None
            continue
        assert code == 0, answer["error"]
        assert answer["tcb_status"] == wanted["status"]
        assert answer["advisories"] == sorted(set(wanted["adv"]))
        assert datetime.fromisoformat(answer["tcb_date"]) == datetime.fromisoformat(
            wanted["tcbDate"]
        )
        assert "NOT APPRAISED" in answer["marks"][0]
        assert set(demands()) <= set(ended(answer, "skipped"))


def test_one_file_with_everything_does_what_five_do(tdx: TdxVectors, tmp_path: Path) -> None:
    for name in (GOOD, TD_15):
        case = case_of(tdx, name)
        five = single(tdx.files(case), tmp_path)
        one = ("--collateral", whole(tdx, case, tmp_path))
        answers = [verify(quote_file(tdx, case), *given, *at(case)) for given in (five, one)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 0, answers[0][1]["error"]


def test_the_default_policy_wants_a_platform_that_is_up_to_date(
    tdx: TdxVectors, tmp_path: Path
) -> None:
    case = next(case for case in tdx.cases if case["intel_algo"]["status"] == "OutOfDate")
    common = (quote_file(tdx, case), *single(tdx.files(case), tmp_path), *at(case))
    code, answer = verify(*common)
    assert code == 1
    assert "tdx.tcb.status" in ended(answer, "failed")
    assert answer["tcb_status"] == "OutOfDate"  # the documents are genuine: it may be told
    policy = tmp_path / "policy.toml"
    policy.write_text('statuses = ["UpToDate", "OutOfDate"]\n[td]\nrequire_sept_ve_disable = false')
    code, answer = verify(*common, "--policy", policy)
    assert code == 0, answer["error"]


def test_the_documents_hold_in_their_window_and_not_a_second_longer(
    tdx: TdxVectors, tmp_path: Path
) -> None:
    case = case_of(tdx, GOOD)
    common = (quote_file(tdx, case), *single(tdx.files(case), tmp_path))
    start = max(moment_ for moment_, _ in tdx.of(case).windows())
    end = min(moment_ for _, moment_ in tdx.of(case).windows())
    for now in (start, end):
        code, answer = verify(*common, "--at", now.isoformat())
        assert code == 0, answer["error"]
    for now in (start - SECOND, end + SECOND):
        assert verify(*common, "--at", now.isoformat())[0] == 1
    assert verify(*common)[0] == 1  # by today's clock


def test_without_any_of_intels_files_a_quote_is_not_checked_and_not_refused(
    tdx: TdxVectors, tmp_path: Path
) -> None:
    case = case_of(tdx, GOOD)
    files = tdx.files(case)
    for name in files:
        left = single({key: data for key, data in files.items() if key != name}, tmp_path)
        code, answer = verify(quote_file(tdx, case), *left, *at(case))
        assert code == 3, name
        assert ended(answer, "failed") == []
        assert answer["error"]["remedy"]
    assert verify(quote_file(tdx, case), *at(case))[0] == 3
    assert verify(quote_file(tdx, case), "--tcb-info", tmp_path / "none")[0] == 3


def test_files_that_are_not_what_they_should_be_are_malformed(
    tdx: TdxVectors, tmp_path: Path
) -> None:
    case = case_of(tdx, GOOD)
    files = tdx.files(case)
    for name in files:
        code, answer = verify(
            quote_file(tdx, case), *single({**files, name: b"{}"}, tmp_path), *at(case)
        )
        assert code == 2, name
        assert answer["error"]["code"].startswith("tdx.")
    broken = tmp_path / "broken"
    broken.write_bytes(b"{}")
    assert verify(quote_file(tdx, case), "--collateral", broken, *at(case))[0] == 2
    broken.write_text("statuses = ['Fine']")
    code, answer = verify(quote_file(tdx, case), "--policy", broken, *at(case))
    assert code == 2
    assert "UpToDate" in answer["error"]["message"]


def test_the_report_data_are_compared(tdx: TdxVectors, tmp_path: Path) -> None:
    case = case_of(tdx, GOOD)
    common = (quote_file(tdx, case), *single(tdx.files(case), tmp_path), *at(case))
    data = Quote.parse(tdx.quote(GOOD)).report.report_data
    assert verify(*common, "--report-data", data.hex())[0] == 0
    code, answer = verify(*common, "--report-data", bytes(64).hex())
    assert code == 1
    assert ended(answer, "failed") == ["tdx.report_data.matches"]


def test_options_of_the_other_hardware_are_not_swallowed(tdx: TdxVectors, tmp_path: Path) -> None:
    case = case_of(tdx, GOOD)
    done = run("verify", quote_file(tdx, case), "--crl", tmp_path / "x", *at(case))
    assert done.exit_code == 2
    assert "--crl means nothing there" in done.stderr
    done = run(
        "verify", quote_file(tdx, case), "--collateral", tmp_path / "x", "--pck-crl", tmp_path / "y"
    )
    assert done.exit_code == 2
    assert "no single files" in done.stderr


def test_what_is_no_quote_or_not_understood_is_told_apart(tdx: TdxVectors) -> None:
    quote = tdx.quote(GOOD)
    code, answer = verify("-", data=quote[:500])
    assert code == 2
    assert answer["error"]["code"] == "tdx.quote.length"
    sgx = quote[:4] + bytes(4) + quote[8:]
    code, answer = verify("-", data=sgx)
    assert code == 3
    assert answer["error"]["code"] == "tdx.quote.unsupported"
    assert ended(answer, "failed") == []


def test_show_prints_every_field_and_says_that_nothing_is_verified(tdx: TdxVectors) -> None:
    for name in sorted({case["quote"] for case in tdx.cases}):
        data = tdx.quote(name)
        quote = Quote.parse(data)
        done = run("show", "-", "--json", data=data)
        assert done.exit_code == 0
        answer = json.loads(done.stdout)
        assert answer["verified"] is False
        assert answer["fields"]["mrtd"] == quote.report.mrtd.hex()
        assert answer["fields"]["rtmr3"] == quote.report.rtmr[3].hex()
        assert answer["certificates"] == 3
        assert len(answer["fields"]["pck"]["fmspc"]) == 12
    done = run("show", "-", data=tdx.quote(GOOD))
    assert "mrseam: " in done.stdout
    assert "Nothing of this is verified" in done.stderr


def test_text_output_lists_checks_and_the_status(tdx: TdxVectors, tmp_path: Path) -> None:
    case = case_of(tdx, GOOD)
    options = single(tdx.files(case), tmp_path)
    done = run("verify", quote_file(tdx, case), *options, *at(case))
    assert done.exit_code == 0
    assert "passed  tdx.tcb.level: UpToDate since" in done.stdout
    assert done.stdout.endswith("accepted: TDX, UpToDate\n")
    done = run("verify", quote_file(tdx, case), *options)
    assert done.exit_code == 1
    assert "refused: " in done.stderr


def test_every_check_is_documented(tdx: TdxVectors, tmp_path: Path) -> None:
    case = case_of(tdx, TD_15)
    _, answer = verify(quote_file(tdx, case), *single(tdx.files(case), tmp_path), *at(case))
    text = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    cells = re.findall(r"^\| (`tdx\.[^|]*)\|", text, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    every = {check["id"] for check in answer["checks"]} | {"tdx.log.format"}
    assert every | {f"tdx.log.rtmr{number}" for number in range(4)} == documented


def test_a_simulated_quote_is_accepted_only_by_who_asks_for_it(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    vendor = SimulatedIntel.create(now=now)
    quote, root, collateral = tmp_path / "quote", tmp_path / "root.pem", tmp_path / "collateral"
    quote.write_bytes(vendor.quote(bytes(64)))
    root.write_bytes(vendor.root.public_bytes(Encoding.PEM))
    collateral.write_bytes(vendor.collateral(now))
    common = (quote, "--collateral", collateral)
    code, answer = verify(*common, "--allow-simulated", "--simulated-root", root)
    assert code == 0, answer["error"]
    assert "SIMULATED" in answer["marks"][0]
    code, answer = verify(*common)
    assert code == 1
    assert "tdx.chain.root_pinned" in ended(answer, "failed")
    other = SimulatedIntel.create(now=now)
    root.write_bytes(other.root.public_bytes(Encoding.PEM))
    assert verify(*common, "--allow-simulated", "--simulated-root", root)[0] == 1


def test_an_event_log_has_to_explain_the_registers(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    vendor = SimulatedIntel.create(now=now)
    quote, root, collateral = tmp_path / "quote", tmp_path / "root.pem", tmp_path / "collateral"
    quote.write_bytes(vendor.quote(bytes(64), rtmr=RTMR))
    root.write_bytes(vendor.root.public_bytes(Encoding.PEM))
    collateral.write_bytes(vendor.collateral(now))
    file = tmp_path / "CCEL"
    simulated = ("--allow-simulated", "--simulated-root", root)
    common = (quote, "--collateral", collateral, *simulated, "--event-log", file)
    file.write_bytes(log(REAL))
    code, answer = verify(*common)
    assert code == 0, answer["error"]
    assert {f"tdx.log.rtmr{number}" for number in range(4)} <= set(ended(answer, "passed"))
    file.write_bytes(log(REAL[1:]))
    code, answer = verify(*common)
    assert code == 1
    assert ended(answer, "failed") == ["tdx.log.rtmr0"]
    file.write_bytes(b"")
    code, answer = verify(*common)
    assert code == 1
    assert ended(answer, "failed") == ["tdx.log.format"]


def test_intels_own_root_as_simulated_does_not_make_a_real_quote_simulated(
    tdx: TdxVectors, tmp_path: Path
) -> None:
    case = case_of(tdx, GOOD)
    root = tmp_path / "root.pem"
    root.write_bytes(tdx.pem("44a0196b2b99f889"))
    code, answer = verify(
        quote_file(tdx, case),
        *single(tdx.files(case), tmp_path),
        *at(case),
        "--allow-simulated",
        "--simulated-root",
        root,
    )
    assert code == 1
    assert "tdx.chain.names" in ended(answer, "failed")  # a simulated vendor has other names
