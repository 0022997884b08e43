"""Errors that end the daemon, and the exit codes that service managers act on."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `lucid-agent`. systemd and orchestrators restart by them."""

    OK = 0
    FAILED = 1  # a failure at run time: restart may help
    USAGE = 2  # wrong configuration, bundle or arguments: a restart cannot help
    NO_TEE = 3  # no (or another) TEE than asked for: a restart cannot help
    STATE = 4  # the state directory or the journal cannot be used: needs an operator


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
