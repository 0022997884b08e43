"""Ways in which Cedar, or what surrounds it, would say yes by mistake. Each must end in deny."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestation.records import ClaimValue
from enforcement.detectors import DETECTORS
from enforcement.outcome import Outcome, Phase, Verdict
from enforcement.policy import policies
from enforcement.policy.annotations import understand
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from enforcement.policy.policies import Answer, Entities, Fault, PolicyStore, Ruling
from enforcement.policy.policy_source import parse_policies
from tests.enforcement.bundles import CLAIMS, PERMIT, ask, engine, problems, write
from tests.panics import Panic

FORBID = "forbid (principal, action, resource)"


def unchecked(folder: Path, text: str) -> Engine:
    """An engine over policies that the validator never saw: the second line of defence."""
    bundle = Bundle.load(write(folder))
    infos = {}
    sources, complaints = parse_policies("unchecked.cedar", text)
    assert not complaints
    for source in sources:
        info, complaints = understand(source, labels=DETECTORS)
        assert info
        assert not complaints
        infos[info.id] = info
    return Engine(replace(bundle, policies=infos), cache_size=4)


def assert_denied(verdict: Verdict, *reasons: str, evaluated: bool = False) -> None:
    assert verdict.outcome is Outcome.DENY
    assert verdict.reasons == reasons
    assert verdict.evaluated is evaluated
    assert not verdict.redact


@pytest.mark.parametrize(
    "condition",
    [
        "context.claims.nope",
        "context.nope",
        'context["claims"]["nope"] > 1',
        "principal.email == resource.name",
        "context.claims.language > 5",
        "context.claims.pii_found == true && context.claims.tokens.inner",
        "context.claims.tokens && true",
        "context.claims.tokens + 9223372036854775807 > 0",
        "context.claims.tokens * 9223372036854775807 > 0",
        "-9223372036854775807 - context.claims.tokens > 0",
        'ip(context.claims.language) == ip("10.0.0.1")',
        'decimal(context.claims.language).lessThan(decimal("0.5"))',
        'principal.getTag("x") == "y"',
    ],
)
def test_a_forbid_that_fails_to_evaluate_denies(tmp_path: Path, condition: str) -> None:
    """Cedar skips it and allows."""
    machine = unchecked(tmp_path, PERMIT + f'@id("f") {FORBID} when {{ {condition} }};')
    verdict = machine.decide(ask(claims={"pii_found": True}))
    assert_denied(verdict, "policy_error:f")
    assert verdict.errors


def test_an_overflow_that_the_validator_cannot_see_denies(tmp_path: Path) -> None:
    machine = engine(
        tmp_path,
        PERMIT + f'@id("sum") {FORBID} when {{ context.claims.tokens + 9223372036854775000 > 0 }};',
    )
    assert_denied(machine.decide(ask(claims={"tokens": 807})), "sum", evaluated=True)
    assert_denied(machine.decide(ask(claims={"tokens": 808})), "policy_error:sum")


@pytest.mark.parametrize("decision", ['@decision("warn")', '@decision("redact") @redact("email")'])
def test_a_soft_forbid_does_not_hide_that_another_policy_failed(
    tmp_path: Path, decision: str
) -> None:
    soft = f'@id("soft") {decision} {FORBID} when {{ context.claims.pii_found }};'
    broken = f'@id("hard") {FORBID} when {{ context.claims.tokens + 9223372036854775807 > 0 }};'
    machine = engine(tmp_path, PERMIT + soft + broken)
    assert_denied(machine.decide(ask(claims={"pii_found": True})), "policy_error:hard", "soft")


@pytest.mark.parametrize("decision", ['@decision("warn")', '@decision("redact") @redact("email")'])
def test_a_soft_forbid_does_not_hide_that_another_soft_one_failed(
    tmp_path: Path, decision: str
) -> None:
    """Cedar is asked again without the soft ones: that answer knows of no failure."""
    soft = f'@id("soft") @decision("warn") {FORBID} when {{ context.claims.pii_found }};'
    failing = "context.claims.tokens + 9223372036854775807 > 0"
    broken = f'@id("other") {decision} {FORBID} when {{ {failing} }};'
    machine = engine(tmp_path, PERMIT + soft + broken)
    assert_denied(machine.decide(ask(claims={"pii_found": True})), "policy_error:other", "soft")


def test_a_soft_forbid_that_fails_denies(tmp_path: Path) -> None:
    soft = (
        f'@id("soft") @decision("warn") {FORBID} '
        "when { context.claims.tokens + 9223372036854775807 > 0 };"
    )
    assert_denied(engine(tmp_path, PERMIT + soft).decide(ask()), "policy_error:soft")


def test_a_hard_forbid_is_an_answer_even_beside_a_failure(tmp_path: Path) -> None:
    hard = f'@id("hard") {FORBID} when {{ context.claims.secret_leaked }};'
    broken = f'@id("sum") {FORBID} when {{ context.claims.tokens + 9223372036854775807 > 0 }};'
    machine = engine(tmp_path, PERMIT + hard + broken)
    verdict = machine.decide(ask(claims={"secret_leaked": True}))
    assert_denied(verdict, "hard", "policy_error:sum", evaluated=True)


def test_a_permit_that_fails_is_not_a_plain_default_deny(tmp_path: Path) -> None:
    permit = (
        '@id("allow") permit (principal, action, resource) '
        "when { context.claims.tokens + 9223372036854775807 > 0 };"
    )
    assert_denied(engine(tmp_path, permit).decide(ask()), "policy_error:allow")


def test_one_failing_permit_beside_a_good_one_denies(tmp_path: Path) -> None:
    broken = (
        '@id("broken") permit (principal, action, resource) '
        "when { context.claims.tokens + 9223372036854775807 > 0 };"
    )
    assert_denied(engine(tmp_path, PERMIT + broken).decide(ask()), "policy_error:broken")


def test_a_missing_attribute_written_as_unless_has_denies_by_itself(tmp_path: Path) -> None:
    machine = unchecked(
        tmp_path,
        PERMIT + f'@id("f") {FORBID} unless {{ context has nope && context.nope.value <= 50 }};',
    )
    assert_denied(machine.decide(ask()), "f", evaluated=True)


NESTED: object = "x"
for _ in range(200):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "value",
    [
        0.7,
        float("nan"),
        float("inf"),
        2**63,
        "\ud800",
        {"__extn": {"fn": "ip", "arg": "10.0.0.1"}},
        {"__extn": {"fn": "nope", "arg": "x"}},
        {"__expr": "principal"},
        {"__entity": {"type": "Lucid::User", "id": "admin"}},
        NESTED,
        b"bytes",
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("claim", ["language", "tokens", "pii_types", "pii_found"])
def test_values_that_cedar_has_no_type_for_deny(tmp_path: Path, claim: str, value: object) -> None:
    verdict = engine(tmp_path, PERMIT).decide(ask(claims={claim: value}))
    assert_denied(verdict, f"claim_invalid:{claim}")


def test_null_is_a_missing_claim(tmp_path: Path) -> None:
    machine = engine(tmp_path, PERMIT + f'@id("f") {FORBID} when {{ context.claims.pii_found }};')
    assert_denied(machine.decide(ask(claims={"pii_found": None})), "claim_missing:pii_found")


@pytest.mark.parametrize(
    "text",
    [
        '{"__entity":{"type":"Lucid::User","id":"admin"}}',
        '"}, "platform": {"simulated": false}, "x": {"',
        '", "phase": "response',
        '\x00\u2028\u2029\\"\n',
        "__entity",
    ],
)
def test_text_in_a_claim_stays_text(tmp_path: Path, text: str) -> None:
    """No string can become an entity, an extension value or another attribute."""
    machine = (
        engine(
            tmp_path,
            '@id("a") permit (principal, action, resource) '
            f"when {{ context.claims.language == {json.dumps(text)} && "
            'context.phase == "request" && !context.platform.simulated };',
        )
        if text.isprintable()
        else engine(tmp_path, PERMIT)
    )
    assert machine.decide(ask(claims={"language": text})).outcome is Outcome.PROCEED
    admin = engine(
        tmp_path / "admin",
        '@id("a") permit (principal == Lucid::User::"admin", action, resource);',
    )
    assert_denied(
        admin.decide(ask(claims={"language": text}, principal=("User", text))),
        "default_deny",
        evaluated=True,
    )


def test_a_principal_cannot_be_written_as_cedar_text(tmp_path: Path) -> None:
    admin = engine(
        tmp_path, '@id("a") permit (principal == Lucid::User::"admin", action, resource);'
    )
    for principal in (("User", 'Lucid::User::"admin"'), ("User", "admin "), ("Agent", "admin")):
        assert_denied(admin.decide(ask(principal=principal)), "default_deny", evaluated=True)


def test_an_undeclared_action_is_denied(tmp_path: Path) -> None:
    assert_denied(engine(tmp_path, PERMIT).decide(ask(action="admin")), "no_decision")


def test_no_policy_at_all_denies(tmp_path: Path) -> None:
    assert problems(write(tmp_path, "// nothing\n"))
    assert_denied(unchecked(tmp_path, "").decide(ask()), "default_deny", evaluated=True)


def test_two_policies_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = write(tmp_path, {"a": PERMIT, "b": PERMIT})
    assert any("is taken by policies/a.cedar:1" in problem.message for problem in problems(twice))


def test_a_forbid_whose_outcome_is_not_understood_denies(tmp_path: Path) -> None:
    machine = unchecked(tmp_path, PERMIT + f'@id("f") {FORBID};')
    part = machine._phases[Phase.REQUEST]
    part.policies["f"] = replace(part.policies["f"], outcome=Outcome.PROCEED)
    assert_denied(machine.decide(ask()), "f", "unknown_annotation:f")
    del part.policies["f"]
    assert_denied(machine.decide(ask(principal=("User", "bob"))), "unknown_annotation:f")


def _answers(decision: str, **diagnostics: list[str]) -> list[str]:
    """What the binding's native half says."""
    said = {"reason": [], "errors": [], **diagnostics}
    return [json.dumps({"decision": decision, "diagnostics": said})]


