"""What a policy reads of the context, found by walking Cedar's JSON form of it.

Cedar has no computed attribute names on records, so the walk is exact: `context.claims.x`,
`context["claims"]["x"]` and `context.claims has x` all name their claim. Where a policy uses
`context` or `context.claims` as a whole value (compares it, puts it into a record), it is taken to
read everything in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from enforcement.policy.policy_source import Est

# Single-key nodes whose operands are named; everything else holds its operands as listed below.
_OPERANDS = ("left", "right", "arg", "if", "then", "else", "in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What one policy reads.

    Attributes:
        all_claims: the record of claims as a whole.
        frame: top-level attributes beside the claims that are read (`phase`, `trace_id`,
            `platform`), and `platform.<field>`; a bare `platform` is the record as a whole.
        whole: the context itself is a value, or asked what it has: everything must be there.
        asked: what is asked for with `has`: of whom (`principal`, `resource`, `action`, or the type
            of an entity that is named), and the attribute; `hasTag` for any tag.
    """

    claims: frozenset[str]
    all_claims: bool
    trace_id: bool
    frame: frozenset[str] = frozenset()
    whole: bool = False
    asked: frozenset[tuple[str, str]] = frozenset()

    def of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `names` that are read, in their order."""
        return names if self.all_claims else tuple(n for n in names if n in self.claims)


def reads_of(policy: Est) -> Reads:
    """Walk the conditions of a policy. (Its scope cannot mention the context.)"""
    claims: set[str] = set()
    frame: set[str] = set()
    asked: set[tuple[str, str]] = set()
    everything = trace = whole = False
    stack: list[Any] = [condition["body"] for condition in policy.get("conditions", ())]
    while stack:
        node = stack.pop()
        path = _context_path(node)
        if path is None:
            stack.extend(_operands(node))
            match node:
                case {"has": {"left": left, "attr": str(name)}}:
                    asked |= {(whom, name) for whom in _whom(left)}
                case {"hasTag": {"left": left}}:
                    asked |= {(whom, "hasTag") for whom in _whom(left)}
        elif not path:
            everything = trace = whole = True
        elif len(path) == 1 and "has" in node:
            # `context has claims`: whether the record is there. It is, if nothing is left out.
            whole = True
            frame.add(path[0])
        elif path[0] == "claims":
            if len(path) == 1:
                everything = True
            else:
                claims.add(path[1])
        else:
            trace = trace or path[0] == "trace_id"
            frame.add(".".join(path[:2]))
    return Reads(
        claims=frozenset(claims),
        all_claims=everything,
        trace_id=trace,
        frame=frozenset(frame),
        whole=whole,
        asked=frozenset(asked),
    )


def named(policy: Est, kind: str) -> frozenset[str]:
    """Ids of the entities of one type (`Lucid::Group`) that a policy names, wherever it does."""
    return frozenset(name for type_, name in mentioned(policy) if type_ == kind)


def mentioned(part: Any) -> frozenset[tuple[str, str]]:
    """Types and ids of the entities that a policy, or a part of one, names.

    May be too many: whatever looks like an entity counts.
    """
    found: set[tuple[str, str]] = set()
    stack: list[Any] = [part]
    while stack:
        match stack.pop():
            case {"type": str(kind), "id": str(name)}:
                found.add((kind, name))
            case dict() as node:
                stack.extend(node.values())
            case list() as nodes:
                stack.extend(nodes)
    return frozenset(found)


def _whom(node: Any) -> tuple[str, ...]:
    """Who is asked, where that can be said: a variable, or the type of an entity."""
    match node:
        case {"Var": str(name)} | {"Value": {"__entity": {"type": str(name)}}}:
            return (name,)
        case _:
            return ()


def _context_path(node: Any) -> tuple[str, ...] | None:
    """`("claims", "x")` for `context.claims.x` and for `context.claims has x`, `()` for
    `context` itself, None for what does not start at the context."""
    path: list[str] = []
    while isinstance(node, dict) and len(node) == 1:
        if node.get("Var") == "context":
            return tuple(reversed(path))
        step = node.get(".") or node.get("has")
        if not isinstance(step, dict):
            return None
        path.append(str(step["attr"]))
        node = step["left"]
    return None


def _operands(node: Any) -> Iterator[Any]:
    """The expressions directly below a node."""
    if not isinstance(node, dict):
        return
    for kind, content in node.items():
        if kind == "Value":  # a literal: strings in it are not expressions
            continue
        if kind == "Record":
            yield from content.values()
        elif isinstance(content, list):  # sets, and arguments of extension functions
            yield from content
        elif isinstance(content, dict):
            yield from (content[key] for key in _OPERANDS if key in content)
