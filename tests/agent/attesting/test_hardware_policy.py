"""An agent whose operator said what the platform has to be serves on no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.attesting.hardware_policy import MAX_SIZE, hardware_policies
from agent.cli import main
from agent.config import TeeTable
from agent.errors import ExitCode, FatalError
from agent.life.lifecycle import State
from tests.agent.daemons import daemon_inside

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
    [(OTHER_CHIP, "snp.chip_id.allowed"), ("require_crl = true", "snp.crl.required")],
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
