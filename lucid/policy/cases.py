"""Test cases of a bundle: `tests/*.yaml`.

    defaults:                        # for every case of the file
      principal: User::"alice"
      claims: { injection_risk: 0.1, pii_found: false }
    cases:
      - name: an attack is refused
        phase: request               # or response; request is the default
        claims: { injection_risk: 0.92 }
        expect:
          outcome: deny              # proceed, warn, redact, deny
          reasons: [prompt-injection]

Claims are written as auditors give them: scores from 0 to 1 and other decimals are scaled by
10 000 here, as the agent does it. A claim set to `null` is absent. Everything unknown is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml

from attestation.records import ClaimValue
from enforcement.outcome import Phase, Platform, PolicyRequest
from enforcement.policy.annotations import nearest
from enforcement.policy.bundle import Bundle, Problem
from enforcement.policy.vocabulary import ClaimError, ClaimType, Vocabulary

MAX_CASES: Final = 10_000  # of one bundle

_UID: Final = re.compile(r'(?:Lucid::)?([A-Za-z]+)::(?:"([^"]*)"|([^"\s]+))')


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class PlatformFields(_Strict, frozen=True):
    """What is said of the hardware; the default is an attested SEV-SNP machine."""

    tee_type: str = "sev-snp"
    hardware_attested: bool = True
    tcb_status: str = "appraised"  # or not_appraised
    simulated: bool = False


class Expect(_Strict, frozen=True):
    """What must come of it; what is not written is not compared."""

    outcome: Literal["proceed", "warn", "redact", "deny"]
    reasons: list[str] | None = None  # exactly these
    includes: list[str] | None = None  # these among others
    obligations: dict[str, Any] | None = None  # exactly these, for example {redact: [email]}


class _Fields(_Strict, frozen=True):
    phase: Phase | None = None
    principal: str | None = None
    action: Literal["invoke", "access_data"] | None = None
    resource: str | None = None
    trace_id: str | None = None
    groups: list[str] | None = None  # from a token, beside those of entities.json
    platform: dict[str, Any] | None = None
    claims: dict[str, Any] = {}


class _Defaults(_Fields, frozen=True):
    pass


class _Written(_Fields, kw_only=True, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    expect: Expect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case, ready to be put to an engine. `expect` None: only to be explained."""

    file: str
    line: int
    name: str
    request: PolicyRequest
    expect: Expect | None


class _Loader(yaml.SafeLoader):
    """YAML without aliases (which can grow without bound) and without a key twice in a map."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs lack it
            raise yaml.MarkedYAMLError(
                problem="aliases are not supported", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's own
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key is no plain text", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_cases(bundle: Bundle) -> tuple[list[Case], list[Problem]]:
    """Every case of a bundle's own test files, and what is wrong with them."""
    cases: list[Case] = []
    problems: list[Problem] = []
    for name, content in bundle.files.items():
        if name.startswith("tests/") and name.endswith((".yaml", ".yml")):
            found, complaints = parse_cases(name, content, bundle.vocabulary)
            cases += found
            problems += complaints
    if len(cases) > MAX_CASES:
        problems.append(Problem(file="tests", message=f"more than {MAX_CASES} cases", rule="test"))
    return cases, problems


def parse_cases(
    file: str, content: bytes, vocabulary: Vocabulary
) -> tuple[list[Case], list[Problem]]:
    """The cases of one file, and what is wrong with it."""
    try:
        value, lines = _parse(content)
        defaults_value, written = _sections(value)
        defaults = msgspec.convert(defaults_value, _Defaults)
    except _BrokenError as error:
        return [], [_problem(file, error.line, error.column, str(error))]
    except msgspec.ValidationError as error:
        return [], [_problem(file, 1, 1, f"defaults: {error}", _fix(error))]
    cases: list[Case] = []
    problems: list[Problem] = []
    for number, raw in enumerate(written):
        line = lines[number] if number < len(lines) else 1
        try:
            entry = msgspec.convert(raw, _Written)
            cases.append(
                Case(
                    file=file,
                    line=line,
                    name=entry.name,
                    request=_request(entry, defaults, vocabulary),
                    expect=entry.expect,
                )
            )
        except (ValueError, msgspec.ValidationError) as error:
            named = f" {raw.get('name')!r}" if isinstance(raw, dict) and "name" in raw else ""
            problems.append(
                _problem(file, line, 1, f"case {number + 1}{named}: {error}", _fix(error))
            )
    return cases, problems


