"""How requests are decided: outcomes, obligations, missing claims, cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from enforcement.detectors import claims_from, scan
from enforcement.outcome import Outcome, Phase, Platform, Redaction
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from tests.enforcement.bundles import PERMIT, PLATFORM, ask, engine, write

INVOKE = 'principal, action == Lucid::Action::"invoke", resource'
SECRET = (
    f'@id("secret") @phase("request") forbid ({INVOKE}) when {{ context.claims.secret_leaked }};'
)
WARN = f'@id("pii") @decision("warn") forbid ({INVOKE}) when {{ context.claims.pii_found }};'
EMAILS = (
    '@id("emails") @decision("redact") @redact("email, phone") '
    f"forbid ({INVOKE}) "
    'when { context.claims.pii_types.contains("email") };'
)
CARDS = (
    '@id("cards") @decision("redact") @redact("card") '
    f"forbid ({INVOKE}) "
    'when { context.claims.pii_types.contains("card") };'
)


SEES_ALL = (
    '@id("sees") forbid (principal, action, resource) unless '
    "{ context.claims == context.claims && context.platform == context.platform };"
)


def odd_platform(field: str, value: object) -> Platform:
    """A platform with a value of the wrong type."""
    return replace(PLATFORM, **{field: value})  # type: ignore[arg-type]  # on purpose


def test_a_permit_alone_lets_the_request_proceed(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT).decide(ask())
    assert verdict.outcome is Outcome.PROCEED
    assert verdict.reasons == ("allow",)
    assert verdict.evaluated
    assert not verdict.redact


def test_without_a_permit_everything_is_denied_by_default(tmp_path: Path) -> None:
    verdict = engine(tmp_path, SECRET).decide(ask())
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("default_deny",))
    assert verdict.evaluated


def test_a_forbid_without_annotation_denies_and_is_named(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + SECRET).decide(ask(claims={"secret_leaked": True}))
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("secret",))
    assert verdict.evaluated
    assert verdict.claims_read == {"secret_leaked": True}


def test_a_warning_forbid_lets_pass_with_a_warning(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + WARN).decide(ask(claims={"pii_found": True}))
    assert (verdict.outcome, verdict.reasons) == (Outcome.WARN, ("pii",))
    assert not verdict.redact


def test_a_warning_never_replaces_a_missing_permit(tmp_path: Path) -> None:
    verdict = engine(tmp_path, WARN).decide(ask(claims={"pii_found": True}))
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("default_deny", "pii"))


def test_a_hard_forbid_beside_warnings_denies(tmp_path: Path) -> None:
    claims = {"pii_found": True, "secret_leaked": True}
    verdict = engine(tmp_path, PERMIT + WARN + SECRET).decide(ask(claims=claims))
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("pii", "secret"))


def test_redaction_obligations_are_merged_and_override_warnings(tmp_path: Path) -> None:
    claims = {"pii_found": True, "pii_types": ("card", "email")}
    verdict = engine(tmp_path, PERMIT + WARN + EMAILS + CARDS).decide(ask(claims=claims))
    assert verdict.outcome is Outcome.REDACT
    assert verdict.reasons == ("cards", "emails", "pii")
    assert verdict.redact == {"card", "email", "phone"}


def test_of_several_ways_to_redact_the_strictest_counts(tmp_path: Path) -> None:
    hashed = EMAILS.replace("@decision", '@redact_with("hash") @decision')
    dropped = CARDS.replace('@redact("card")', '@redact("card,email") @redact_with("drop")')
    machine = engine(tmp_path, PERMIT + hashed + dropped)
    verdict = machine.decide(ask(claims={"pii_types": ("email",)}))
    assert verdict.redact_with == {"email": Redaction.HASH, "phone": Redaction.HASH}
    verdict = machine.decide(ask(claims={"pii_types": ("card", "email")}))
    assert verdict.redact == {"card", "email", "phone"}
    assert verdict.redact_with == {
        "card": Redaction.DROP,
        "email": Redaction.DROP,
        "phone": Redaction.HASH,
    }


def test_a_label_that_one_policy_masks_is_not_hashed_for_another(tmp_path: Path) -> None:
    hashed = EMAILS.replace("@decision", '@redact_with("hash") @decision')
    masked = EMAILS.replace('@id("emails")', '@id("masks")').replace("email, phone", "email")
    verdict = engine(tmp_path, PERMIT + hashed + masked).decide(
        ask(claims={"pii_types": ("email",)})
    )
    assert verdict.redact_with == {"phone": Redaction.HASH}


def test_only_deciding_policies_oblige(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + EMAILS + CARDS).decide(ask(claims={"pii_types": ("card",)}))
    assert verdict.outcome is Outcome.REDACT
    assert verdict.redact == {"card"}


def test_a_policy_of_another_phase_takes_no_part(tmp_path: Path) -> None:
    machine = engine(tmp_path, PERMIT + SECRET)
    request = ask(claims={"secret_leaked": True}, phase=Phase.RESPONSE)
    assert machine.decide(request).outcome is Outcome.PROCEED


def test_a_permit_of_one_phase_does_not_permit_the_other(tmp_path: Path) -> None:
    machine = engine(tmp_path, '@id("in") @phase("request") permit (principal, action, resource);')
    assert machine.decide(ask()).outcome is Outcome.PROCEED
    assert machine.decide(ask(phase=Phase.RESPONSE)).reasons == ("default_deny",)


def test_a_required_claim_that_is_read_and_missing_denies(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + WARN).decide(ask(without=("pii_found",)))
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("claim_missing:pii_found",))
    assert not verdict.evaluated


def test_every_missing_claim_is_named(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + WARN + EMAILS).decide(
        ask(without=("pii_found", "pii_types"))
    )
    assert verdict.reasons == ("claim_missing:pii_found", "claim_missing:pii_types")


def test_a_missing_claim_that_no_policy_reads_does_not_matter(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + WARN).decide(ask(without=("secret_leaked", "tokens")))
    assert verdict.outcome is Outcome.PROCEED


def test_a_has_guard_does_not_excuse_a_required_claim(tmp_path: Path) -> None:
    guarded = (
        '@id("g") forbid (principal, action, resource) '
        "when { context.claims has tokens && context.claims.tokens > 5 };"
    )
    verdict = engine(tmp_path, PERMIT + guarded).decide(ask(without=("tokens",)))
    assert verdict.reasons == ("claim_missing:tokens",)


def test_a_missing_claim_read_only_for_another_action_does_not_matter(tmp_path: Path) -> None:
    other = (
        '@id("data") forbid (principal, action == Lucid::Action::"access_data", resource) '
        "when { context.claims.tokens > 5 };"
    )
    machine = engine(tmp_path, PERMIT + other)
    assert machine.decide(ask(without=("tokens",))).outcome is Outcome.PROCEED
    assert machine.decide(ask(without=("tokens",), action="access_data")).reasons == (
        "claim_missing:tokens",
    )


def test_a_policy_on_both_actions_applies_to_each(tmp_path: Path) -> None:
    both = (
        '@id("both") forbid (principal, action in '
        '[Lucid::Action::"invoke", Lucid::Action::"access_data"], resource) '
        "when { context.claims.tokens > 5 };"
    )
    machine = engine(tmp_path, PERMIT + both)
    for action in ("invoke", "access_data"):
        assert machine.decide(ask(without=("tokens",), action=action)).outcome is Outcome.DENY


def test_a_policy_for_another_principal_still_makes_its_claims_needed(tmp_path: Path) -> None:
    """Applicability looks at phase and action only: it errs to the side of denial."""
    other = (
        '@id("bob") forbid (principal == Lucid::User::"bob", action, resource) '
        "when { context.claims.tokens > 5 };"
    )
    verdict = engine(tmp_path, PERMIT + other).decide(ask(without=("tokens",)))
    assert verdict.reasons == ("claim_missing:tokens",)


def test_a_policy_that_uses_all_claims_needs_all_of_its_phase(tmp_path: Path) -> None:
    whole = (
        '@id("whole") forbid (principal, action, resource) '
        'when { {"c": context.claims}.c.secret_leaked };'
    )
    machine = engine(tmp_path, PERMIT + whole)
    assert machine.decide(ask()).outcome is Outcome.PROCEED
    assert machine.decide(ask(without=("language",))).reasons == ("claim_missing:language",)
    assert machine.decide(ask(without=("grounded",))).outcome is Outcome.PROCEED


def test_a_claim_of_the_reply_alone_is_not_needed_in_the_request(tmp_path: Path) -> None:
    grounded = (
        '@id("g") @phase("response") forbid (principal, action, resource) '
        "unless { context.claims.grounded };"
    )
    machine = engine(tmp_path, PERMIT + grounded)
    assert machine.decide(ask(without=("grounded",))).outcome is Outcome.PROCEED
    assert machine.decide(ask(without=("grounded",), phase=Phase.RESPONSE)).reasons == (
        "claim_missing:grounded",
    )
    assert machine.decide(ask(claims={"grounded": False}, phase=Phase.RESPONSE)).reasons == ("g",)


def test_an_optional_claim_may_be_absent(tmp_path: Path) -> None:
    toxic = (
        '@id("tox") forbid (principal, action, resource) '
        "when { context.claims has toxicity && context.claims.toxicity > 7000 };"
    )
    machine = engine(tmp_path, PERMIT + toxic)
    assert machine.decide(ask(without=("toxicity",))).outcome is Outcome.PROCEED
    assert machine.decide(ask(claims={"toxicity": 7001})).reasons == ("tox",)


def test_a_claim_given_in_the_wrong_phase_is_not_seen(tmp_path: Path) -> None:
    machine = engine(tmp_path, PERMIT + WARN)
    verdict = machine.decide(ask(claims={"grounded": "not even a bool"}))
    assert verdict.outcome is Outcome.PROCEED


def test_a_claim_outside_the_vocabulary_is_not_seen(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT).decide(ask(claims={"__entity": {"type": "User"}}))
    assert verdict.outcome is Outcome.PROCEED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pii_found", 1),
        ("pii_found", "true"),
        ("pii_types", "email"),
        ("pii_types", ("email", 7)),
        ("pii_types", tuple(str(number) for number in range(257))),
        ("pii_types", ("x" * 1025,)),
        ("pii_types", tuple(str(number) + "x" * 100 for number in range(100))),
        ("injection_risk", 0.7),
        ("injection_risk", True),
        ("injection_risk", -1),
        ("injection_risk", 10_001),
        ("tokens", 2**63),
        ("tokens", -(2**63) - 1),
        ("tokens", "10"),
        ("language", "x" * 1025),
        ("language", "\ud800"),
        ("language", b"en"),
        ("language", {"__entity": {"type": "Lucid::User", "id": "admin"}}),
        ("toxicity", float("nan")),
    ],
)
def test_a_value_that_does_not_fit_its_claim_denies_even_where_no_policy_reads_it(
    tmp_path: Path, name: str, value: object
) -> None:
    verdict = engine(tmp_path, PERMIT).decide(ask(claims={name: value}))
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, (f"claim_invalid:{name}",))
    assert not verdict.evaluated


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 0])
def test_whole_numbers_reach_policies_exactly(tmp_path: Path, value: int) -> None:
    exact = (
        '@id("n") forbid (principal, action, resource) '
        f"when {{ context.claims.tokens == {value} }};"
    )
    machine = engine(tmp_path, PERMIT + exact)
    assert machine.decide(ask(claims={"tokens": value})).reasons == ("n",)


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": ("Group", "staff")},
        {"principal": ("Lucid::User", "alice")},
        {"principal": ("User", "x" * 257)},
        {"principal": ("User", "\udfff")},
        {"resource": ("User", "alice")},
        {"resource": ("Agent", 7)},
        {"action": "delete"},
        {"action": 'invoke"'},
        {"trace_id": "x" * 129},
        {"trace_id": None},
        {"platform": odd_platform("hardware_attested", 1)},
        {"platform": odd_platform("tee_type", None)},
        {"resource": ("Service", "search")},  # `invoke` has agents only
    ],
)
def test_a_request_that_is_not_of_the_schema_is_denied(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    verdict = engine(tmp_path, PERMIT).decide(ask(**changes))  # type: ignore[arg-type]  # on purpose
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("no_decision",))
    assert not verdict.evaluated


@pytest.mark.parametrize("field", ["claims", "phase", "platform", "principal"])
def test_nonsense_is_denied_and_never_raised(tmp_path: Path, field: str) -> None:
    request = structs.replace(ask(), **{field: None})
    verdict = engine(tmp_path, PERMIT + WARN).decide(request)
    assert (verdict.outcome, verdict.reasons) == (Outcome.DENY, ("engine_error",))
    assert not verdict.evaluated


def test_policies_can_require_real_hardware(tmp_path: Path) -> None:
    real = (
        '@id("real") forbid (principal, action, resource) '
        "unless { context.platform.hardware_attested && !context.platform.simulated "
        '&& context.platform.tee_type == "sev-snp" };'
    )
    machine = engine(tmp_path, PERMIT + real)
    assert machine.decide(ask()).outcome is Outcome.PROCEED
    for platform in (
        replace(PLATFORM, hardware_attested=False),
        replace(PLATFORM, simulated=True),
        replace(PLATFORM, tee_type="simulated"),
    ):
        assert machine.decide(ask(platform=platform)).reasons == ("real",)


def test_policies_see_groups_from_entities(tmp_path: Path) -> None:
    entities = """[
      {"uid": {"type": "Lucid::User", "id": "alice"}, "attrs": {"email": "a@b.c"},
       "parents": [{"type": "Lucid::Group", "id": "staff"}]},
      {"uid": {"type": "Lucid::Group", "id": "staff"}, "attrs": {}, "parents": []}
    ]"""
    staff = '@id("staff") permit (principal in Lucid::Group::"staff", action, resource);'
    machine = engine(tmp_path, staff, entities=entities)
    assert machine.decide(ask()).outcome is Outcome.PROCEED
    assert machine.decide(ask(principal=("User", "mallory"))).reasons == ("default_deny",)
    # An id that looks like Cedar is only an id.
    assert machine.decide(ask(principal=("User", 'x" in Lucid::Group::"staff'))).reasons == (
        "default_deny",
    )


def test_equal_questions_are_answered_from_the_cache(tmp_path: Path) -> None:
    machine = engine(tmp_path, PERMIT + EMAILS)
    first = machine.decide(ask(claims={"pii_types": ("email", "card", "email")}, trace_id="a"))
    second = machine.decide(ask(claims={"pii_types": ("card", "email")}, trace_id="b"))
    assert first == second
    assert machine.cache_counts() == (1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": ("User", "bob")},
        {"principal": ("APIKey", "alice")},
        {"resource": ("Agent", "other")},
        {"action": "access_data"},
        {"phase": Phase.RESPONSE},
        {"platform": replace(PLATFORM, simulated=True)},
        {"platform": replace(PLATFORM, tcb_status="out_of_date")},
        {"claims": {"tokens": 11}},
        {"claims": {"language": "de"}},
        {"claims": {"secret_leaked": True}},
        {"without": ("toxicity",)},
    ],
)
def test_whatever_a_policy_could_see_is_part_of_the_cache_key(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    machine = engine(tmp_path, PERMIT + SEES_ALL)
    machine.decide(ask())
    machine.decide(ask(**changes))  # type: ignore[arg-type]  # one field each
    assert machine.cache_counts() == (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": {"tokens": 11}},
        {"without": ("toxicity",)},
        {"platform": replace(PLATFORM, tcb_status="out_of_date")},
        {"trace_id": "1" * 32},
    ],
)
def test_what_no_policy_can_see_is_not_part_of_the_cache_key(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    machine = engine(tmp_path, PERMIT + SECRET)
    first = machine.decide(ask())
    assert machine.decide(ask(**changes)) == first  # type: ignore[arg-type]  # one field each
    assert machine.cache_counts() == (1, 1)


@pytest.mark.parametrize(
    "condition",
    [
        'context.trace_id == "b"',
        'context["trace_id"] like "b*"',
        '{"all": context}.all.trace_id == "b"',
    ],
)
def test_the_trace_id_counts_where_a_policy_reads_it(tmp_path: Path, condition: str) -> None:
    machine = engine(
        tmp_path, PERMIT + f'@id("t") forbid (principal, action, resource) when {{ {condition} }};'
    )
    assert machine.decide(ask(trace_id="a")).outcome is Outcome.PROCEED
    assert machine.decide(ask(trace_id="b")).reasons == ("t",)


def test_the_cache_is_bounded_and_can_be_off(tmp_path: Path) -> None:
    machine = engine(tmp_path, PERMIT + SEES_ALL, cache_size=2)
    for number in (1, 2, 3, 1):
        machine.decide(ask(claims={"tokens": number}))
    assert machine.cache_counts() == (0, 4)
    plain = Engine(machine.bundle, cache_size=0)
    plain.decide(ask())
    plain.decide(ask())
    assert plain.cache_counts() == (0, 2)


def test_a_cached_verdict_cannot_be_changed_by_who_gets_it(tmp_path: Path) -> None:
    verdict = engine(tmp_path, PERMIT + SECRET).decide(ask(claims={"secret_leaked": True}))
    with pytest.raises(TypeError):
        verdict.claims_read["secret_leaked"] = False  # type: ignore[index]  # on purpose


def test_the_example_bundle_does_what_it_says() -> None:
    bundle = Bundle.load(Path(__file__).parents[3] / "examples" / "bundle")
    machine = Engine(bundle)
    texts = {
        "What is confidential computing?": (Outcome.PROCEED, Outcome.PROCEED),
        "My address is bob@example.org.": (Outcome.WARN, Outcome.REDACT),
        "Card 4111 1111 1111 1111": (Outcome.WARN, Outcome.REDACT),
        "key: sk-aB3dE5fG7hJ9kL1mN2pQ4rS6": (Outcome.DENY, Outcome.REDACT),
    }
    for text, expected in texts.items():
        claims = claims_from(scan(text, bundle.detectors))
        found = tuple(
            machine.decide(structs.replace(ask(phase=phase), claims=claims)).outcome
            for phase in Phase
        )
        assert found == expected, text


def test_equal_values_of_other_types_are_not_answered_from_the_cache(tmp_path: Path) -> None:
    """`True == 1`, and only one of them is a number of tokens."""
    few = f'@id("few") permit ({INVOKE}) when {{ context.claims.tokens < 2 }};'
    decides = engine(tmp_path, few)
    for _ in range(2):
        assert decides.decide(ask(claims={"tokens": 1})).reasons == ("few",)
        assert decides.decide(ask(claims={"tokens": True})).reasons == ("claim_invalid:tokens",)
        assert decides.decide(ask(claims={"tokens": 1.0})).reasons == ("claim_invalid:tokens",)


def test_two_engines_of_different_bundles_do_not_share_answers(tmp_path: Path) -> None:
    one = engine(tmp_path / "one", PERMIT)
    two = engine(tmp_path / "two", SECRET)
    assert one.decide(ask()).outcome is Outcome.PROCEED
    assert two.decide(ask()).outcome is Outcome.DENY
    assert one.bundle.digest != two.bundle.digest


def test_a_bundle_written_twice_has_one_digest(tmp_path: Path) -> None:
    one, two = (Bundle.load(write(tmp_path / name)) for name in ("one", "two"))
    assert one.digest == two.digest
    assert len(one.digest) == 32
