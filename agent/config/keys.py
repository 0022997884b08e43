"""The names of keys, and what is said of those that are not known or hold something else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

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


def wrong_values(table: type[Table], data: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What does not fit its key, for every key that the tables have: msgspec would stop at the
    first. What no table has is left out."""
    hints = get_type_hints(table, include_extras=True)
    problems = []
    for key, value in data.items():
        if key not in hints:
            continue
        sub = subtable(hints[key])
        if sub is not None and isinstance(value, dict):
            problems += wrong_values(sub, value, f"{prefix}{key}.")
            continue
        try:
            msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            problems.append(readable(str(error), f"{prefix}{key}"))
    return problems


def readable(message: str, key: str = "") -> str:
    """msgspec's words for a value of another type, its place first: the key, and what is in it."""
    text, _, place = message.partition(" - at `$")
    where = f"{key}{place.rstrip('`')}".lstrip(".")
    return f"{where}: {text}" if where else text
