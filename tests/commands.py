"""Commands that tests run to their end: each within a bound, and ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS = 120.0  # of a busy machine; what needs more says so


class TookTooLongError(AssertionError):
    """The command did not end in its time. The message has its last words."""


def run(
    command: Sequence[str | Path],
    *,
    seconds: float = SECONDS,
    check: bool = False,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes = b"",
) -> subprocess.CompletedProcess[str]:
    """Run a command; what it said and how it ended.

    Its output goes to files: a pipe would be waited for as long as any process that the command
    left behind (a container's monitor, say) has it open, with no bound that `subprocess` knows.

    Raises:
        TookTooLongError: it did not end within `seconds`; its process group was killed.
        AssertionError: `check` is set and it failed.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as err:  # fmt: skip
        given.write(stdin.encode() if isinstance(stdin, str) else stdin)
        given.seek(0)
        process = subprocess.Popen(
            words, cwd=cwd, env=env, stdin=given, stdout=out, stderr=err, start_new_session=True
        )
        late = False
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            if process.returncode is None:  # late, or the test itself is being ended
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        out.seek(0)
        err.seek(0)
        said, complained = (file.read().decode(errors="replace") for file in (out, err))
    told = f"{' '.join(words)}:\n{said[-4000:]}{complained[-4000:]}"
    if late:
        raise TookTooLongError(f"not within {seconds:g} s: {told}")
    if check and process.returncode:
        raise AssertionError(f"exit status {process.returncode}: {told}")
    return subprocess.CompletedProcess(words, process.returncode, said, complained)
