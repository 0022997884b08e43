"""What the daemon stands on: a state directory of its own, and its socket."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest

from agent import setup
from agent.config import Config
from agent.errors import ExitCode, FatalError


def test_a_state_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root, too: who owns the directory may exchange the journal under it."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(FatalError, match="belongs to user") as caught:
        setup.state_directory(tmp_path)
    assert caught.value.code is ExitCode.STATE


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ExitCode.FAILED),
        (errno.EDQUOT, ExitCode.FAILED),
        (errno.EROFS, ExitCode.STATE),
    ],
)
def test_a_full_disk_may_pass_and_another_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: ExitCode
) -> None:
    def touch(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    tmp_path.chmod(0o700)
    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(FatalError, match="cannot be used") as caught:
        setup.state_directory(tmp_path)
    assert caught.value.code is code


def test_a_socket_that_took_the_place_of_ours_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as other:
        ours.bind(str(path))
        made = path.lstat()
        path.rename(tmp_path / "aside")
        other.bind(str(path))
        setup.remove_socket(path, made)
        assert path.exists()
        path.unlink()
        (tmp_path / "aside").rename(path)
        setup.remove_socket(path, made)
        assert not path.exists()
        setup.remove_socket(path, made)


@pytest.mark.parametrize(("hard", "said"), [(1024, True), (65_536, False)])
def test_the_limit_of_open_files_is_raised_and_said_where_it_is_too_low(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hard: int, said: bool
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    setup.descriptors(Config())
    assert raised == [(hard, hard)]
    assert ("setup.few_descriptors" in caplog.text) is said
