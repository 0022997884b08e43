"""Commands that cannot do what was asked: for people on standard error, for scripts as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.commands import common

BROKEN = "[gateway]\nlisen = '127.0.0.1:1'\n"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["check-config", "--config", "agent.toml"], 2, "gateway.lisen"),
        (["check-config", "--config", "none.toml"], 2, "No such file"),
        (["status", "--socket", "none.sock"], 3, "no agent answers on none.sock: No such file"),
    ],
)
def test_with_json_an_error_is_json_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agent.toml").write_text(BROKEN, encoding="utf-8")
    done = CliRunner().invoke(main, [*words, "--json"])
    assert (done.exit_code, done.stderr) == (code, "")
    said = json.loads(done.stdout)
    assert said["ok"] is False
    assert error in said["error"]
    plain = CliRunner().invoke(main, words)
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert said["error"] in plain.stderr


def test_without_any_configuration_it_is_said_how_to_come_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "DEFAULT_CONFIG", tmp_path / "agent.toml")
    done = CliRunner().invoke(main, ["check-config"])
    assert done.exit_code == 2
    for words in ("no configuration file was named", "lucid-agent init", "nobody could ask"):
        assert words in done.stderr
