"""Errors that end the daemon, and the exit codes that service managers act on."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit codes of `lucid-agent`. systemd and orchestrators restart by them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_TEE = 3
    STATE = 4


# What `run` means by them, and whether starting it again may help. `--help` and the documentation
# show this table; the unit file restarts by it.
EXIT_CODES: Final[dict[ExitCode, tuple[str, bool]]] = {
    ExitCode.OK: ("stopped cleanly, or the thing asked is so", False),
    ExitCode.FAILED: ("failed at run time, or the thing asked is not so", True),
    ExitCode.USAGE: ("wrong configuration, policy bundle or arguments", False),
    ExitCode.NO_TEE: (
        "no TEE, another one than configured, or one that needs a reboot; or no agent to ask",
        False,
    ),
    ExitCode.STATE: ("the state directory or the journal cannot be used", False),
}


# A disk that is full now may not be when the agent is started again.
_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def state_code(error: OSError) -> ExitCode:
    """The exit code where the state directory cannot be used because of this."""
    return ExitCode.FAILED if error.errno in _PASSING else ExitCode.STATE


def exit_codes_text() -> str:
    """The table, one line a code, for `--help`."""
    lines = []
    for code, (meaning, restart) in EXIT_CODES.items():
        hint = " (a restart may help)" if restart else ""
        lines.append(f"  {code.value}  {meaning}{hint}")
    return "\n".join(lines)


class FatalError(Exception):
    """The daemon cannot start or go on.

    Attributes:
        code: the exit code.
        remedy: what an operator can do.
    """

    def __init__(self, code: ExitCode, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy
