"""Slicing and caching change nothing: every answer is Cedar's own for the whole set."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from attestation.records import ClaimValue
from enforcement.outcome import Outcome, Phase, Platform, PolicyRequest
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.policy.engine import Engine
from enforcement.policy.engine_parts import plain_store
from enforcement.policy.entities_file import uid_of
from enforcement.policy.policies import Answer, Entities, PolicyStore, Ruling, TemplateLink
from enforcement.policy.policy_source import parse_policies
from enforcement.policy.schema import ACTIONS, APPLIES
from enforcement.policy.slicing import MAX_SLICES, PolicyIndex, Scope
from tests.enforcement.bundles import MANIFEST, PERMIT, ask, engine, write

ENTITIES = """[
  {"uid": {"type": "Lucid::User", "id": "alice"}, "attrs": {"email": "a@example.org"},
   "parents": [{"type": "Lucid::Group", "id": "staff"}]},
  {"uid": {"type": "Lucid::Agent", "id": "demo"}, "attrs": {"pii_authorized": true}, "parents": []},
  {"uid": {"type": "Lucid::User", "id": "caf\\u00e9"}, "attrs": {},
   "parents": [{"type": "Lucid::Group", "id": "staff"}]},
  {"uid": {"type": "Lucid::Group", "id": "staff"}, "attrs": {},
   "parents": [{"type": "Lucid::Organization", "id": "acme"}]}
]"""

# -- the rule for leaving out ---------------------------------------------------------------------

ANY = "permit (principal, action, resource)"


def scope(policy: str, *, action_groups: bool = False) -> Scope:
    [source], problems = parse_policies("p.cedar", policy + ";")
    assert not problems
    return Scope.of(source.est, action_groups=action_groups)


@pytest.mark.parametrize(
    ("policy", "groups", "kept"),
    [
        (ANY, False, True),
        ('permit (principal, action == Action::"b", resource)', False, False),
        ('permit (principal, action == Action::"b", resource)', True, False),
        ('permit (principal, action in Action::"b", resource)', True, True),
        ('permit (principal, action in Action::"b", resource)', False, False),
        ('permit (principal, action in [Action::"b"], resource)', True, True),
        ('permit (principal, action in [Action::"b"], resource)', False, False),
        ('permit (principal, action in [Action::"b", Action::"a"], resource)', False, True),
        ('permit (principal == U::"x", action, resource)', False, False),
        ('permit (principal == U::"u", action, resource)', False, True),
        ('permit (principal == V::"u", action, resource)', False, False),
        ("permit (principal is U, action, resource)", False, True),
        ("permit (principal is V, action, resource)", False, False),
        ('permit (principal is V in G::"g", action, resource)', False, False),
        ('permit (principal is U in G::"g", action, resource)', False, True),
        ('permit (principal in G::"g", action, resource)', False, True),
        ('permit (principal, action, resource == R::"x")', False, False),
        ('permit (principal, action, resource in R::"x")', False, True),
        (f"{ANY} when {{ false }}", False, True),
    ],
)
def test_only_a_scope_that_cannot_match_leaves_a_policy_out(
    policy: str, groups: bool, kept: bool
) -> None:
    [source], _ = parse_policies("p.cedar", policy + ";")
    index = PolicyIndex({"p": source.est}, entities=Entities("[]"), action_groups=groups)
    found = index.slice(("U", "u"), ("Action", "a"), ("R", "r"))
    # The named ones of a type share a slice, so another entity of the type may stay.
    assert len(found) == kept or "==" in policy


def test_a_form_that_is_not_understood_stays() -> None:
    odd = {"effect": "permit", "principal": {"op": "odd"}, "action": {"op": "in", "entities": [7]}}
    assert Scope.of(odd, action_groups=False) == Scope(
        actions=None, principal=None, principal_type=None, resource=None, resource_type=None
    )


def test_past_its_bound_an_index_answers_from_the_whole_set() -> None:
    [source], _ = parse_policies("p.cedar", 'permit (principal, action == Action::"1", resource);')
    index = PolicyIndex({"p": source.est}, entities=Entities("[]"))
    for number in range(MAX_SLICES + 50):
        answer = index.evaluate(
            principal=("U", "u"), action=("Action", str(number)), resource=("R", "r"), context="{}"
        )
        assert answer.allowed == (number == 1)
    assert index.slice(("U", "u"), ("Action", "another"), ("R", "r")) is index.whole


def test_a_template_link_stays_in_every_slice() -> None:
    text = 'permit (principal == ?principal, action == Action::"x", resource);'
    [source], _ = parse_policies("p.cedar", text)
    index = PolicyIndex(
        {},
        entities=Entities("[]"),
        templates={"t": source.est},
        links=[TemplateLink(template="t", link="l", values={"?principal": ("U", "u")})],
    )
    for action, allowed in (("x", True), ("y", False)):
        answer = index.evaluate(
            principal=("U", "u"), action=("Action", action), resource=("R", "r"), context="{}"
        )
        assert answer.allowed == allowed


# -- the engine beside plain Cedar ----------------------------------------------------------------

PRINCIPAL_SCOPES = (
    "principal",
    'principal == Lucid::User::"alice"',
    'principal == Lucid::APIKey::"ci"',
    'principal in Lucid::Group::"staff"',
    "principal is Lucid::User",
    'principal is Lucid::User in Lucid::Group::"staff"',
    'principal in Lucid::Organization::"acme"',
    'principal == Lucid::User::"caf\u00e9"',  # one code point
    'principal == Lucid::User::"cafe\\u{301}"',  # two, which look the same and are another id
    'principal == Lucid::User::"\\"\\n\\\\"',
    'principal is Lucid::APIKey in Lucid::Workspace::"w"',
)
ACTION_SCOPES = (
    "action",
    'action == Lucid::Action::"invoke"',
    'action == Lucid::Action::"access_data"',
    'action in [Lucid::Action::"invoke"]',
    'action in [Lucid::Action::"invoke", Lucid::Action::"access_data"]',
)
RESOURCE_SCOPES = ("resource", 'resource == Lucid::Agent::"demo"', "resource is Lucid::Agent")
CONDITIONS = (
    "",
    "when { context.claims.pii_found }",
    "when { context.claims.injection_risk > 5000 }",
    "when { context.claims has toxicity && context.claims.toxicity > 4000 }",
    'when { context.claims.pii_types.contains("email") }',
    'unless { context.claims.language == "en" }',
    "when { context.claims.tokens + 1 > 0 }",  # may overflow
    "when { context.claims.tokens * 3000000000 > 5 }",  # may overflow
    'when { context.phase == "request" }',
    'when { context.trace_id like "a*" }',
    "unless { context.platform.hardware_attested }",
    'when { context.platform.tcb_status != "up_to_date" }',
    "when { context has trace_id }",
    "when { context.platform == context.platform && context.claims == context.claims }",
    'when { resource in Lucid::Workspace::"w" }',
    'when { Lucid::User::"alice" in Lucid::Group::"staff" }',
    'unless { Lucid::User::"caf\\u{e9}" in Lucid::Organization::"acme" }',
    'when { Lucid::User::"alice" has email && principal is Lucid::User }',
    'when { [Lucid::User::"alice", Lucid::User::"else"].contains(Lucid::User::"ci") }',
    "when { [context.claims.secret_leaked, true].contains(false) }",
    "when { context.claims has pii_found }",
    "unless { context.claims has language }",
    "when { context has claims.toxicity && context.platform has simulated }",
    "unless { context has platform.tcb_status }",
    "when { principal is Lucid::User && principal has email }",
    'when { principal is Lucid::User && principal has email && principal.email like "*@*" }',
    'when { principal is Lucid::User && principal in Lucid::Group::"staff" }',
    "when { if context.claims.pii_found then context.claims.tokens + 1 > 0 else true }",
    'when { {a: context.claims.language}.a == "de" }',
    'when { {c: context.claims}.c == context.claims && !({c: context}.c.phase == "x") }',
    'when { context.claims.language like "\\\\*" || context.claims.language like "\\u{1f600}*" }',
    'when { action in [Lucid::Action::"invoke"] && context.claims.secret_leaked }',
    "when { context.claims.pii_types.isEmpty() } unless { principal in resource }",
    'when { decimal("0.5").lessThan(decimal("0.7")) && context.claims.tokens < 0 }',
)
ANNOTATIONS = ("", '@phase("request")', '@phase("response")')
SOFT = ("", "", '@decision("warn")', '@decision("redact") @redact("email")')


@st.composite
def policies(draw: st.DrawFn) -> str:
    texts = []
    for number in range(draw(st.integers(1, 8))):
        effect = draw(st.sampled_from(("permit", "forbid")))
        soft = draw(st.sampled_from(SOFT)) if effect == "forbid" else ""
        texts.append(
            f'@id("p{number}") {draw(st.sampled_from(ANNOTATIONS))} {soft} {effect} ('
            f"{draw(st.sampled_from(PRINCIPAL_SCOPES))}, {draw(st.sampled_from(ACTION_SCOPES))}, "
            f"{draw(st.sampled_from(RESOURCE_SCOPES))}) {draw(st.sampled_from(CONDITIONS))};"
        )
    return "\n".join(texts)


COMPLETE: dict[str, ClaimValue] = {
    "pii_found": False,
    "pii_types": (),
    "secret_leaked": False,
    "injection_risk": 0,
    "tokens": 1,
    "language": "en",
    "grounded": True,
}


INTEGERS = st.sampled_from((0, 1, 7, -1, 2**63 - 1, -(2**63), 3074457346))


def claims() -> st.SearchStrategy[dict[str, ClaimValue]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "pii_found": st.booleans(),
            "pii_types": st.sets(st.sampled_from(("email", "card"))).map(tuple),
            "secret_leaked": st.booleans(),
            "injection_risk": st.integers(0, 10_000),
            "toxicity": INTEGERS,
            "tokens": INTEGERS,
            "language": st.sampled_from(("en", "de", "\U0001f600", '"', "\\")),
        },
    )


IDS = ("alice", "ci", "else", "caf\u00e9", "cafe\u0301", '"\n\\')


@st.composite
def requests(draw: st.DrawFn) -> PolicyRequest:
    return PolicyRequest(
        principal=(
            draw(st.sampled_from(("User", "Agent", "APIKey"))),
            draw(st.sampled_from(IDS)),
        ),
        action=draw(st.sampled_from(sorted(ACTIONS))),
        resource=(
            draw(st.sampled_from(("Agent", "Service"))),
            draw(st.sampled_from(("demo", "other"))),
        ),
        phase=draw(st.sampled_from(list(Phase))),
        claims=draw(st.sampled_from(({}, COMPLETE))) | draw(claims()),
        trace_id=draw(st.sampled_from(("a1", "b2"))),
        platform=Platform(
            tee_type="sev-snp",
            hardware_attested=draw(st.booleans()),
            tcb_status=draw(st.sampled_from(("up_to_date", "old"))),
            simulated=draw(st.booleans()),
        ),
    )


def plainly(store: PolicyStore, bundle: Bundle, request: PolicyRequest) -> Answer:
    """What Cedar says about the whole request and all policies of the phase, with the schema."""
    known = {claim.name for claim in bundle.vocabulary.of_phase(request.phase)}
    platform = request.platform
    return store.evaluate(
        principal=(f"Lucid::{request.principal[0]}", request.principal[1]),
        action=("Lucid::Action", request.action),
        resource=(f"Lucid::{request.resource[0]}", request.resource[1]),
        context=json.dumps(
            {
                "claims": {key: value for key, value in request.claims.items() if key in known},
                "phase": request.phase.value,
                "trace_id": request.trace_id,
                "platform": {
                    "tee_type": platform.tee_type,
                    "hardware_attested": platform.hardware_attested,
                    "tcb_status": platform.tcb_status,
                    "simulated": platform.simulated,
                },
            }
        ),
    )


def assert_same(machine: Engine, bundle: Bundle, request: PolicyRequest) -> None:
    verdict = machine.decide(request)
    if any(reason.startswith("claim_missing:") for reason in verdict.reasons):
        assert verdict.outcome is Outcome.DENY
        required = {c.name for c in bundle.vocabulary.of_phase(request.phase) if not c.optional}
        for reason in verdict.reasons:
            name = reason.removeprefix("claim_missing:")
            assert name in required - set(request.claims)
        return
    answer = plainly(plain_store(bundle, request.phase), bundle, request)
    faults = {f"policy_error:{fault.policy}" for fault in answer.faults if fault.policy}
    if answer.ruling is Ruling.NONE:
        assert verdict.reasons == ("no_decision",)
        principals, resources = APPLIES[request.action]
        assert request.principal[0] not in principals or request.resource[0] not in resources
        return
    if answer.allowed:
        assert (verdict.outcome, verdict.reasons) == (Outcome.PROCEED, answer.reasons)
        return
    outcomes = {bundle.policies[name].outcome for name in answer.reasons}
    if answer.faults:
        assert verdict.outcome is Outcome.DENY
        assert faults <= set(verdict.reasons)
    elif answer.ruling is Ruling.DENY and outcomes <= {Outcome.WARN, Outcome.REDACT} and outcomes:
        hard = plain_store(bundle, request.phase).without(
            frozenset(
                name
                for name, policy in bundle.policies.items()
                if policy.outcome in {Outcome.WARN, Outcome.REDACT}
            )
        )
        second = plainly(hard, bundle, request)
        assert (verdict.outcome is not Outcome.DENY) == second.allowed
        assert set(answer.reasons) <= set(verdict.reasons)
    else:
        assert verdict.outcome is Outcome.DENY
        assert set(answer.reasons) == set(verdict.reasons) - {"default_deny"}


def load_what_is_valid(text: str) -> Bundle | None:
    """The bundle without the policies that Cedar's validator refuses (one stands on each line)."""
    lines = text.splitlines()
    manifest = MANIFEST.replace('phases = ["request"]\n', "")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            path = write(Path(folder), "\n".join(lines), manifest=manifest, entities=ENTITIES)
            try:
                return Bundle.load(path)
            except BundleError as error:
                bad = {problem.line for problem in error.problems}
                lines = [line for number, line in enumerate(lines, 1) if number not in bad]
    return None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=policies(), asked=st.lists(st.tuples(requests(), claims()), min_size=4, max_size=12))
