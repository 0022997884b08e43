"""One line says what happened, as JSON or as text; a reader that stops costs lines alone."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from agent import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The process's logging is put back, and nothing of a test's is counted elsewhere."""
    root, ours = logging.getLogger(), logging.getLogger("lucid")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> logs.Output:
    made = logs.Output()
    monkeypatch.setattr(logs, "OUTPUT", made)
    return made


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_of_json_has_the_event_its_values_the_part_the_level_and_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", form="json")
    logs.get("journal").warning("journal.full", size=7, deny=True)
    [said] = lines(capsys)
    assert datetime.fromisoformat(said.pop("timestamp")).utcoffset() is not None
    assert said == {
        "part": "journal",
        "event": "journal.full",
        "level": "warning",
        "size": 7,
        "deny": True,
    }


def test_a_value_that_json_does_not_know_is_written_as_python_shows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", form="json")
    logs.get("a").info("b", value={1}, other=b"\x00")
    [said] = lines(capsys)
    assert (said["value"], said["other"]) == ("{1}", "b'\\x00'")


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_value_begins_a_line_of_its_own(capsys: pytest.CaptureFixture[str], form: Any) -> None:
    logs.configure(level="info", form=form)
    logs.get("a").info("b", value="x\n2026 [info] c\r\x1b[2J\u2028\x85y")
    [line] = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert "b" in line


def test_a_line_of_text_quotes_only_what_needs_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", form="text")
    logs.get("a").info("b", word="w", two="x y", none=None, empty="", pair="k=v")
    line = capsys.readouterr().err.strip()
    assert line.endswith('part=a word=w two="x y" none=null empty="" pair="k=v"')
    assert " [info   ] b " in line


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("info", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("error", ["e"]),
    ],
)
def test_the_level_decides_what_is_written(
    capsys: pytest.CaptureFixture[str], level: str, said: list[str]
) -> None:
    logs.configure(level=level, form="json")
    log = logs.get("a")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [line["event"] for line in lines(capsys)] == said


def test_of_a_librarys_line_only_its_constant_message_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="debug", form="json")
    library = logging.getLogger("some.library")
    library.info("quiet")
    values = {"a": "secret-3"}
    library.error(
        "failed for %s", "secret-2", extra={"values": values}, exc_info=ValueError("secret-1")
    )
    library.error(ValueError("secret-4"))
    text = capsys.readouterr().err
    assert "secret" not in text
    assert [json.loads(line)["event"] for line in text.splitlines()] == [
        "failed for %s",
        "ValueError",
    ]


def test_a_value_that_cannot_be_shown_costs_the_line_and_shows_nothing(
    capsys: pytest.CaptureFixture[str], output: logs.Output
) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("secret")

    logs.configure(level="info", form="json")
    logs.get("a").info("b", value=Broken())
    assert capsys.readouterr().err == ""
    assert output.dropped == 1


class Closed:
    """Standard error of a process whose reader has gone, or whose disk is full."""

    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        """Never reached."""


def test_a_line_that_cannot_be_written_is_counted(
    monkeypatch: pytest.MonkeyPatch, output: logs.Output
) -> None:
    logs.configure(level="info", form="json")
    monkeypatch.setattr(sys, "stderr", Closed())
    logs.get("a").info("b")
    assert output.dropped == 1


def test_the_thread_has_written_everything_when_its_block_is_left(output: logs.Output) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        with output.thread(writer):
            for number in range(100):
                output.line(str(number))
        os.close(writer)
        assert pipe.read().split() == [str(number).encode() for number in range(100)]
    assert output.dropped == 0


def test_a_reader_that_went_away_is_counted_and_the_thread_goes_on(output: logs.Output) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with output.thread(writer):
        output.line("one")
        output.line("two")
    os.close(writer)
    assert output.dropped == 2


def test_a_reader_that_stops_reading_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, output: logs.Output
) -> None:
    monkeypatch.setattr(logs, "END_SECONDS", 0.05)
    reader, writer = os.pipe()
    count = 3 * logs.WAITING
    with output.thread(writer):
        for _ in range(count):
            output.line("x" * 1023)  # 1 KiB with its end
    taken = 64  # KiB: what a pipe holds
    assert count - taken - 1 <= output.dropped <= count
    os.close(reader)  # lets the thread go
    for thread in threading.enumerate():
        if thread.name == "log":
            thread.join(5)
    os.close(writer)
