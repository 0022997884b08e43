"""`lucid-agent init`: what it writes is usable as it is, and nothing of yours is lost."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.attesting.platform import find_platform
from agent.cli import main
from agent.config import Config, load_config
from attestation.simulated.vendor import SimulatedVendor
from tests.processes import BUNDLE

FORMS = [[], ["--service"], ["--no-key"], ["--service", "--no-key"]]


@pytest.fixture(autouse=True)
def no_new_keys(monkeypatch: pytest.MonkeyPatch, simulated_vendor: SimulatedVendor) -> None:
    """Whoever makes a vendor gets the one that there is: its keys cost a second each time."""
    monkeypatch.setattr(SimulatedVendor, "create", lambda *, now: simulated_vendor)  # noqa: ARG005


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("form", FORMS)
def test_what_it_writes_passes_check_config(tmp_path: Path, form: list[str]) -> None:
    done = run("init", tmp_path / "new", *form)
    assert done.exit_code == 0, done.output
    checked = run("check-config", "--config", tmp_path / "new" / "agent.toml")
    assert checked.exit_code == 0, checked.output
    assert names(tmp_path / "new" / "bundle") == names(BUNDLE)


def test_the_key_is_shown_and_only_its_digest_kept(tmp_path: Path) -> None:
    shown = re.search(r"^  (lk-\S+)$", run("init", tmp_path / "new").output, re.MULTILINE)
    assert shown
    text = (tmp_path / "new" / "agent.toml").read_text()
    assert shown[1] not in text
    config = load_config(tmp_path / "new" / "agent.toml", {})
    assert not config.identity.anonymous
    assert [key.sha256 for key in config.identity.keys] == [
        hashlib.sha256(shown[1].encode()).hexdigest()
    ]
    assert shown[1] not in run("init", tmp_path / "other").output


def test_for_the_service_it_is_what_the_unit_files_expect(tmp_path: Path) -> None:
    run("init", tmp_path / "new", "--service")
    config = load_config(tmp_path / "new" / "agent.toml", {})
    assert config.tee.mode == "auto"
    assert config.agent.state_dir == "/var/lib/lucid"
    assert config.api.socket == "/run/lucid/agent.sock"
    socket = Path(__file__).parents[2] / "systemd" / "lucid-agent-quote.socket"
    assert f"ListenStream={config.tee.helper}\n" in socket.read_text()


def test_elsewhere_all_of_it_is_in_the_directory(tmp_path: Path) -> None:
    run("init", tmp_path / "new")
    config = load_config(tmp_path / "new" / "agent.toml", {})
    assert config.tee.mode == "simulated"
    for place in (config.agent.state_dir, config.api.socket, config.policy.bundle):
        assert Path(place).is_relative_to(tmp_path / "new")


def test_the_simulated_tee_is_made_as_well_so_that_the_first_start_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("init", tmp_path / "new").output
    assert "prove nothing" in said
    config = load_config(tmp_path / "new" / "agent.toml", {})
    monkeypatch.setattr(SimulatedVendor, "create", None)
    find_platform(config, now=datetime.now(UTC))


def test_hardware_needs_none(tmp_path: Path) -> None:
    run("init", tmp_path / "new", "--service")
    assert not [name for name in names(tmp_path) if "simulated" in name or "state" in name]


def test_where_no_simulated_tee_can_be_made_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a directory")
    done = run("init", tmp_path)
    assert done.exit_code == 4
    assert str(tmp_path / "state") in done.output


@pytest.mark.parametrize("name", ["agent.toml", "bundle"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    done = run("init", tmp_path)
    assert done.exit_code == 2
    assert name in done.output
    assert names(tmp_path) == {name}
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_to_nowhere_is_something_too(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").symlink_to(tmp_path / "elsewhere")
    assert run("init", tmp_path).exit_code == 2
    assert names(tmp_path) == {"agent.toml"}


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    said = run("init", tmp_path / "new").output
    for words in ("check-config", "lucid-agent run --config", "status --socket", "curl -H"):
        assert words in said
    assert "systemctl" in run("init", tmp_path / "other", "--service").output


def test_the_comments_tell_the_true_defaults(tmp_path: Path) -> None:
    run("init", tmp_path / "new", "--service", "--no-key")
    text = (tmp_path / "new" / "agent.toml").read_text()
    defaults = Config()
    for table, key, value in [
        ("agent", "log_level", "info"),
        ("agent", "stop_seconds", 20.0),
        ("passport", "lifetime_seconds", 900),
        ("journal", "on_failure", "deny"),
        ("journal", "max_bytes", 10737418240),
        ("journal", "keep_days", 30),
    ]:
        assert getattr(getattr(defaults, table), key) == value
        assert re.search(rf"^# {key} = \"?{value}\"?\s", text + "\n", re.MULTILINE), key