def test_what_may_be_missing_cannot_matter(
    text: str, asked: list[tuple[PolicyRequest, dict[str, ClaimValue]]]
) -> None:
    """Where a verdict does not complain of a required claim that is absent, no value of it would
    have changed the verdict, by the whole engine and by plain Cedar."""
    bundle = load_what_is_valid(text)
    if bundle is None:
        return
    machine = Engine(bundle)
    for request, others in asked:
        verdict = machine.decide(request)
        if any(reason.startswith("claim_missing:") for reason in verdict.reasons):
            continue
        required = {c.name for c in bundle.vocabulary.of_phase(request.phase) if not c.optional}
        values = {name: (COMPLETE | others)[name] for name in required if name in COMPLETE}
        complete = structs.replace(request, claims=values | dict(request.claims))
        assert machine.decide(complete) == verdict
        assert_same(machine, bundle, complete)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=policies(), asked=st.lists(requests(), min_size=4, max_size=12), data=st.data())
def test_groups_of_a_credential_are_the_bundles_groups(
    text: str, asked: list[PolicyRequest], data: st.DataObject
) -> None:
    """The same as if `entities.json` listed the user in these groups."""
    bundle = load_what_is_valid(text)
    if bundle is None:
        return
    machine = Engine(bundle)
    for request in asked:
        if request.principal[0] != "User":
            continue
        groups = data.draw(st.sampled_from(((), ("staff",), ("other", "staff"), ("other",))))
        listed = {uid_of(entity["uid"]): entity for entity in json.loads(bundle.entities)}
        uid = ("Lucid::User", request.principal[1])
        user = listed.get(uid, {"attrs": {}, "parents": []})
        parents = [{"type": "Lucid::Group", "id": group} for group in groups]
        listed[uid] = {
            "uid": {"type": uid[0], "id": uid[1]},
            "attrs": user["attrs"],
            "parents": [*user["parents"], *parents],
        }
        other = Engine(replace(bundle, entities=json.dumps(list(listed.values()))), cache_size=0)
        asked_with = structs.replace(request, groups=groups)
        assert machine.decide(asked_with) == other.decide(request)
        assert machine.decide(asked_with) == other.decide(request)  # from the cache
        assert machine.decide(request) == Engine(bundle, cache_size=0).decide(request)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=policies(), asked=st.lists(requests(), min_size=4, max_size=12))