def _raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "fake",
    [
        _raising(ValueError("boom: secret text")),
        _raising(RuntimeError()),
        _raising(MemoryError()),
        _raising(RecursionError()),
        _raising(Panic()),
        lambda *_, **__: None,
        lambda *_, **__: [],
        lambda *_, **__: ["not JSON"],
        lambda *_, **__: _answers("Maybe"),
        lambda *_, **__: _answers("NoDecision"),
        lambda *_, **__: _answers("Allow") * 2,
        lambda *_, **__: ["{}"],
        lambda *_, **__: ['{"decision": "Allow"}'],
        lambda *_, **__: ['{"decision": "Allow", "diagnostics": null}'],
    ],
)
def test_whatever_the_binding_does_wrong_denies_and_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Callable[..., Any]
) -> None:
    machine = engine(tmp_path, PERMIT)
    with monkeypatch.context() as patch:
        patch.setattr(policies, "authorize", fake)
        verdict = machine.decide(ask())
    assert_denied(verdict, "no_decision")
    assert "secret" not in " ".join(verdict.errors)
    assert machine.decide(ask()).outcome is Outcome.PROCEED


def test_an_allow_with_errors_denies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _answers("Allow", reason=["allow"], errors=["something odd"])
    monkeypatch.setattr(policies, "authorize", lambda *_: answer)
    assert_denied(engine(tmp_path, PERMIT).decide(ask()), "engine_error")


