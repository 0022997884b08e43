"""What the service manager must hear reaches it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.life.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "s"))
        made.setblocking(False)
        yield made


def read(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(65_536).decode())
        except BlockingIOError:
            return found


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    made = Notifier(str(manager.getsockname()))
    yield made
    made.close()


def test_without_a_service_manager_nothing_happens() -> None:
    made = Notifier(None)
    made.send("READY=1", must=True)
    assert made.dropped == 0


def test_a_line_stays_one_line(notifier: Notifier, manager: socket.socket) -> None:
    notifier.send("STATUS=a\nREADY=1", "X=1")
    assert read(manager) == ["STATUS=a READY=1\nX=1"]


def test_what_must_be_heard_comes_with_the_next_message(
    notifier: Notifier, manager: socket.socket
) -> None:
    while not notifier.dropped:  # until its queue is full
        notifier.send("STATUS=x")
    notifier.send("READY=1", must=True)
    assert notifier.dropped == 2
    read(manager)
    notifier.send("STATUS=y")
    notifier.send("STATUS=z")
    assert read(manager) == ["READY=1\nSTATUS=y", "STATUS=z"]


def test_a_service_manager_that_is_gone_is_counted(
    notifier: Notifier, manager: socket.socket
) -> None:
    manager.close()
    notifier.send("WATCHDOG=1")
    assert notifier.dropped == 1


def test_a_service_manager_that_comes_again_is_heard_again(
    notifier: Notifier, manager: socket.socket, tmp_path: Path
) -> None:
    manager.close()
    assert not notifier.send("READY=1", must=True)
    assert not notifier.send("WATCHDOG=1")
    (tmp_path / "s").unlink()
    assert not notifier.send("WATCHDOG=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(tmp_path / "s"))
        again.setblocking(False)
        assert notifier.send("WATCHDOG=1")
        assert read(again) == ["READY=1\nWATCHDOG=1"]


def test_a_service_manager_that_is_not_there_yet_is_heard_later(tmp_path: Path) -> None:
    made = Notifier(str(tmp_path / "s"))
    assert not made.send("STATUS=x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as late:
        late.bind(str(tmp_path / "s"))
        assert made.send("STATUS=y")
        assert late.recv(100) == b"STATUS=y"
    made.close()


def test_an_address_that_is_none_is_counted_and_ends_nothing() -> None:
    made = Notifier("/" + "x" * 200)
    assert not made.send("WATCHDOG=1")
    assert made.dropped == 1
    made.close()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_where_it_is(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier.from_environment(environ).watchdog_seconds == seconds
