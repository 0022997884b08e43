"""`bundle.toml` as TOML: read, its tables typed, and every problem with its place and its cure."""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from enforcement.policy.annotations import nearest
from enforcement.policy.problems import Problem

FILE: Final = "bundle.toml"
MAX_LINE: Final = 8192  # characters; the parser takes quadratic time for a key of many parts
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file: unknown keys are errors."""


_T = TypeVar("_T", bound=Table)


def read_toml(content: bytes) -> tuple[str, dict[str, Any]] | Problem:
    """The file as text and as tables, or what is wrong with it as a whole."""
    try:
        text = content.decode("utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > MAX_LINE:
                return _too_long(number)
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        return _broken(f"not UTF-8 at byte {error.start}")
    except tomllib.TOMLDecodeError as error:
        return _toml_problem(str(error), text)
    except ValueError:  # of thousands of digits
        return _broken("a number is too large")
    except RecursionError:
        return _broken("nested too deeply")


class TableReader:
    """Reads tables key by key, so that one wrong key hides no other."""

    def __init__(self, text: str) -> None:
        self.problems: list[Problem] = []
        self._lines = _key_lines(text)

    def problem(self, path: str, message: str, fix: str = "") -> None:
        """Note a problem at a key, or at the nearest table above it that has a line."""
        above = path
        while above and above not in self._lines:
            above = above.rpartition(".")[0]
        line = self._lines.get(above, 0)
        self.problems.append(
            Problem(
                file=FILE,
                line=line,
                column=int(line > 0),
                message=message,
                fix=fix,
                rule="manifest",
            )
        )

    def table(self, raw: object, kind: type[_T], path: str) -> _T | None:
        """A typed table; None where a key is wrong or missing."""
        name = path or "the file"
        if not isinstance(raw, dict):
            self.problem(path, f"`{name}` must be a table")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        sound = True
        for key, value in raw.items():
            place = f"{path}.{key}" if path else key
            if key not in fields:
                self.problem(place, f"unknown key `{place}`", nearest(key, fields))
                continue
            try:
                values[key] = msgspec.convert(value, fields[key].type)
            except msgspec.ValidationError as error:
                fix = ""
                if (unknown := _ENUM.match(str(error))) is not None:
                    fix = nearest(unknown[1], _choices(fields[key].type))
                self.problem(place, f"`{place}`: {_readable(str(error))}", fix)
                sound = False
        for key, field in fields.items():
            if field.required and key not in raw:
                self.problem(path, f"`{f'{path}.{key}' if path else key}` is missing")
                sound = False
        return kind(**values) if sound else None


def _key_lines(text: str) -> dict[str, int]:
    """Line of each table and key by its dotted path. Good enough to point at, no more."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        key = re.match(r"\s*([A-Za-z0-9_.-]+|\"[^\"]*\")\s*=", line)
        if header:
            table = header[1].strip().replace('"', "")
            found.setdefault(table, number)
        elif key:
            name = key[1].replace('"', "")
            found.setdefault(f"{table}.{name}" if table else name, number)
    return found


_ENUM: Final = re.compile(r"Invalid enum value '([^']*)'")


def _choices(kind: Any) -> list[str]:
    """The texts that a key may hold, by its type; empty where it may hold others."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [str(member) for member in kind]
    found: list[str] = []
    for part in get_args(kind):
        found += [part] if get_origin(kind) is Literal else _choices(part)
    return found


_WORDS: Final = {
    "str": "text in quotes",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "array": "a list",
    "object": "a table",
}


def _readable(message: str) -> str:
    """msgspec's message in TOML's words."""
    text = message.partition(" - at `$")[0]
    if (unknown := _ENUM.match(text)) is not None:
        return f"{unknown[1]!r} is not known"
    if text.endswith(NAME + "'"):
        return "must be 1 to 64 letters, digits, dots, dashes and underscores, no mark first"
    types = re.fullmatch(r"Expected `([a-z |]+)`, got `([a-z]+)`", text)
    if types is None:
        return text
    wanted = " or ".join(_WORDS.get(word, word) for word in types[1].split(" | "))
    return f"must be {wanted}, not {_WORDS.get(types[2], types[2])}"


def _toml_problem(message: str, text: str) -> Problem:
    lines = len(text.splitlines()) or 1
    message = message.replace("(at end of document)", f"(at line {lines}, column 1)")
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if not place:
        return _broken(message)
    return Problem(
        file=FILE,
        line=int(place[1]),
        column=int(place[2]),
        message=f"not TOML: {message[: place.start()].strip()}",
        rule="manifest",
    )


def _too_long(line: int) -> Problem:
    return Problem(
        file=FILE,
        line=line,
        column=MAX_LINE,
        message=f"a line of more than {MAX_LINE} characters",
        fix="divide it",
        rule="bundle.limit",
    )


def _broken(message: str) -> Problem:
    return Problem(file=FILE, message=message, rule="manifest")