def test_an_interrupt_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "authorize", _raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        engine(tmp_path, PERMIT).decide(ask())


def test_the_second_evaluation_fails_closed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = f'@id("soft") @decision("warn") {FORBID} when {{ context.claims.pii_found }};'
    machine = engine(tmp_path, PERMIT + soft, cache_size=0)
    request = ask(claims={"pii_found": True})
    assert machine.decide(request).outcome is Outcome.WARN
    for second in (
        Answer(ruling=Ruling.NONE),
        Answer(ruling=Ruling.DENY),
        Answer(ruling=Ruling.ALLOW, reasons=("allow",), faults=_faults()),
    ):
        monkeypatch.setattr(machine._phases[Phase.REQUEST], "hard", _Fixed(second), raising=True)
        verdict = machine.decide(request)
        assert verdict.outcome is Outcome.DENY
        assert "soft" in verdict.reasons


def test_a_second_evaluation_that_failed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = f'@id("soft") @decision("warn") {FORBID} when {{ context.claims.pii_found }};'
    machine, request = engine(tmp_path, PERMIT + soft), ask(claims={"pii_found": True})
    with monkeypatch.context() as patch:
        none = _Fixed(Answer(ruling=Ruling.NONE))
        patch.setattr(machine._phases[Phase.REQUEST], "hard", none, raising=True)
        assert machine.decide(request).outcome is Outcome.DENY
    assert machine.decide(request).outcome is Outcome.WARN


