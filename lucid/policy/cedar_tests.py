"""Test files of Cedar's own command (`cedar run-tests`): a JSON list of requests with answers.

    [{"name": …, "request": {"principal", "action", "resource", "context"}, "entities": […],
      "decision": "allow" | "deny", "reason": ["policy0", …], "num_errors": 0}]

They are answered by Cedar's decision over all policies, without claims, phases and outcomes; a
`reason` may be a policy's `@id` or its place in the file (`policy0`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from enforcement.policy.policies import CedarError, Entities, Schema, Uid
from enforcement.policy.policy_source import Est, PolicySource
from enforcement.policy.slicing import PolicyIndex
from lucid.policy.running import Result

_UID: Final = re.compile(r'((?:\w+::)*\w+)::("(?:\\.|[^"\\])*")')


class CedarTestsError(ValueError):
    """The file is not one of Cedar's test files."""


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    principal: Any
    action: Any
    resource: Any
    context: dict[str, Any] = {}


class _Test(msgspec.Struct, forbid_unknown_fields=True):
    request: _Request
    entities: list[Any]
    decision: Literal["allow", "deny"]
    reason: list[str]
    num_errors: Annotated[int, msgspec.Meta(ge=0)]
    name: str | None = None


def run_cedar_tests(
    file: str,
    content: bytes,
    policies: list[PolicySource],
    *,
    names: Mapping[int, str],
    schema: Schema | None = None,
) -> list[Result]:
    """Every test of a file. `names`: the policies' ids by their place.

    Raises:
        CedarTestsError: the file is malformed.
    """
    try:
        tests = msgspec.json.decode(content, type=list[_Test])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CedarTestsError(f"{file}: {error}") from None
    static = {names[p.position]: p.est for p in policies if not p.template}
    return [
        _run(f"{file}: test {number}", file, test, static, names=names, schema=schema)
        for number, test in enumerate(tests, 1)
    ]


def _run(
    label: str,
    file: str,
    test: _Test,
    policies: Mapping[str, Est],
    *,
    names: Mapping[int, str],
    schema: Schema | None,
) -> Result:
    given = [_uid(label, uid) for uid in _parts(test.request)]
    try:
        entities = Entities(json.dumps(test.entities), schema)
        index = PolicyIndex(policies, entities=entities, schema=schema)
    except CedarError as error:
        raise CedarTestsError(f"{label}: {error}") from None
    answer = index.evaluate(
        principal=given[0],
        action=given[1],
        resource=given[2],
        context=json.dumps(test.request.context),
    )
    failures = []
    if answer.ruling.value != test.decision:
        failures.append(f"decision: expected {test.decision}, got {answer.ruling.value}")
    wanted = tuple(sorted(_named(reason, names) for reason in test.reason))
    if wanted != answer.reasons:
        failures.append(f"reason: expected {list(wanted)}, got {list(answer.reasons)}")
    if len(answer.faults) != test.num_errors:
        failures.append(f"num_errors: expected {test.num_errors}, got {len(answer.faults)}")
    return Result(
        file=file,
        line=0,
        name=test.name or label.removeprefix(f"{file}: "),
        outcome=answer.ruling.value,
        reasons=answer.reasons,
        failures=tuple(failures),
    )


def _parts(request: _Request) -> tuple[Any, Any, Any]:
    return request.principal, request.action, request.resource


def _named(reason: str, names: Mapping[int, str]) -> str:
    match = re.fullmatch(r"policy(\d+)", reason)
    return names.get(int(match[1]), reason) if match else reason


def _uid(label: str, value: Any) -> Uid:
    match value:
        case {"type": str(kind), "id": str(name)}:
            return kind, name
        case {"__entity": {"type": str(kind), "id": str(name)}}:
            return kind, name
        case str(text) if found := _UID.fullmatch(text):
            return found[1], str(json.loads(found[2]))
    raise CedarTestsError(f"{label}: {value!r} is not an entity")
