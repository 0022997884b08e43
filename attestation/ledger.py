"""Runs checks one by one and keeps what became of each, so that no result hides another.

A verification that stops at the first fault says little to the person who has to mend it. Here all
checks run that can; the first fault is raised at the end, and carries the whole list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attestation.checks import Check, failed, passed, skipped
from attestation.errors import AttestationError, UncheckableError

T = TypeVar("T")


class Ledger:
    """The checks of one verification.

    Attributes:
        checks: in the order in which they ran.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._refusal: AttestationError | None = None
        self._doubt: AttestationError | None = None

    def run(self, name: str, check: Callable[[], tuple[str, T]]) -> T | None:
        """Run one check: it gives (what was found, a value), or raises. None where it raised."""
        try:
            detail, value = check()
        except UncheckableError as error:
            self.checks.append(skipped(name, str(error)))
            self._doubt = self._doubt or error
            return None
        except AttestationError as error:
            self.checks.append(failed(name, str(error)))
            self._refusal = self._refusal or error
            return None
        self.checks.append(passed(name, detail))
        return value

    def skip(self, name: str, reason: str) -> None:
        """A check that nobody asked for, or that has nothing to look at."""
        self.checks.append(skipped(name, reason))

    def settle(self) -> tuple[Check, ...]:
        """All checks, if everything holds.

        Raises:
            AttestationError: the first refusal; without one, the first check that could not run.
                Its `checks` are all of them.
        """
        error = self._refusal or self._doubt
        if error is not None:
            error.checks = tuple(self.checks)
            raise error
        return tuple(self.checks)