def test_random_bundles_are_decided_as_plain_cedar_decides_them(
    text: str, asked: list[PolicyRequest]
) -> None:
    bundle = load_what_is_valid(text)
    if bundle is None:
        return
    machine = Engine(bundle)
    uncached = Engine(bundle, cache_size=0)
    for request in (*asked, *asked):  # the second time from the cache
        assert_same(machine, bundle, request)
        assert machine.decide(request) == uncached.decide(request)


def test_the_table_of_what_actions_apply_to_is_the_schemas(tmp_path: Path) -> None:
    """Cedar itself, asked with the schema, refuses exactly what the table does not list."""
    bundle = Bundle.load(write(tmp_path, PERMIT))
    store = plain_store(bundle, Phase.REQUEST)
    for action in ACTIONS:
        principals, resources = APPLIES[action]
        for principal in ("User", "Agent", "APIKey", "Service"):
            for resource in ("Agent", "Service", "User"):
                request = ask(principal=(principal, "x"), action=action, resource=(resource, "y"))
                answer = plainly(store, bundle, request)
                conforms = principal in principals and resource in resources
                assert (answer.ruling is not Ruling.NONE) == conforms


def test_a_thousand_policies_are_sliced_to_those_of_the_action(tmp_path: Path) -> None:
    text = "".join(
        f'@id("p{number}") permit (principal == Lucid::User::"u{number}", '
        f'action == Lucid::Action::"{("invoke", "access_data")[number % 2]}", resource);'
        for number in range(1000)
    )
    machine = engine(tmp_path, text)
    index = machine._phases[Phase.REQUEST].all
    for principal, expected in ((("User", "u2"), 500), (("User", "x"), 0), (("APIKey", "u2"), 0)):
        found = index.slice(
            (f"Lucid::{principal[0]}", principal[1]),
            ("Lucid::Action", "invoke"),
            ("Lucid::Agent", "demo"),
        )
        assert len(found) == expected
    assert machine.decide(ask(principal=("User", "u2"))).reasons == ("p2",)
    assert machine.decide(ask(principal=("User", "u3"))).reasons == ("default_deny",)
