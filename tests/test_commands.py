"""A command that a test runs cannot hold the test up, whatever it leaves behind."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.commands import TookTooLongError, run
from tests.processes import wait_until


def test_what_it_said_and_how_it_ended() -> None:
    done = run(["sh", "-c", "cat; echo no >&2; exit 3"], stdin="yes")
    assert (done.stdout, done.stderr, done.returncode) == ("yes", "no\n", 3)


def test_a_failure_is_told_with_its_words_where_success_was_needed() -> None:
    with pytest.raises(AssertionError, match=r"exit status 3: sh -c .*\nwhy\n"):
        run(["sh", "-c", "echo why >&2; exit 3"], check=True)


def test_one_that_hangs_is_ended_with_its_children_and_its_last_words_are_told() -> None:
    code = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '77'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(77)"
    )
    with pytest.raises(TookTooLongError, match=r"(?s)not within 1 s: .*child \d+\n$") as caught:
        run([sys.executable, "-c", code], seconds=1)
    child = Path("/proc") / str(caught.value).split()[-1] / "cmdline"
    wait_until(lambda: not (child.exists() and child.read_bytes()), 10, "the child has ended")


def test_a_process_left_behind_with_the_output_open_is_not_waited_for() -> None:
    begun = time.monotonic()
    done = run(["sh", "-c", "sleep 20 & echo $!"], seconds=10)
    run(["kill", done.stdout.strip()], check=True)
    assert time.monotonic() - begun < 10
