"""The names of keys, and what is said of those that are not known or hold something else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_type_hints

from agent.config.base import Table


def subtable(hint: object) -> type[Table] | None:
    """The table that a field holds; None where it holds a value."""
    return hint if isinstance(hint, type) and issubclass(hint, Table) else None


def unknown_keys(table: type[Table], data: Mapping[str, Any], prefix: str) -> list[str]:
    """Every key that no table has, with the nearest one that is known."""
    hints = get_type_hints(table)
    problems = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            problems.append(f"{name}: unknown key{hint}")
        elif (sub := subtable(hints[key])) is not None and isinstance(value, dict):
            problems += unknown_keys(sub, value, f"{name}.")
    return problems


def readable(message: str) -> str:
    """msgspec's words for a value of another type, the key first."""
    text, _, place = message.partition(" - at `$")
    return f"{place.rstrip('`').lstrip('.')}: {text}" if place else text
