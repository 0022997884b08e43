"""What a policy reads of the context, in every way Cedar lets it be written."""

from __future__ import annotations

import pytest

from enforcement.policy.policy_source import parse_policies
from enforcement.policy.reads import Reads, reads_of


def reads(condition: str) -> Reads:
    text = f"forbid (principal, action, resource) when {{ {condition} }};"
    (policy,), problems = parse_policies("p", text)
    assert not problems
    return reads_of(policy.est)


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("true", set()),
        ("context.claims.a", {"a"}),
        ('context["claims"].a', {"a"}),
        ('context["claims"]["a b"]', {"a b"}),
        ('context.claims["a"] > 3 && context.claims.b', {"a", "b"}),
        ("context.claims has a", {"a"}),
        ("context has claims && context.claims has a", {"a"}),
        ("context has claims.a", {"a"}),
        ("if context.claims.a then context.claims.b else !context.claims.c", {"a", "b", "c"}),
        ("[context.claims.a].contains(context.claims.b)", {"a", "b"}),
        ("{x: context.claims.a}.x", {"a"}),
        ('{".": context.claims.a}["."]', {"a"}),
        ("-context.claims.a > 1 + context.claims.b * 2", {"a", "b"}),
        ('context.claims.a like "*b*"', {"a"}),
        ("ip(context.claims.a).isInRange(ip(context.claims.b))", {"a", "b"}),
        ('principal.getTag(context.claims.a) == "x"', {"a"}),
        ("principal is Lucid::User in [context.claims.a]", {"a"}),
        ("context.claims.a.b.c", {"a"}),
        ("context.claims.a.isEmpty() || context.claims.b.containsAny([1])", {"a", "b"}),
        ('"context.claims.a" == "x"', set()),
        ("context.platform.simulated", set()),
        ("principal.claims.a", set()),
        ("resource has claims", set()),
    ],
)
def test_claims_that_are_named_are_found(condition: str, names: set[str]) -> None:
    found = reads(condition)
    assert found.claims == names
    assert not found.all_claims
    assert not found.trace_id


@pytest.mark.parametrize(
    "condition",
    [
        "context.claims == {}",
        "{a: context.claims}.a.b",
        "[context.claims].contains({})",
        "(if true then context.claims else context.claims).a",
        "context == {}",
        "(if true then context else context).claims.a",
    ],
)
def test_the_record_as_a_value_counts_as_all_claims(condition: str) -> None:
    found = reads(condition)
    assert found.all_claims
    assert found.of(("x", "y")) == ("x", "y")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('context.trace_id == ""', True),
        ('context["trace_id"] like "*"', True),
        ("context == {}", True),
        ('{a: context}.a.phase like "x"', True),
        ("context has trace_id", False),
        ('context.phase == "request"', False),
        ("context.claims == {}", False),
    ],
)
def test_reading_the_trace_id_is_noticed(condition: str, expected: bool) -> None:
    assert reads(condition).trace_id is expected


def test_all_clauses_are_looked_at() -> None:
    text = (
        "forbid (principal, action, resource) when { context.claims.a } "
        "unless { context.claims.b } when { context.claims.c };"
    )
    (policy,), _ = parse_policies("p", text)
    assert reads_of(policy.est).of(("a", "b", "c", "d")) == ("a", "b", "c")
