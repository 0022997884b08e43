"""`bundle.toml`: a bundle's name, version, claim vocabulary, stream mode and detectors."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from enforcement.detectors import DETECTORS, max_match_length
from enforcement.outcome import Phase
from enforcement.policy.annotations import nearest
from enforcement.policy.problems import Problem
from enforcement.policy.vocabulary import (
    AUDITOR,
    AUTHZEN,
    BUILTIN_CLAIMS,
    LIMITS,
    MERGES,
    Claim,
    ClaimType,
    Merge,
    Vocabulary,
    name_problem,
)

FILE: Final = "bundle.toml"
MAX_LINE: Final = 8192  # characters; the parser takes quadratic time for a key of many parts
MAX_HOLD_BACK: Final = 65_536  # characters

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TABLES: Final = frozenset({"stream", "detectors", "claims", "auditors", "authzen"})
_AUDITOR_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_AUDITOR: Final = re.compile(AUDITOR + _AUDITOR_NAME)
# A place in an AuthZEN request (`enforcement/authzen.py`).
_AUTHZEN: Final = re.compile(
    AUTHZEN + r"(?:subject|action|resource|context)(?:\.[A-Za-z0-9_-]{1,64}){1,4}"
)
LABEL: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
MAX_AUDITORS: Final = 32  # of one bundle
MAX_LABELS: Final = 64  # of one auditor


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file: unknown keys are errors."""


class StreamTable(_Table, frozen=True):
    """`[stream]`: how streamed replies are guarded.

    `window`: hold back the last `hold_back` characters (code points of decoded text, per choice);
    `buffer`: hold everything to the end; `observe`: hold nothing, only record.
    """

    mode: Literal["window", "buffer", "observe"] = "window"
    hold_back: Annotated[int, msgspec.Meta(ge=1, le=MAX_HOLD_BACK)] = 256


class ClaimTable(_Table, frozen=True):
    """`[claims.<name>]`: one claim of the vocabulary."""

    type: ClaimType
    source: str | list[str]
    merge: Merge | None = None
    phases: Annotated[list[Phase], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: list(Phase)
    )
    optional: bool = False
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class AuditorTable(_Table, frozen=True):
    """`[auditors.<name>]`: what an auditor does besides giving claims.

    `labels`: what it marks in texts, so that `@redact` may name it.
    """

    labels: Annotated[list[str], msgspec.Meta(max_length=MAX_LABELS)] = msgspec.field(
        default_factory=list
    )


class AuthzenTable(_Table, frozen=True):
    """`[authzen]`: what the names in AuthZEN requests mean here; `"*"` is for every other name."""

    subjects: dict[str, Literal["User", "Agent", "APIKey"]] = msgspec.field(default_factory=dict)
    actions: dict[str, Literal["invoke", "access_data"]] = msgspec.field(default_factory=dict)
    resources: dict[str, Literal["Agent", "Service"]] = msgspec.field(default_factory=dict)


class ManifestTable(_Table, frozen=True):
    """The keys above the tables."""

    name: Annotated[str, msgspec.Meta(pattern=_NAME)]
    version: Annotated[str, msgspec.Meta(pattern=_NAME)]
    anonymous: bool = False  # clients that show nothing may ask, where the agent lets them, too


