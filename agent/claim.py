"""One agent at a time has a state directory, and whoever comes second is told who that is.

Asked for before anything there is read or written: two agents would put each other's policies in
force. The journal has a lock of its own besides (`agent.journal.file`), for other programs.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from agent.errors import ExitCode, FatalError

NAME: Final = "agent.lock"
_MOST: Final = 400  # bytes that are read of who it is
_SHOWN: Final = 200  # characters


class Claim:
    """Held until `close`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def on(cls, directory: Path, *, agent_id: str) -> Self:
        """Take it. Blocking, shortly.

        Raises:
            FatalError: another agent has it, or there can be no lock.
        """
        path = directory / NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise FatalError(
                ExitCode.STATE,
                f"{path} cannot be opened: {error.strerror}",
                remedy="make the state directory and what is in it the agent's user's own",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise FatalError(
                    ExitCode.STATE,
                    f"{path} cannot be locked: {error.strerror}",
                    remedy="set agent.state_dir to a directory on a disk with locks",
                ) from None
            raise FatalError(
                ExitCode.STATE,
                f"the state directory {directory} is used by another agent: {holder}",
                remedy="stop it, or give this one a state directory of its own",
            ) from None
        with suppress(OSError):  # a full disk: nobody can say then who it is
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _who(agent_id).encode(), 0)
        return cls(descriptor)

    def close(self) -> None:
        """Let go. The file stays: to remove it would let two agents have one each."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _who(agent_id: str) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{agent_id}, process {os.getpid()} on {socket.gethostname()}, since {now}"


def _holder(descriptor: int) -> str:
    """Who says to have it. The disk may belong to somebody else, so it is only text."""
    try:
        text = os.pread(descriptor, _MOST, 0).decode(errors="replace")
    except OSError:
        text = ""
    shown = "".join(c if c.isprintable() else " " for c in text)[:_SHOWN].strip()
    return shown or "it did not write down which one"
