"""What `lucid evidence` knows of one kind of evidence, and how a verification of it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attestation.checks import Check, failed, skipped
from attestation.errors import AttestationError, MalformedError, UncheckableError
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.guess import named
from lucid.sources import SourceError, read_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user gave, as it came from the command line; files are not read yet.

    Attributes:
        now: the one moment at which everything is verified.
        files: by the option's name without its dashes; an option that was not given is absent.
        simulated_root: only with `--allow-simulated`.
    """

    now: datetime
    report_data: bytes | None
    simulated_root: Path | None
    files: dict[str, tuple[Path, ...]]

    def one(self, name: str, check: Callable[[bytes], object]) -> bytes | None:
        """The content of an option's file; otherwise as `every`."""
        found = self.every(name, check)
        return found[0] if found else None

    def every(self, name: str, check: Callable[[bytes], object]) -> list[bytes]:
        """The contents of all files of an option that may be repeated.

        Args:
            check: reads a content, or raises MalformedError, which then names the file.

        Raises:
            SourceError: one cannot be read.
            MalformedError: one is something else.
        """
        found = []
        for path in self.files.get(name, ()):
            data = read_file(path)
            try:
                check(data)
            except MalformedError as error:
                raise named(f"--{name} {path}", data, error) from None
            found.append(data)
        return found


V = TypeVar("V")  # verified evidence
P = TypeVar("P")  # a policy


class Kind(Protocol[V, P]):
    """Evidence that was read and not verified.

    Attributes:
        tee_type: as in the JSON output.
        options: the names in `Options.files` that mean something for it.
    """

    tee_type: str
    options: frozenset[str]

    def enclosed(self) -> dict[str, Any]:
        """What came with the evidence, JSON-ready."""

    def fields(self, verified: V | None) -> dict[str, Any]:
        """Every field, JSON-ready."""

    def findings(self, verified: V | None) -> dict[str, Any]:
        """What the verification found out, JSON-ready; the same keys, each None, without one."""

    def headline(self, verified: V) -> str:
        """What was accepted, in a few words."""

    def policy(self, data: bytes | None) -> P:
        """Read a policy; None is the default one. Raises MalformedError."""

    def verify(self, options: Options) -> V:
        """Raises AttestationError, SourceError."""

    def checks(self, verified: V) -> tuple[Check, ...]:
        """What the verification checked."""

    def appraise(self, verified: V, policy: P) -> tuple[Check, ...]:
        """All checks, those of the verification first. Raises VerificationError."""

    def demands(self) -> tuple[str, ...]:
        """The names of the checks of an appraisal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a verification ended.

    Attributes:
        verified: None where already the verification failed.
        checks: every check, at least the one that failed.
        error: None where the evidence is accepted.
    """

    verified: Any
    checks: tuple[Check, ...]
    error: AttestationError | None


def judge(
    kind: Kind[V, P], options: Options, policy: Path | None, *, signature_only: bool
) -> Ending:
    """Verify and appraise. Raises nothing that the evidence or a file could cause."""
    verified: V | None = None
    try:
        rules = None
        if not signature_only:
            rules = kind.policy(None) if policy is None else _policy(kind, policy)
        verified = kind.verify(options)
        if rules is not None:
            checks = kind.appraise(verified, rules)
        else:
            left_out = (skipped(name, "left out by --signature-only") for name in kind.demands())
            checks = (*kind.checks(verified), *left_out)
    except SourceError as error:
        unread = UncheckableError("source", str(error))
        return Ending(verified=verified, checks=_listed(unread), error=unread)
    except AttestationError as error:
        return Ending(verified=verified, checks=_listed(error), error=error)
    return Ending(verified=verified, checks=checks, error=None)


def _policy(kind: Kind[V, P], path: Path) -> P:
    data = read_file(path)
    try:
        return kind.policy(data)
    except MalformedError as error:
        raise named(f"--policy {path}", data, error) from None


def exit_code(error: AttestationError | None) -> int:
    """The exit code for how a verification ended."""
    if error is None:
        return DONE
    if isinstance(error, UncheckableError):
        return UNCHECKED
    # Malformed input has no list of checks: none could be made.
    return BAD_INPUT if isinstance(error, MalformedError) and not error.checks else NOT_SO


def _listed(error: AttestationError) -> tuple[Check, ...]:
    """The checks of a failed verification; at least the one that failed."""
    if error.checks:
        return error.checks
    make = skipped if isinstance(error, UncheckableError) else failed
    return (make(error.code, str(error)),)
