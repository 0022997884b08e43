"""What is wrong with a policy bundle: every problem at once, each with its place and its cure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

MAX_MESSAGE: Final = 1000  # characters
MAX_SHOWN: Final = 100  # problems in the text of one error; the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: path inside the bundle, with `/`; empty for the bundle as a whole.
        line, column: 1-based, columns in characters; 0 where the place is not known.
        message: what was found.
        fix: what to write instead; empty where the message says it all.
        rule: stable name of what is broken, for scripts (docs/policies.md lists them).
    """

    file: str
    line: int = 0
    column: int = 0
    message: str
    fix: str = ""
    rule: str = ""

    def as_json(self) -> dict[str, str | int]:
        """All of it, for `--json`."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "rule": self.rule,
            "message": self.message,
            "fix": self.fix,
        }

    def __str__(self) -> str:
        place = self.file or "bundle"
        if self.line:
            place += f":{self.line}:{self.column}"
        return f"{place}: {self.message}" + (f"; {self.fix}" if self.fix else "")


class BundleError(Exception):
    """The bundle cannot be used. The text lists every problem, one a line.

    Attributes:
        code: always `bundle.invalid`.
        problems: sorted by file and place; never empty.
    """

    code: Final = "bundle.invalid"

    def __init__(self, problems: Iterable[Problem]) -> None:
        # What is quoted from a file may be as long as the file, and no Unicode.
        self.problems = tuple(sorted({_fit(problem) for problem in problems}))
        lines = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            lines.append(f"… and {len(self.problems) - MAX_SHOWN} more")
        super().__init__("\n".join(lines))


def _fit(problem: Problem) -> Problem:
    message, fix = (
        text.encode("utf-8", "backslashreplace").decode() for text in (problem.message, problem.fix)
    )
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}…"
    return replace(problem, message=message, fix=fix)
