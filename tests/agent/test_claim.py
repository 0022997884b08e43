"""One agent has a state directory; whoever comes second is told who."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.claim import NAME, Claim
from agent.errors import ExitCode, FatalError


def refused(path: Path) -> str:
    with pytest.raises(FatalError) as caught:
        Claim.on(path, agent_id="second")
    assert caught.value.code is ExitCode.STATE
    return str(caught.value)


def test_whoever_comes_second_is_told_who_has_it(tmp_path: Path) -> None:
    first = Claim.on(tmp_path, agent_id="first")
    assert f"used by another agent: first, process {os.getpid()} on " in refused(tmp_path)
    first.close()
    Claim.on(tmp_path, agent_id="third").close()


def test_what_a_dead_agent_wrote_keeps_nobody(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("dead, process 1 on somewhere, since ever and longer than that")
    (tmp_path / NAME).chmod(0o600)
    claim = Claim.on(tmp_path, agent_id="a")
    assert "dead" not in (tmp_path / NAME).read_text()
    claim.close()


@pytest.mark.parametrize("written", [b"", b"\x1b[2J\nlucid-agent: all is well\n", b"\xff" * 9000])
def test_what_is_written_there_is_only_text(tmp_path: Path, written: bytes) -> None:
    claim = Claim.on(tmp_path, agent_id="a")
    (tmp_path / NAME).write_bytes(written)
    said = refused(tmp_path)
    assert said.isprintable()
    assert len(said) < 500
    claim.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / NAME).symlink_to("elsewhere")
    assert "cannot be opened" in refused(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "kept"
