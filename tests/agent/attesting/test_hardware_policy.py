"""An agent whose operator said what the platform has to be serves on no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from agent.attesting.attester import Complete
from agent.attesting.endorsing import endorsing
from agent.attesting.hardware_policy import MAX_SIZE, hardware_policies
from agent.attesting.platform import TeePlatform
from agent.cli import main
from agent.config import TeeTable, load_config
from agent.errors import ExitCode, FatalError
from agent.life.lifecycle import State
from attestation.anchors import TrustAnchors
from attestation.checks import CheckStatus
from attestation.errors import UncheckableError
from attestation.evidence import Completed, Format
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.crl import CHECK as CRL_CHECK
from attestation.snp.policy import SnpPolicy
from attestation.snp.product import ProductLine
from attestation.snp.table import CertTable, TableEntry
from attestation.tsm import Quote
from attestation.verifier import verify_passport
from tests.agent.daemons import daemon_inside
from tests.attestation.snp.test_crl import make_crl
from tests.processes import BUNDLE, AgentProcess

OTHER_CHIP = f'chip_ids = ["{"ab" * 64}"]'


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "hardware.toml"


def table(policy: Path, mode: str = "auto") -> TeeTable:
    return TeeTable(mode=mode, hardware_policy=str(policy))  # type: ignore[arg-type]


def test_no_file_demands_nothing() -> None:
    assert hardware_policies(TeeTable()) is None


def test_a_file_is_read_for_the_kinds_that_the_mode_allows(policy: Path) -> None:
    policy.write_text("")
    assert set(hardware_policies(table(policy)) or ()) == {"sev-snp", "tdx"}
    assert set(hardware_policies(table(policy, "tdx")) or ()) == {"tdx"}
    assert set(hardware_policies(table(policy, "simulated")) or ()) == {"sev-snp"}
    policy.write_text(OTHER_CHIP)
    assert set(hardware_policies(table(policy)) or ()) == {"sev-snp"}


@pytest.mark.parametrize(
    "text", ["nonsense", "chip_ids = 1", "unknown = true", "\x00", "[" * 10_000]
)
def test_a_file_that_is_no_policy_ends_the_start(policy: Path, text: str) -> None:
    policy.write_text(text)
    with pytest.raises(FatalError, match="hardware_policy") as caught:
        hardware_policies(table(policy))
    assert caught.value.code is ExitCode.USAGE
    assert caught.value.remedy


def test_a_policy_for_other_hardware_than_the_modes_ends_the_start(policy: Path) -> None:
    policy.write_text(OTHER_CHIP)
    with pytest.raises(FatalError, match="for tdx"):
        hardware_policies(table(policy, "tdx"))


def test_a_file_that_is_not_there_or_too_large_ends_the_start(policy: Path) -> None:
    with pytest.raises(FatalError, match="No such file"):
        hardware_policies(table(policy))
    policy.write_bytes(b"#" * (MAX_SIZE + 1))
    with pytest.raises(FatalError, match="more than"):
        hardware_policies(table(policy))


async def test_a_platform_that_meets_it_serves_and_policies_see_that(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    policy.write_text("")
    tee = f'hardware_policy = "{policy}"'
    async with daemon_inside(tmp_path, simulated_state, monkeypatch, tee=tee) as inside:
        await inside.until(lambda: inside.daemon.parts.renewal.valid)
        assert inside.daemon.parts.in_force.current().platform.tcb_status == "appraised"


@pytest.mark.parametrize(
    ("text", "said"),
    [(OTHER_CHIP, "snp.chip_id.allowed"), ("minimum_guest_svn = 9", "snp.guest.minimum_svn")],
)
async def test_one_that_does_not_meet_it_gets_no_passport_and_serves_nobody(
    tmp_path: Path,
    simulated_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    policy: Path,
    text: str,
    said: str,
) -> None:
    policy.write_text(text)
    tee = f'hardware_policy = "{policy}"'
    async with daemon_inside(tmp_path, simulated_state, monkeypatch, tee=tee) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.failures.get((said,), 0) > 1)
        assert daemon.parts.lifecycle.look().state is State.ATTESTING
        assert daemon.parts.renewal.current is None
        assert (await inside.chat())[0] == 503
        assert said in str(inside.api("/v1/status"))


# --- revocation lists


def no_quote(report_data: bytes, **_rest: object) -> Quote:
    raise AssertionError(f"nobody asks for a quote over {report_data.hex()}")


def completing(
    vendor: SimulatedVendor, crl: Callable[[datetime], bytes] | None, unlisted: str = ""
) -> Complete:
    """The host's table, and this list with it."""

    async def complete(kind: Format, quote: bytes, supplied: bytes) -> Completed:
        del kind, quote
        await trio.lowlevel.checkpoint()
        contents = dict(CertTable.parse(vendor.certificate_table()).contents)
        if crl is not None:
            contents[TableEntry.CRL] = crl(datetime.now(UTC))
        del supplied
        return Completed(certificates=CertTable(contents).encode(), unlisted=unlisted)

    return complete


