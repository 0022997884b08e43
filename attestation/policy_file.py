"""Policies of relying parties as TOML: typed, and with nothing in them that is not known.

A key that is left out has the policy's default. A key that is not known is refused: a demand with a
typing error must not vanish.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from attestation.errors import MalformedError

MAX_POLICY_SIZE: Final = 1024 * 1024

T = TypeVar("T")
Reader = Callable[[object], Any]


class PolicyError(Exception):
    """What is wrong with a value. Ends as `MalformedError`, with its key, in `read_policy`."""

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


def expected(what: str) -> PolicyError:
    """The error for a value that is something else."""
    return PolicyError(f"{what} is expected")


def read_policy(data: bytes, readers: Mapping[str, Reader], code: str) -> dict[str, Any]:
    """The values of a policy file, by their keys.

    Raises:
        MalformedError: `code`: not TOML, an unknown key, a wrong type or size.
    """
    if len(data) > MAX_POLICY_SIZE:
        raise MalformedError(code, f"the policy has {len(data)} bytes")
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise MalformedError(code, f"the policy is not TOML: {error}") from None
    try:
        return read_table(table, readers)
    except PolicyError as error:
        raise MalformedError(code, str(error), remedy=error.remedy) from None


def read_table(table: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The values of one table; what is wrong is named with its key."""
    found = {}
    for name in known_keys(table, readers):
        try:
            found[name] = readers[name](table[name])
        except PolicyError as error:
            raise PolicyError(f"{name}: {error}", remedy=error.remedy) from None
    return found


def known_keys(table: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """The keys of a table, if all are known."""
    for name in table:
        if name not in known:
            near = ", ".join(sorted(known))
            raise PolicyError(f"unknown key {name!r}", remedy=f"known here are: {near}")
    return list(table)


def flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise expected("true or false")
    return value


def number(most: int) -> Callable[[object], int]:
    """A number from 0 to `most`."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise expected(f"a number from 0 to {most}")
        return value

    return read


def items(value: object) -> list[object]:
    """A list with something in it: an empty one would say "nobody" and mean "anybody"."""
    if not isinstance(value, list) or not value:
        raise expected("a list that is not empty")
    return value


def hex_set(*sizes: int, pad: int = 0) -> Callable[[object], frozenset[bytes]]:
    """A list of hex strings of one of these sizes in bytes, padded to `pad`."""

    def read(value: object) -> frozenset[bytes]:
        found = set()
        for item in items(value):
            try:
                raw = bytes.fromhex(item) if isinstance(item, str) else b""
            except ValueError:
                raw = b""
            if len(raw) not in sizes:
                raise expected(f"a list of hex strings of {' or '.join(map(str, sizes))} bytes")
            found.add(raw.ljust(pad, b"\0"))
        return frozenset(found)

    return read


def texts(value: object) -> frozenset[str]:
    """A list of strings."""
    found = items(value)
    if not all(isinstance(item, str) for item in found):
        raise expected("a list of strings")
    return frozenset(str(item) for item in found)


def table_of(value: object) -> dict[str, Any]:
    """A table."""
    if not isinstance(value, dict):
        raise expected("a table")
    return value


def rules(kind: type[T], extra: Mapping[str, Reader]) -> Callable[[object], T]:
    """A table with the fields of a dataclass: flags, but for those with a reader of their own."""
    readers = {item.name: extra.get(item.name, flag) for item in fields(kind)}  # type: ignore[arg-type]

    def read(value: object) -> T:
        return kind(**read_table(table_of(value), readers))

    return read