_T = TypeVar("_T", bound=_Table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What `bundle.toml` says, checked."""

    name: str
    version: str
    anonymous: bool
    stream: StreamTable
    detectors: frozenset[str]
    vocabulary: Vocabulary
    auditors: Mapping[str, frozenset[str]]  # labels that each marks, by its name
    authzen: AuthzenTable


class _Reader:
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


def parse_manifest(content: bytes) -> tuple[Manifest | None, list[Problem]]:
    """Read `bundle.toml`; None where it is too broken to go on. Lists every problem it can."""
    try:
        text = content.decode("utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > MAX_LINE:
                return None, [_too_long(number)]
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        return None, [_broken(f"not UTF-8 at byte {error.start}")]
    except tomllib.TOMLDecodeError as error:
        return None, [_toml_problem(str(error), text)]
    except ValueError:  # of thousands of digits
        return None, [_broken("a number is too large")]
    except RecursionError:
        return None, [_broken("nested too deeply")]
    reader = _Reader(text)
    head = reader.table({k: v for k, v in raw.items() if k not in _TABLES}, ManifestTable, "")
    stream = reader.table(raw.get("stream", {}), StreamTable, "stream")
    detectors = _detectors(raw.get("detectors", {}), reader)
    claims = _claims(raw.get("claims", {}), reader)
    auditors = _auditors(raw.get("auditors", {}), claims, reader)
    authzen = reader.table(raw.get("authzen", {}), AuthzenTable, "authzen")
    if stream is not None and stream.mode == "window":
        least = max_match_length(detectors)
        if stream.hold_back < least:
            reader.problem(
                "stream.hold_back",
                f"hold_back {stream.hold_back} is shorter than what the detectors that are on can "
                f"match ({least} characters), so a match could leave in part",
                f"write {least} or more, or switch detectors off",
            )
    if head is None or stream is None or authzen is None:
        return None, reader.problems
    return Manifest(
        name=head.name,
        version=head.version,
        anonymous=head.anonymous,
        stream=stream,
        detectors=detectors,
        vocabulary=Vocabulary(claims),
        auditors=auditors,
        authzen=authzen,
    ), reader.problems


def _claims(raw: object, reader: _Reader) -> list[Claim]:
    if not isinstance(raw, dict):
        reader.problem("claims", "`claims` must be a table of tables")
        return []
    if len(raw) > LIMITS.claims:
        reader.problem("claims", f"more than {LIMITS.claims} claims")
        return []
    claims: list[Claim] = []
    for name, content in raw.items():
        path = f"claims.{name}"
        complaint = name_problem(name)
        if complaint:
            reader.problem(path, complaint)
            continue
        table = reader.table(content, ClaimTable, path)
        if table is None:
            continue
        sources = (table.source,) if isinstance(table.source, str) else tuple(table.source)
        complaint = _source_problem(name, table.type, sources)
        if complaint:
            reader.problem(f"{path}.source", complaint)
        merge, complaint = _merge(table, sources)
        if complaint:
            reader.problem(f"{path}.merge", complaint)
        claims.append(
            Claim(
                name=name,
                type=table.type,
                sources=sources,
                merge=merge,
                phases=frozenset(table.phases),
                optional=table.optional,
                description=table.description,
            )
        )
    return claims


def _source_problem(name: str, kind: ClaimType, sources: tuple[str, ...]) -> str | None:
    if not sources or len(set(sources)) != len(sources):
        return "`source` names nobody, or somebody twice"
    for source in sources:
        if source == "builtin":
            if name not in BUILTIN_CLAIMS:
                return f"no built-in detector gives `{name}`; {nearest(name, BUILTIN_CLAIMS)}"
            if kind is not BUILTIN_CLAIMS[name]:
                return f"the built-in claim `{name}` is a {BUILTIN_CLAIMS[name].value}"
        elif source.startswith(AUTHZEN):
            if not _AUTHZEN.fullmatch(source):
                return f"{source!r} is no place in an AuthZEN request; e.g. authzen:resource.id"
            if len(sources) > 1:
                return "a claim that an AuthZEN request gives has no other source"
        elif not _AUDITOR.fullmatch(source):
            return f"unknown source {source!r}; write `builtin` or `auditor:<name>`"
    if name in BUILTIN_CLAIMS and "builtin" not in sources:
        return f"`{name}` is a built-in claim; name `builtin` beside the auditors that give it too"
    return None


def _merge(table: ClaimTable, sources: tuple[str, ...]) -> tuple[Merge | None, str | None]:
    """The rule for several sources, and what is wrong with it."""
    rules = MERGES[table.type]
    if len(sources) < 2:
        return None, "`merge` without a second source" if table.merge else None
    if not rules:
        return None, f"a {table.type.value} cannot have several sources: nothing could merge them"
    if table.merge is None:
        return rules[0], None
    if table.merge not in rules:
        return None, f"a {table.type.value} merges by {' or '.join(rules)}"
    if "builtin" in sources and table.merge is not rules[0]:
        return None, f"what a detector found stays found: `merge` must be {rules[0].value}"
    return table.merge, None


def _auditors(raw: object, claims: list[Claim], reader: _Reader) -> Mapping[str, frozenset[str]]:
    """The labels that each auditor marks; auditors are those that give a claim."""
    known = sorted({name for claim in claims for name in claim.auditors})
    labels: dict[str, frozenset[str]] = dict.fromkeys(known, frozenset[str]())
    if not isinstance(raw, dict):
        reader.problem("auditors", "`auditors` must be a table of tables")
        return labels
    if len(known) > MAX_AUDITORS:
        reader.problem("claims", f"more than {MAX_AUDITORS} auditors")
    for name, content in raw.items():
        path = f"auditors.{name}"
        table = reader.table(content, AuditorTable, path)
        if name not in labels:
            reader.problem(path, f"no claim has the source `auditor:{name}`", nearest(name, known))
        if table is None:
            continue
        for label in table.labels:
            if not LABEL.fullmatch(label):
                reader.problem(
                    f"{path}.labels",
                    f"{label!r} is not a label (a lower-case letter, then up to 31 lower-case "
                    "letters, digits and underscores)",
                )
        labels[name] = frozenset(table.labels)
    return labels


def _detectors(switches: object, reader: _Reader) -> frozenset[str]:
    """Labels that are on: all, except those that `[detectors]` switches off."""
    if not isinstance(switches, dict):
        reader.problem("detectors", "`detectors` must be a table of switches")
        return DETECTORS
    off: set[str] = set()
    for label, switch in switches.items():
        path = f"detectors.{label}"
        if label not in DETECTORS:
            reader.problem(path, f"unknown detector `{label}`", nearest(label, DETECTORS))
        elif not isinstance(switch, bool):
            reader.problem(path, f"`{path}` must be true or false")
        elif not switch:
            off.add(label)
    return DETECTORS - off


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
    if text.endswith(_NAME + "'"):
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
