"""Warnings: policies that are valid and do nothing, as far as that can be proved.

Only what is certain is said: a warning means that no request can make the policy matter. Conditions
are read as a conjunction of simple comparisons; a part that is not simple is taken for possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from enforcement.outcome import Outcome, Phase
from enforcement.policy.annotations import PolicyInfo
from enforcement.policy.bundle import Bundle, Problem
from enforcement.policy.cedar_text import I64_MAX, SCALE
from enforcement.policy.policy_source import Est
from enforcement.policy.vocabulary import I64_MIN, ClaimType, Vocabulary

_FLIPPED: Final = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
_NEGATED: Final = {"<": ">=", ">": "<=", "<=": ">", ">=": "<", "==": "!=", "!=": "=="}


def warnings(bundle: Bundle) -> list[Problem]:
    """Every warning about a bundle, in the order of its files."""
    found: list[Problem] = []
    policies = list(bundle.policies.values())
    for policy in policies:
        never = next(_never(policy, bundle.vocabulary), None)
        if never:
            found.append(_at(policy, f"{policy.id} can never apply: {never}", "never_applies"))
        shadow = _shadowed(policy, policies)
        if shadow:
            found.append(shadow)
    for phase in Phase:
        permits = [p for p in policies if p.outcome is Outcome.PROCEED and phase in p.phases]
        if not permits:
            found.append(
                Problem(
                    file="policies",
                    message=f"no permit takes part in phase {phase.value}: all of it is denied",
                    fix="add a permit, or take @phase off one",
                    rule="phase.no_permit",
                )
            )
    read = {name for policy in policies for name in policy.reads.of(bundle.vocabulary.names())}
    found += [
        Problem(
            file="bundle.toml",
            message=f"no policy reads the claim {name}, which an auditor is asked for",
            fix="take it out, or read it",
            rule="claim.unread",
        )
        for name in bundle.vocabulary.names()
        if name not in read and bundle.vocabulary[name].auditors
    ]
    if not any(name.startswith("tests/") for name in bundle.files):
        found.append(
            Problem(
                file="tests",
                message="the bundle has no tests",
                fix="write tests/*.yaml and run: lucid policy test DIR",
                rule="tests.none",
            )
        )
    return sorted(found)


def conjuncts(policy: Est) -> Iterator[tuple[bool, Any]]:
    """The parts of a policy's conditions that must all hold: (True, expression that must be true)
    or (False, expression that must be false)."""
    for condition in policy.get("conditions", ()):
        wanted = condition["kind"] == "when"
        stack = [condition["body"]]
        while stack:
            node = stack.pop()
            joint = node.get("&&" if wanted else "||") if isinstance(node, dict) else None
            if joint:
                stack += [joint["right"], joint["left"]]
            else:
                yield wanted, node


def _never(policy: PolicyInfo, vocabulary: Vocabulary) -> Iterator[str]:
    """Why no request can meet the conditions."""
    ranges: dict[str, tuple[int, int]] = {}
    equal: dict[str, Any] = {}
    for raw_wanted, raw_node in conjuncts(policy.est):
        wanted, node = _without_not(raw_wanted, raw_node)
        if node == {"Value": not wanted}:
            yield "a condition is always false"
        path = _path(node)
        if path is not None and path not in equal:
            equal[path] = wanted
        elif path is not None and equal[path] != wanted:
            yield f"{path} would have to be true and false"
        comparison = _comparison(node, wanted)
        if comparison is None:
            continue
        path, operator, value = comparison
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = ranges.get(path, _bounds(path, vocabulary))
            low, high = _narrowed(low, high, operator, value)
            if low > high:
                yield f"no value of {path} meets all of its comparisons" + _scale_note(
                    path, vocabulary
                )
            ranges[path] = low, high
        elif operator == "==":
            if path in equal and equal[path] != value:
                yield f"{path} would have to be two different things"
            equal[path] = value
    phase = equal.get("phase")
    if isinstance(phase, str) and phase not in {p.value for p in policy.phases}:
        yield f"it asks for phase {phase!r} and takes part in " + ", ".join(sorted(policy.phases))
    if equal.get("platform.simulated") is True and equal.get("platform.hardware_attested") is True:
        yield "a simulated platform is never attested by hardware"


def _without_not(wanted: bool, node: Any) -> tuple[bool, Any]:  # noqa: FBT001 - the pair is one thing
    while isinstance(node, dict) and set(node) == {"!"}:
        wanted, node = not wanted, node["!"]["arg"]
    return wanted, node


def _comparison(node: Any, wanted: bool) -> tuple[str, str, Any] | None:  # noqa: FBT001
    """(path below the context, operator, literal) of a simple comparison."""
    if not isinstance(node, dict) or len(node) != 1:
        return None
    [(operator, operands)] = node.items()
    if operator not in _FLIPPED or not isinstance(operands, dict):
        return None
    left, right = operands["left"], operands["right"]
    if _path(left) is None:
        left, right, operator = right, left, _FLIPPED[operator]
    path = _path(left)
    if path is None or not isinstance(right, dict) or set(right) != {"Value"}:
        return None
    return path, operator if wanted else _NEGATED[operator], right["Value"]


def _path(node: Any) -> str | None:
    """`claims.x` for `context.claims.x`; None for anything else."""
    steps: list[str] = []
    while isinstance(node, dict) and set(node) == {"."}:
        steps.append(str(node["."]["attr"]))
        node = node["."]["left"]
    return ".".join(reversed(steps)) if steps and node == {"Var": "context"} else None


def _bounds(path: str, vocabulary: Vocabulary) -> tuple[int, int]:
    name = path.removeprefix("claims.")
    score = name in vocabulary and vocabulary[name].type is ClaimType.SCORE
    return (0, SCALE) if score else (I64_MIN, I64_MAX)


def _scale_note(path: str, vocabulary: Vocabulary) -> str:
    return " (a score is from 0 to 10000)" if _bounds(path, vocabulary) == (0, SCALE) else ""


def _narrowed(low: int, high: int, operator: str, value: int) -> tuple[int, int]:
    match operator:
        case "<":
            return low, min(high, value - 1)
        case "<=":
            return low, min(high, value)
        case ">":
            return max(low, value + 1), high
        case ">=":
            return max(low, value), high
        case "==":
            return max(low, value), min(high, value)
        case _:
            return low, high


def _shadowed(policy: PolicyInfo, others: Iterable[PolicyInfo]) -> Problem | None:
    """Whether another policy decides whatever this one could decide."""
    for other in others:
        if other.id == policy.id or other.est.get("conditions") or not _covers(other, policy):
            continue
        if other.outcome is Outcome.DENY and policy.outcome is not Outcome.DENY:
            return _at(
                policy,
                f"{policy.id} has no effect: {other.id} ({other.file}:{other.line}) forbids all of "
                "it",
                "shadowed",
            )
        both_permit = policy.outcome is Outcome.PROCEED and other.outcome is Outcome.PROCEED
        if both_permit and not policy.obliges:  # what it obliges to holds beside the other
            first = (other.file, other.line) < (policy.file, policy.line)
            if policy.est.get("conditions") or first or not _covers(policy, other):
                return _at(
                    policy,
                    f"{policy.id} adds nothing: {other.id} ({other.file}:{other.line}) permits all "
                    "of it",
                    "shadowed",
                )
    return None


def _covers(wide: PolicyInfo, narrow: PolicyInfo) -> bool:
    """Whether the scope and phases of one hold all of the other's."""
    actions = wide.actions is None or (
        narrow.actions is not None and narrow.actions <= wide.actions
    )
    return (
        narrow.phases <= wide.phases
        and actions
        and all(
            wide.est[part] == {"op": "All"} or wide.est[part] == narrow.est[part]
            for part in ("principal", "resource")
        )
    )


def _at(policy: PolicyInfo, message: str, rule: str) -> Problem:
    return Problem(
        file=policy.file, line=policy.line, column=policy.column, message=message, rule=rule
    )