async def test_a_fresh_list_meets_require_crl_and_goes_to_relying_parties_with_the_passport(
    tmp_path: Path,
    simulated_state: Path,
    simulated_vendor: SimulatedVendor,
    monkeypatch: pytest.MonkeyPatch,
    policy: Path,
) -> None:
    policy.write_text("require_crl = true")
    tee = f'hardware_policy = "{policy}"'
    async with daemon_inside(tmp_path, simulated_state, monkeypatch, tee=tee) as inside:
        await inside.until(lambda: inside.daemon.parts.renewal.valid)
        issued = inside.daemon.parts.renewal.current
        assert issued is not None
        assert issued.revocation.status is CheckStatus.PASSED
        assert '"status": "passed"' in json.dumps(inside.api("/v1/status"))
        now = datetime.now(UTC)
        appraisal = verify_passport(
            issued.token,
            now=now,
            anchors=TrustAnchors.builtin().with_simulated_root(
                simulated_vendor.root_certificate_pem()
            ),
            allow_simulated=True,
            hardware_policy=SnpPolicy(require_crl=True),
        )
        assert appraisal.tcb_status == "appraised"
        assert issued.collateral_ends < now + timedelta(days=31), "the list is part of it"
        assert issued.list_window == (issued.collateral_begins, issued.collateral_ends)
        assert issued.collateral_begins > now - timedelta(days=3)


@pytest.mark.parametrize("kind", ["missing", "stale", "forged", "other product", "revoking"])
async def test_no_passport_comes_where_require_crl_is_not_met(
    tmp_path: Path,
    simulated_state: Path,
    simulated_vendor: SimulatedVendor,
    monkeypatch: pytest.MonkeyPatch,
    *,
    policy: Path,
    kind: str,
) -> None:
    vendor, day = simulated_vendor, timedelta(days=1)
    crl, code = {
        "missing": (None, "snp.crl.required"),
        "stale": (lambda now: vendor.crl(now - 60 * day), "snp.crl.required"),
        "forged": (lambda now: make_crl(vendor.intermediate_key, issued=now), CRL_CHECK),
        "other product": (
            lambda now: make_crl(vendor.root_key, issued=now, line=ProductLine.MILAN),
            "snp.crl.required",
        ),
        "revoking": (lambda now: vendor.crl(now, [vendor.intermediate.serial_number]), CRL_CHECK),
    }[kind]
    policy.write_text("require_crl = true")
    tee = f'hardware_policy = "{policy}"'
    async with daemon_inside(tmp_path, simulated_state, monkeypatch, tee=tee) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        before = daemon.parts.renewal.current
        daemon.parts.attester.complete = completing(vendor, crl)
        daemon.parts.renewal.renew_now("test")
        await inside.until(lambda: daemon.parts.renewal.failures.get((code,), 0) > 0)
        assert daemon.parts.renewal.current is before, "the one that was there stays to its end"
        assert code in json.dumps(inside.api("/v1/status"))