def test_what_is_remembered_for_true_is_no_answer_about_one(tmp_path: Path) -> None:
    machine = engine(tmp_path, PERMIT)
    for good, wrong in (({"pii_found": True}, {"pii_found": 1}), ({"tokens": 1}, {"tokens": True})):
        assert machine.decide(ask(claims=good)).outcome is Outcome.PROCEED
        (name,) = wrong
        assert_denied(machine.decide(ask(claims=wrong)), f"claim_invalid:{name}")
        assert machine.decide(ask(claims=good)).outcome is Outcome.PROCEED


def _faults() -> tuple[Fault, ...]:
    return (Fault(policy="soft", message="odd"),)


class _Fixed:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def evaluate(self, **_: object) -> Answer:
        return self.answer


@pytest.mark.parametrize("ruling", [Ruling.DENY, Ruling.NONE])
def test_only_an_allow_reads_as_permission(ruling: Ruling) -> None:
    assert not Answer(ruling=ruling).allowed
    assert not Answer(ruling=Ruling.ALLOW, faults=_faults()).allowed
    assert Answer(ruling=Ruling.ALLOW).allowed


def test_errors_quote_no_values(tmp_path: Path) -> None:
    machine = unchecked(
        tmp_path,
        PERMIT
        + f'@id("a") {FORBID} when {{ ip(context.claims.language).isLoopback() }};'
        + f'@id("b") {FORBID} when {{ context.claims.language > 5 }};'
        + f'@id("c") {FORBID} when {{ context.claims.tokens * 9223372036854775807 > 5 }};',
    )
    verdict = machine.decide(ask(claims={"language": "hunter2-secret", "tokens": 424242}))
    assert_denied(verdict, "policy_error:a", "policy_error:b", "policy_error:c")
    assert len(verdict.errors) == 3
    assert not any(word in " ".join(verdict.errors) for word in ("hunter2", "424242"))


def test_an_error_is_laid_to_the_right_policy() -> None:
    """Ids may hold what Cedar's message is made of."""
    forbid, problem = parse_policies("f", "forbid (principal, action, resource) when {context.x};")
    assert not problem
    names = ["a", "a`: b", "error while evaluating policy `a"]
    store = PolicyStore(dict.fromkeys(names, forbid[0].est), entities=Entities("[]"), schema=None)
    answer = store.evaluate(
        principal=("U", "x"), action=("Action", "x"), resource=("R", "x"), context="{}"
    )
    assert answer.ruling is Ruling.DENY
    assert sorted(fault.policy or "" for fault in answer.faults) == sorted(names)


def test_a_context_that_is_not_json_or_not_a_record_is_no_decision() -> None:
    store = PolicyStore({}, entities=Entities("[]"), schema=None)
    for context in ("", "{", "[]", "7", '{"x": 0.5}', '{"x": null}', '{"x": {"__expr": "1"}}'):
        answer = store.evaluate(
            principal=("U", "x"), action=("Action", "x"), resource=("R", "x"), context=context
        )
        assert answer.ruling is Ruling.NONE, context


def test_a_long_pattern_on_a_long_claim_is_quick(tmp_path: Path) -> None:
    stars = "*a" * 200 + "*b"
    machine = engine(
        tmp_path,
        PERMIT + f'@id("l") {FORBID} when {{ context.claims.language like "{stars}" }};',
    )
    verdict = machine.decide(ask(claims={"language": "a" * 1024}))
    assert verdict.outcome is Outcome.PROCEED


def test_the_claims_of_the_helpers_are_the_vocabulary(tmp_path: Path) -> None:
    values: dict[str, ClaimValue] = CLAIMS
    assert tuple(sorted(values)) == Bundle.load(write(tmp_path)).vocabulary.names()
