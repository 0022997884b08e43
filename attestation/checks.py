"""One named check and how it ended: the rows of every report on evidence."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class CheckStatus(StrEnum):
    """Passed, failed, or not run; a check that did not run proves nothing."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(NamedTuple):
    """A check by its stable name.

    Attributes:
        name: dotted, lower case; a failed check has the name of the error's code.
        detail: what was found; for a skipped check, why it did not run.
    """

    name: str
    status: CheckStatus
    detail: str = ""


def passed(name: str, detail: str = "") -> Check:
    """A check that ran and found what it should."""
    return Check(name, CheckStatus.PASSED, detail)


def failed(name: str, detail: str) -> Check:
    """A check that ran and found something else."""
    return Check(name, CheckStatus.FAILED, detail)


def skipped(name: str, reason: str) -> Check:
    """A check that did not run, with the reason."""
    return Check(name, CheckStatus.SKIPPED, reason)