class _BrokenError(Exception):
    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def _parse(content: bytes) -> tuple[Any, list[int]]:
    """The document, and the line of each case."""
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _BrokenError(str(error.problem or error.context), *place) from None
    # PyYAML looks into values by what their tags promise, and trips where they do not keep it.
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError):
        raise _BrokenError(
            "not YAML: a value is not what its tag says, or nested too deeply"
        ) from None
    if isinstance(node, yaml.MappingNode):
        node = next((item for key, item in node.value if key.value == "cases"), None)
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    return value, [item.start_mark.line + 1 for item in items]


def _sections(value: Any) -> tuple[Any, list[Any]]:
    if isinstance(value, list):
        return {}, value
    if not isinstance(value, dict):
        raise _BrokenError("a list of cases, or a map with `cases` and `defaults`, is needed")
    unknown = set(value) - {"defaults", "cases"}
    if unknown:
        raise _BrokenError(f"unknown key {min(map(str, unknown))!r}; known: cases, defaults")
    if not isinstance(value.get("cases"), list):
        raise _BrokenError("`cases` must be a list")
    return value.get("defaults") or {}, value["cases"]


def _request(entry: _Written, defaults: _Defaults, vocabulary: Vocabulary) -> PolicyRequest:
    phase = entry.phase or defaults.phase or Phase.REQUEST
    fields = (defaults.platform or {}) | (entry.platform or {})
    platform = msgspec.convert(fields, PlatformFields)
    claims = {
        name: value
        for name, value in (defaults.claims | entry.claims).items()
        # A default may be for the other phase only; what a case itself says must fit.
        if name in entry.claims or _given(name, phase, vocabulary)
    }
    return PolicyRequest(
        principal=_uid(entry.principal or defaults.principal or 'User::"anonymous"'),
        action=entry.action or defaults.action or "invoke",
        resource=_uid(entry.resource or defaults.resource or 'Agent::"agent"'),
        phase=phase,
        claims=claim_values(claims, phase, vocabulary),
        trace_id=entry.trace_id or defaults.trace_id or "0" * 32,
        platform=Platform(**msgspec.structs.asdict(platform)),
        groups=tuple(entry.groups if entry.groups is not None else defaults.groups or ()),
    )


def _given(name: str, phase: Phase, vocabulary: Vocabulary) -> bool:
    return name not in vocabulary or phase in vocabulary[name].phases


def claim_values(
    claims: Mapping[str, Any], phase: Phase, vocabulary: Vocabulary
) -> dict[str, ClaimValue]:
    """Claims as people write them, in the form that policies see.

    Raises:
        ValueError: a claim that the vocabulary does not give in this phase, or a value that does
            not fit it.
    """
    found: dict[str, ClaimValue] = {}
    for name, value in claims.items():
        if name not in vocabulary:
            raise ValueError(f"unknown claim {name!r}; {nearest(name, vocabulary.names())}")
        claim = vocabulary[name]
        if phase not in claim.phases:
            raise ValueError(f"the claim {name} is not given in phase {phase.value}")
        if value is None:
            continue
        try:
            if claim.type in {ClaimType.SCORE, ClaimType.DECIMAL}:
                found[name] = vocabulary.scale(name, value)
            else:
                found[name] = claim.check(value)
        except ClaimError as error:
            hint = ""
            if claim.type is ClaimType.SCORE:
                hint = " (a score is written from 0 to 1 here; only policies see it times 10 000)"
            raise ValueError(f"{error}{hint}") from None
    return found


def _uid(text: str) -> tuple[str, str]:
    match = _UID.fullmatch(text)
    if not match:
        raise ValueError(f'{text!r} is not an entity; write it as User::"alice"')
    return match[1], match[2] if match[2] is not None else match[3]


_UNKNOWN: Final = re.compile(r"contains unknown field `([^`]*)`")
_KEYS: Final = frozenset(
    field.name
    for kind in (_Written, Expect, PlatformFields)
    for field in msgspec.structs.fields(kind)
)


def _fix(error: Exception) -> str:
    """The nearest key to one that is not known."""
    match = _UNKNOWN.search(str(error))
    return nearest(match[1], _KEYS) if match else ""


def _problem(file: str, line: int, column: int, message: str, fix: str = "") -> Problem:
    return Problem(file=file, line=line, column=column, message=message, fix=fix, rule="test")