async def test_without_a_way_to_a_list_and_without_require_crl_it_goes_on_and_says_so(
    tmp_path: Path,
    simulated_state: Path,
    simulated_vendor: SimulatedVendor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        assert "lucid_revocation_checked 1" in inside.api("/metrics")[1]
        daemon.parts.attester.complete = completing(simulated_vendor, None, "nobody asks for one")
        before = daemon.parts.renewal.renewals
        daemon.parts.renewal.renew_now("test")
        await inside.until(lambda: daemon.parts.renewal.renewals > before)
        assert inside.api("/v1/status")[1]["passport"]["revocation"] == {
            "check": CRL_CHECK,
            "status": "skipped",
            "detail": "no revocation list came with the report, and none was given:"
            " nobody asks for one",
        }
        text = inside.api("/metrics")[1]
        assert "lucid_revocation_checked 0" in text
        assert "lucid_revocation_list" not in text


async def test_a_passport_ends_with_the_list_only_where_the_list_is_demanded(
    tmp_path: Path,
    simulated_state: Path,
    simulated_vendor: SimulatedVendor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        issued = daemon.parts.renewal.current
        assert issued is not None
        assert issued.list_window is not None
        ends = issued.list_window[1]
        text = inside.api("/metrics")[1]
        assert "lucid_revocation_list_age_seconds" in text
        assert "lucid_revocation_list_time_left_seconds" in text
        daemon.parts.attester.complete = completing(
            simulated_vendor, lambda _now: simulated_vendor.crl(ends - timedelta(days=30))
        )
        for demands, left in ((False, 5), (False, -5), (True, 5), (True, -5)):
            daemon.parts.attester.hardware_policies = {"sev-snp": SnpPolicy(require_crl=demands)}
            now = int((ends - timedelta(seconds=left)).timestamp() * 1e9)
            daemon.parts.attester._wall = lambda now=now: now  # type: ignore[misc]
            stated = daemon.parts.in_force.stated(daemon.parts.in_force.current().bundle)
            if demands and left < 0:
                with pytest.raises(UncheckableError, match="no longer good"):
                    await daemon.parts.attester.issue(stated)
                continue
            made = await daemon.parts.attester.issue(stated)
            assert made.cut_short is demands
            assert made.collateral_ends == ends if demands else made.collateral_ends > ends


async def test_on_hardware_without_kds_what_the_host_supplied_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    made = AgentProcess(tmp_path, "http://127.0.0.1:9", bundle=BUNDLE)
    platform = TeePlatform(fetch=no_quote, anchors=TrustAnchors.builtin(), wanted=None)
    async with endorsing(load_config(made.config, {}), platform, None) as complete:
        completed = await complete("sev-snp", b"report", b"table")
    assert completed.certificates == b"table"
    assert "[kds]" in completed.unlisted


def test_check_config_says_it_before_a_start(tmp_path: Path, policy: Path) -> None:
    CliRunner().invoke(main, ["init", str(tmp_path / "new"), "--service"])
    config = tmp_path / "new" / "agent.toml"
    text = config.read_text()
    config.write_text(text.replace("[tee]\n", f'[tee]\nhardware_policy = "{policy}"\n', 1))
    done = CliRunner().invoke(main, ["check-config", "--config", str(config)])
    assert done.exit_code == 2
    assert str(policy) in done.output
    policy.write_text(OTHER_CHIP)
    done = CliRunner().invoke(main, ["check-config", "--config", str(config)])
    assert done.exit_code == 0
    assert "hardware policy: for sev-snp" in done.output
    assert "revocation list" not in done.output
    policy.write_text("require_crl = true")
    done = CliRunner().invoke(main, ["check-config", "--config", str(config)])
    assert done.exit_code == 0
    assert "[kds] fetch or offline" in done.output
    config.write_text(
        config.read_text().replace(
            "# fetch = true              # ask AMD", "fetch = true # ask AMD"
        )
    )
    done = CliRunner().invoke(main, ["check-config", "--config", str(config)])
    assert "revocation list" not in done.output
