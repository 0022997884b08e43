"""Claims: names, types, scaling, and the schema that is generated from them."""

from __future__ import annotations

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.records import ClaimValue
from enforcement.outcome import Phase
from enforcement.policy.policies import Schema
from enforcement.policy.schema import request_schema, validation_schema
from enforcement.policy.vocabulary import (
    LIMITS,
    RESERVED_NAMES,
    Claim,
    ClaimError,
    ClaimType,
    Vocabulary,
    name_problem,
)

BOTH = frozenset(Phase)


def claim(kind: ClaimType, name: str = "x", *, optional: bool = False) -> Claim:
    return Claim(name=name, type=kind, sources=("auditor:a",), phases=BOTH, optional=optional)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(claim(kind, kind.value) for kind in ClaimType)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.7, 7000),
        (0.29, 2900),
        (0.07, 700),
        (1.1 - 0.8, 3000),
        (1, 10_000),
        (1.0, 10_000),
        (0, 0),
        (0.00005, 0),
        (0.00015, 2),
        (0.99995, 10_000),
        (1e-300, 0),
    ],
)
def test_scores_are_scaled_exactly(vocabulary: Vocabulary, value: float, expected: int) -> None:
    assert vocabulary.scale("score", value) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score", 1.1),
        ("score", -0.1),
        ("score", float("nan")),
        ("score", float("inf")),
        ("score", True),
        ("score", "0.7"),
        ("score", None),
        ("decimal", float("-inf")),
        ("decimal", 1e300),
        ("decimal", 10**400),
        ("decimal", 2**63),
        ("integer", 3),
        ("bool", True),
        ("string", 0.1),
        ("nope", 0.1),
    ],
)
def test_what_cannot_be_scaled_is_refused(vocabulary: Vocabulary, name: str, value: float) -> None:
    with pytest.raises(ClaimError):
        vocabulary.scale(name, value)


def test_decimals_keep_four_digits(vocabulary: Vocabulary) -> None:
    assert vocabulary.scale("decimal", -12.3456) == -123456
    assert vocabulary.scale("decimal", 1e6) == 10**10
    assert vocabulary.scale("decimal", 922337203685477) == 9223372036854770000


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_four_digit_scores_are_scaled_without_error(number: int) -> None:
    vocabulary = Vocabulary([claim(ClaimType.SCORE)])
    assert vocabulary.scale("x", number / 10_000) == number
    assert vocabulary.scale("x", float(f"0.{number:04d}") if number < 10_000 else 1.0) == number


@settings(max_examples=50)
@given(st.floats())
def test_scaling_gives_a_long_or_refuses(number: float) -> None:
    vocabulary = Vocabulary([claim(ClaimType.DECIMAL)])
    try:
        scaled = vocabulary.scale("x", number)
    except ClaimError:
        return
    assert -(2**63) <= scaled < 2**63


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (ClaimType.BOOL, True, True),
        (ClaimType.STRING, "", ""),
        (ClaimType.STRING, "ü" * LIMITS.string, "ü" * LIMITS.string),
        (ClaimType.STRING_LIST, ["b", "a", "b"], ("a", "b")),
        (ClaimType.STRING_LIST, (), ()),
        (ClaimType.INTEGER, -5, -5),
        (ClaimType.SCORE, 10_000, 10_000),
    ],
)
def test_fitting_values_have_one_canonical_form(
    kind: ClaimType, value: object, expected: ClaimValue
) -> None:
    assert claim(kind).check(value) == expected


_ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.one_of(st.text(), st.integers())),
    st.dictionaries(st.text(), st.text()),
)


@settings(max_examples=100)
@given(kind=st.sampled_from(ClaimType), value=_ANY)
def test_a_checked_value_is_of_its_type_or_refused(kind: ClaimType, value: object) -> None:
    try:
        checked = claim(kind).check(value)
    except ClaimError:
        return
    wanted = {ClaimType.BOOL: bool, ClaimType.STRING: str, ClaimType.STRING_LIST: tuple}
    assert type(checked) is wanted.get(kind, int)
    assert claim(kind).check(checked) == checked


