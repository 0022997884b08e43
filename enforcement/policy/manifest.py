"""`bundle.toml`: a bundle's name, version, claim vocabulary, stream mode and detectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from enforcement.detectors import DETECTORS, max_match_length
from enforcement.outcome import Phase
from enforcement.policy.annotations import nearest
from enforcement.policy.manifest_toml import NAME, Table, TableReader, read_toml
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

MAX_HOLD_BACK: Final = 65_536  # characters

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


class StreamTable(Table, frozen=True):
    """`[stream]`: how streamed replies are guarded.

    `window`: hold back the last `hold_back` characters (code points of decoded text, per choice);
    `buffer`: hold everything to the end; `observe`: hold nothing, only record.
    """

    mode: Literal["window", "buffer", "observe"] = "window"
    hold_back: Annotated[int, msgspec.Meta(ge=1, le=MAX_HOLD_BACK)] = 256


class ClaimTable(Table, frozen=True):
    """`[claims.<name>]`: one claim of the vocabulary."""

    type: ClaimType
    source: str | list[str]
    merge: Merge | None = None
    phases: Annotated[list[Phase], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: list(Phase)
    )
    optional: bool = False
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class AuditorTable(Table, frozen=True):
    """`[auditors.<name>]`: what an auditor does besides giving claims.

    `labels`: what it marks in texts, so that `@redact` may name it.
    """

    labels: Annotated[list[str], msgspec.Meta(max_length=MAX_LABELS)] = msgspec.field(
        default_factory=list
    )


class AuthzenTable(Table, frozen=True):
    """`[authzen]`: what the names in AuthZEN requests mean here; `"*"` is for every other name."""

    subjects: dict[str, Literal["User", "Agent", "APIKey"]] = msgspec.field(default_factory=dict)
    actions: dict[str, Literal["invoke", "access_data"]] = msgspec.field(default_factory=dict)
    resources: dict[str, Literal["Agent", "Service"]] = msgspec.field(default_factory=dict)


class ManifestTable(Table, frozen=True):
    """The keys above the tables."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    version: Annotated[str, msgspec.Meta(pattern=NAME)]
    anonymous: bool = False  # clients that show nothing may ask, where the agent lets them, too


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


def parse_manifest(content: bytes) -> tuple[Manifest | None, list[Problem]]:
    """Read `bundle.toml`; None where it is too broken to go on. Lists every problem it can."""
    read = read_toml(content)
    if isinstance(read, Problem):
        return None, [read]
    text, raw = read
    reader = TableReader(text)
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


def _claims(raw: object, reader: TableReader) -> list[Claim]:
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


def _auditors(
    raw: object, claims: list[Claim], reader: TableReader
) -> Mapping[str, frozenset[str]]:
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


def _detectors(switches: object, reader: TableReader) -> frozenset[str]:
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
