"""Policy files as Cedar reads them, each policy with the place it was written at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import cedarpy

from enforcement.policy.cedar_text import (
    Places,
    Statement,
    Token,
    find_error,
    find_mention,
    scaled,
    statements,
)
from enforcement.policy.problems import Problem

TOO_DEEP: Final = (
    "the condition is nested too deeply (a chain of operators counts, too): "
    "split it into several policies, or into several `when` clauses"
)
Est = Mapping[str, Any]  # one policy in Cedar's JSON form (its "EST")


class PolicyTooDeepError(Exception):
    """The policy parses, but is nested too deeply to be enforced."""

    def __init__(self) -> None:
        super().__init__(TOO_DEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySource:
    """One policy of a file.

    Attributes:
        position: the policy's number in its file, counted from 0.
        line, column: of its first token, 1-based.
        template: whether it has `?principal` or `?resource` slots.
        statement: its tokens, None where the scanner lost its way (then the place is 1:1).
    """

    file: str
    position: int
    line: int
    column: int
    template: bool
    est: Est
    statement: Statement | None
    places: Places

    @property
    def annotations(self) -> dict[str, str]:
        """As written; an annotation without a value has an empty one, as in Cedar."""
        return {key: value or "" for key, value in self.est.get("annotations", {}).items()}

    @property
    def effect(self) -> str:
        """`permit` or `forbid`."""
        return str(self.est["effect"])

    def problem(
        self, message: str, fix: str = "", *, mention: str | None = None, rule: str = "annotation"
    ) -> Problem:
        """A problem of this policy, at what `mention` quotes or at the policy's start."""
        line, column = self.line, self.column
        if mention and self.statement:
            line, column = self.places.at(find_mention(self.statement, mention))
        return Problem(
            file=self.file, line=line, column=column, message=message, fix=fix, rule=rule
        )

    def as_text(self) -> str:
        """The policy alone, written out again from what was parsed; Cedar names it `policy0`.

        Raises:
            PolicyTooDeepError: Cedar's JSON form cannot hold it.
        """
        document: dict[str, Any] = {"staticPolicies": {}, "templates": {}, "templateLinks": []}
        document["templates" if self.template else "staticPolicies"]["policy0"] = self.est
        try:
            return str(cedarpy.policies_from_json_str(json.dumps(document)))
        except (ValueError, RecursionError) as error:  # its JSON form may be 128 levels deep
            raise PolicyTooDeepError from error


def parse_policies(file: str, text: str) -> tuple[list[PolicySource], list[Problem]]:
    """Read one policy file: what Cedar parses is what counts; the problems say where and why.

    Where there are problems, the sound policies are returned beside them (with float literals
    already scaled), so that one run can find as much as possible.
    """
    places, pieces = Places(text), statements(text)
    problems = [_float_problem(file, places, token) for piece in pieces for token in piece.floats()]
    oversized = {number for number, piece in enumerate(pieces) if piece.excess()}
    parsed, message = ([], "") if oversized else _parse(text)
    if message is None:
        aligned = len(parsed) == len(pieces)
        return [
            _source(file, places, pieces[entry.position] if aligned else None, entry)
            for entry in parsed
        ], problems
    policies: list[PolicySource] = []
    for position, piece in enumerate(pieces):
        single, complaint = ([], "") if position in oversized else _parse(piece.text())
        if complaint is not None:
            offset, complaint = _complaint(piece, complaint)
            line, column = places.at(offset)
            problems.append(
                Problem(file=file, line=line, column=column, message=complaint, rule="syntax")
            )
        policies += [
            _source(file, places, piece, replace(entry, position=position)) for entry in single
        ]
    if not problems:  # the scanner and Cedar disagree about what a statement is: Cedar wins
        problems.append(Problem(file=file, line=1, column=1, message=message, rule="syntax"))
    return policies, problems


def _complaint(piece: Statement, message: str) -> tuple[int, str]:
    """Where a statement goes wrong, and the words for it."""
    excess = piece.excess()
    if excess:
        return excess[0].start, excess[1]
    return find_error(piece, lambda part: _parse(part)[1]), message


@dataclass(frozen=True, slots=True)
class _Parsed:
    position: int
    template: bool
    est: Est


def _parse(text: str) -> tuple[list[_Parsed], str | None]:
    """Cedar's own parse, in the order of the text; or its message."""
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        return [], str(error)
    except RecursionError:
        return [], TOO_DEEP
    found = [
        _Parsed(int(key.removeprefix("policy")), template, est)  # Cedar numbers them in order
        for template, group in ((False, "staticPolicies"), (True, "templates"))
        for key, est in parsed[group].items()
    ]
    return sorted(found, key=lambda entry: entry.position), None


def _source(
    file: str, places: Places, statement: Statement | None, parsed: _Parsed
) -> PolicySource:
    line, column = places.at(statement.start) if statement else (1, 1)
    return PolicySource(
        file=file,
        position=parsed.position,
        line=line,
        column=column,
        template=parsed.template,
        est=parsed.est,
        statement=statement,
        places=places,
    )


def _float_problem(file: str, places: Places, token: Token) -> Problem:
    line, column = places.at(token.start)
    return Problem(
        file=file,
        line=line,
        column=column,
        message=f"float literal {token.text}: Cedar has no floats, and scores are whole numbers "
        "times 10 000 here",
        fix=f"write {scaled(token.text)}",
        rule="float",
    )
