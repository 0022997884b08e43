"""`status` and `healthcheck`: what they make of every answer, and of none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main


@contextmanager
def answering(path: Path, reply: bytes) -> Iterator[None]:
    """A socket that gives this reply to one request."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65_536)
                with suppress(BrokenPipeError):
                    peer.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def reply(code: int, body: str) -> bytes:
    return f"HTTP/1.1 {code} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def status(**parts: object) -> dict[str, object]:
    """What the agent answers, with these parts."""
    return {
        "state": "serving", "since": "x", "since_seconds": 1, "reason": "r", "next": "n",
        "ready": True, "tls": None, "gateway": "g", "passport": None, "observer": None,
        "custody": None, "journal": {"durable_seq": 0, "head": "ab"}, "policy": None,
    } | parts  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (reply(200, '{"ready": true, "reason": "serving"}'), 0, ""),
        (reply(503, '{"ready": false, "reason": "no quote yet"}'), 1, "no quote yet"),
        (reply(500, "{}"), 1, "not ready"),
        (reply(200, "nonsense"), 3, "no agent answers"),
        (b"nonsense\r\n\r\n", 3, "no agent answers"),
        (b"", 3, "no agent answers"),
        (reply(200, '"' + "x" * 2_000_000 + '"'), 3, "larger than"),
    ],
)
def test_a_probe_ends_with_what_it_was_told(
    tmp_path: Path, answer: bytes, code: int, words: str
) -> None:
    path = tmp_path / "agent.sock"
    with answering(path, answer):
        done = CliRunner().invoke(main, ["healthcheck", "--socket", str(path)])
    assert done.exit_code == code
    assert words in done.stderr


@pytest.mark.parametrize(
    ("shadow", "line"),
    [
        (None, None),
        ({"digest": "ab" * 32, "problem": ""}, "Shadow:    abababababababab…"),
        (
            {"digest": None, "problem": "bundle: broken\nmore"},
            "Shadow:    no candidate is asked; its folder was refused: bundle: broken",
        ),
    ],
)
def test_the_status_says_what_is_asked_beside_the_bundle(
    tmp_path: Path, shadow: dict[str, object] | None, line: str | None
) -> None:
    told = status(policy={"name": "p", "version": "1", "digest": "cd" * 32, "shadow": shadow})
    path = tmp_path / "agent.sock"
    with answering(path, reply(200, json.dumps(told))):
        done = CliRunner().invoke(main, ["status", "--socket", str(path)])
    assert done.exit_code == 0, done.output
    shown = [text for text in done.stdout.splitlines() if text.startswith("Shadow")]
    assert shown == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("observer", "lines"),
    [
        ({}, ["Observer:  connected, 7 behind"]),
        (
            {"set_aside": 1, "alarms": 3, "alarm": "fork: boot ab is set aside: two histories"},
            [
                "Observer:  connected, 7 behind, 1 earlier boot set aside",
                "Alarm:     fork: boot ab is set aside: two histories (3 in all)",
            ],
        ),
    ],
)
def test_the_status_says_what_the_observer_does_not_take(
    tmp_path: Path, observer: dict[str, object], lines: list[str]
) -> None:
    told = status(observer={"connected": True, "lag": 7, "alarms": 0, "alarm": ""} | observer)
    path = tmp_path / "agent.sock"
    with answering(path, reply(200, json.dumps(told))):
        done = CliRunner().invoke(main, ["status", "--socket", str(path)])
    shown = done.stdout.splitlines()
    assert [text for text in shown if text.startswith(("Observer", "Alarm"))] == lines


@pytest.mark.parametrize("command", ["healthcheck", "status"])
def test_where_nobody_answers_the_exit_code_is_3(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(main, [command, "--socket", str(tmp_path / "none.sock")])
    assert done.exit_code == 3
    assert "is the agent running?" in done.stderr
