"""Runs checks one by one and keeps what became of each, so that no result hides another.

A verification that stops at the first fault says little to the person who has to mend it. Here all
checks run that can; the first fault is raised at the end, and carries the whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from attestation.checks import Check, failed, passed, skipped
from attestation.errors import AttestationError, UncheckableError, VerificationError

T = TypeVar("T")
NOT_DEMANDED: Final = "the policy demands nothing here"


class Ledger:
    """The checks of one verification.

    Attributes:
        checks: in the order in which they ran.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._refusal: AttestationError | None = None
        self._doubt: AttestationError | None = None

    def run(
        self, name: str, check: Callable[[], tuple[str, T]], *, demanded: bool = True
    ) -> T | None:
        """Run one check: it gives (what was found, a value), or raises. None where it raised.

        Args:
            demanded: False: that it could not run is listed, and ends nothing.
        """
        try:
            detail, value = check()
        except UncheckableError as error:
            self.checks.append(skipped(name, str(error)))
            self._doubt = self._doubt or (error if demanded else None)
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

    def cannot(self, name: str, why: str, *, remedy: str = "") -> None:
        """A check that was asked for and could not run: what it asks is not known to hold."""

        def check() -> tuple[str, None]:
            raise UncheckableError(name, why, remedy=remedy)

        self.run(name, check)

    def demand(
        self, name: str, *, holds: bool, found: str, otherwise: str, demanded: bool = True
    ) -> None:
        """A check whose answer is known already: passed with `found`, or refused.

        Args:
            demanded: False lists it as skipped, whatever its answer: nobody asked.
        """
        if not demanded:
            self.skip(name, NOT_DEMANDED)
            return

        def check() -> tuple[str, None]:
            if not holds:
                raise VerificationError(name, otherwise)
            return found, None

        self.run(name, check)

    def one_of(
        self,
        name: str,
        allowed: Collection[object],
        value: Any,
        show: Callable[[Any], str],
        *,
        always: bool = False,
    ) -> None:
        """That a value is one of those allowed. An empty list demands nothing.

        Args:
            always: an empty list allows nobody, because another list was given instead.
        """
        self.demand(
            name,
            demanded=bool(allowed) or always,
            holds=value in allowed,
            found=show(value),
            otherwise=f"{show(value)} is none of the {len(allowed)} allowed",
        )

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
