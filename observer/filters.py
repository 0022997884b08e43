"""A filter over decisions: the same one in SQL and in memory, read from a URL's query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from attestation.records import OUTCOMES, PHASES
from observer.store.schema import MAX_TEXT, reasons, records

SEARCHED: Final = (
    "decision_id",
    "request_id",
    "trace_id",
    "route",
    "model",
    "principal",
    "resource",
    "reasons",
)


class FilterError(ValueError):
    """The query cannot be meant; the text says what to write."""


def ascii_lower(text: str) -> str:
    """Lower case of A to Z only: what SQLite's `lower` does."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to show. Empty fields do not restrict; `q` is a part of any id, name or reason."""

    agent: str = ""
    model: str = ""
    principal: str = ""
    phase: str = ""
    outcome: str = ""
    reason: str = ""
    q: str = ""

    @classmethod
    def from_query(cls, query: Mapping[str, str], *, also: frozenset[str] = frozenset()) -> Filter:
        """Read a URL's query; `also` names parameters that belong to somebody else.

        Raises:
            FilterError: an unknown parameter, phase or outcome, or a value that is too long.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(query) - set(names) - also)
        if unknown:
            known = ", ".join(sorted([*names, *also]))
            raise FilterError(f"unknown parameter {unknown[0][:50]!r}; known: {known}")
        values = {name: query[name] for name in names if query.get(name)}
        for name, value in values.items():
            if "\x00" in value:  # PostgreSQL takes none, and none is stored
                raise FilterError(f"{name!r} has a NUL character")
            if len(value) > MAX_TEXT:
                raise FilterError(f"{name!r} is longer than {MAX_TEXT} characters")
        for name, words in (("phase", PHASES), ("outcome", OUTCOMES)):
            if name in values and values[name] not in words:
                raise FilterError(f"{name!r} is one of {', '.join(sorted(words))}")
        return cls(**values)

    def where(self) -> ColumnElement[bool] | None:
        """The same filter as a condition on `records`; None where nothing is restricted."""
        terms: list[ColumnElement[bool]] = [
            records.c[column] == value
            for column, value in (
                ("agent_id", self.agent),
                ("model", self.model),
                ("principal", self.principal),
                ("phase", self.phase),
                ("outcome", self.outcome),
            )
            if value
        ]
        if self.reason:
            found = select(reasons.c.record_id).where(
                reasons.c.record_id == records.c.id, reasons.c.reason == self.reason
            )
            terms.append(exists(found))
        if self.q:
            part = ascii_lower(self.q)
            terms.append(
                or_(
                    *(
                        func.lower(records.c[name]).contains(
                            _as_stored(name, part), autoescape=True
                        )
                        for name in SEARCHED
                    )
                )
            )
        return and_(*terms) if terms else None

    def matches(self, row: Mapping[str, Any]) -> bool:
        """True where a row of `records` (as the store writes it) passes."""
        pairs = (
            ("agent_id", self.agent),
            ("model", self.model),
            ("principal", self.principal),
            ("phase", self.phase),
            ("outcome", self.outcome),
        )
        if any(value and row[column] != value for column, value in pairs):
            return False
        if self.reason and self.reason not in json.loads(row["reasons"]):
            return False
        part = ascii_lower(self.q)
        return not part or any(
            _as_stored(name, part) in ascii_lower(row[name]) for name in SEARCHED
        )


def _as_stored(name: str, part: str) -> str:
    """Reasons are stored as JSON: a quote in the search is an escaped quote in the column."""
    return json.dumps(part, ensure_ascii=False)[1:-1] if name == "reasons" else part