def test_errors_do_not_quote_the_value() -> None:
    for kind in (ClaimType.BOOL, ClaimType.INTEGER, ClaimType.STRING_LIST):
        with pytest.raises(ClaimError) as raised:
            claim(kind).check("hunter2")
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["a", "pii_found", "a1", "x" * 64, "permit", "context"])
def test_good_claim_names(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *sorted(RESERVED_NAMES),
        *("", "A", "aB", "a.b", "a-b", "a b", "1a", "_a", "__entity", "__extn", "é", "x" * 65),
        *('a"', "a\n"),
    ],
)
def test_bad_claim_names_are_refused(name: str) -> None:
    assert name_problem(name)


@pytest.mark.parametrize("phase", list(Phase))
def test_the_generated_schemas_parse_and_type_every_claim(
    vocabulary: Vocabulary, phase: Phase
) -> None:
    uses = {
        "bool": "context.claims.bool",
        "string": 'context.claims.string like "a*"',
        "string_list": 'context.claims.string_list.contains("a")',
        "integer": "context.claims.integer > 1",
        "score": "context.claims.score > 7000",
        "decimal": "context.claims.decimal < -5",
    }
    policy = "forbid (principal, action, resource) when {{ {} }};"
    schema = Schema(validation_schema(vocabulary, phase))
    for use in uses.values():
        assert schema.validate(policy.format(use)) == []
        # In the request schema every claim may be absent.
        assert Schema(request_schema(vocabulary, phase)).validate(policy.format(use))
    for wrong in (
        "context.claims.bool > 1",
        "context.claims.string > 1",
        'context.claims.string_list == "a"',
        'context.claims.integer like "1*"',
        "context.claims.score && true",
        'context.claims.decimal.contains("a")',
    ):
        assert schema.validate(policy.format(wrong)), wrong


def test_an_optional_claim_must_be_guarded() -> None:
    schema = Schema(
        validation_schema(
            Vocabulary([claim(ClaimType.BOOL, "maybe", optional=True)]), Phase.REQUEST
        )
    )
    bare = "forbid (principal, action, resource) when { context.claims.maybe };"
    guarded = bare.replace(
        "context.claims.maybe", "context.claims has maybe && context.claims.maybe"
    )
    assert schema.validate(bare)
    assert not schema.validate(guarded)


def test_a_claim_is_only_in_the_schema_of_its_phases() -> None:
    late = Claim(
        name="late", type=ClaimType.BOOL, sources=("auditor:a",), phases=frozenset({Phase.RESPONSE})
    )
    vocabulary = Vocabulary([late])
    assert '"late"' in validation_schema(vocabulary, Phase.RESPONSE)
    assert '"late"' not in validation_schema(vocabulary, Phase.REQUEST)
    assert vocabulary.of_phase(Phase.REQUEST) == ()


def test_the_frame_of_the_schema_is_fixed() -> None:
    text = validation_schema(Vocabulary([]), Phase.REQUEST)
    policy = (
        'forbid (principal is Lucid::{}, action == Lucid::Action::"{}", resource is Lucid::{}) '
        'unless {{ context.phase == "request" && context.trace_id != "" && '
        "context.platform.hardware_attested && !context.platform.simulated && "
        'context.platform.tee_type == "tdx" && context.platform.tcb_status == "x" }};'
    )
    allowed = {
        (principal, action, resource)
        for principal in ("User", "Agent", "APIKey", "Service", "Group")
        for action in ("invoke", "access_data", "other")
        for resource in ("Agent", "Service", "User")
        if cedarpy.validate_policies(
            policy.format(principal, action, resource), text
        ).validation_passed
    }
    assert allowed == {
        ("User", "invoke", "Agent"),
        ("Agent", "invoke", "Agent"),
        ("APIKey", "invoke", "Agent"),
        ("User", "access_data", "Agent"),
        ("Agent", "access_data", "Agent"),
        ("User", "access_data", "Service"),
        ("Agent", "access_data", "Service"),
    }


def test_lookup_by_name() -> None:
    vocabulary = Vocabulary([claim(ClaimType.BOOL, "b"), claim(ClaimType.BOOL, "a")])
    assert vocabulary.names() == ("a", "b")
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert len(vocabulary) == 2
    assert vocabulary["b"].type is ClaimType.BOOL
