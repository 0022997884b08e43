"""From Cedar's answer to the engine's verdict: reasons, errors without values, claims read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from attestation.records import ClaimValue
from enforcement.outcome import Outcome, Platform, Redaction, Verdict, strictest
from enforcement.policy.annotations import PolicyInfo
from enforcement.policy.engine_parts import PhasePart, Question
from enforcement.policy.obligations import together
from enforcement.policy.policies import Answer, Fault, Ruling

HARDWARE_REQUIRED: Final = "hardware_required"
MAX_ERROR: Final = 200  # characters of one error text

_NOTHING: Final[Mapping[str, ClaimValue]] = MappingProxyType({})
_ATTRIBUTE: Final = re.compile(r"does not have the attribute `([A-Za-z_][A-Za-z0-9_]*)`")


class UndecidedError(Exception):
    """Carries a verdict past the cache: what could not be evaluated now may be later."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


def evaluate(part: PhasePart, question: Question) -> Verdict:
    """Put a question to Cedar, twice where only warn and redact policies decided.

    Raises:
        UndecidedError: it could not be evaluated; the verdict in it denies.
    """
    first = part.ask(part.all, question)
    if first.ruling is Ruling.NONE:
        raise UndecidedError(_plain(first, part, question))
    if first.ruling is not Ruling.DENY or not first.reasons:
        return _plain(first, part, question)
    deciding = [part.policies.get(name) for name in first.reasons]
    known = [policy for policy in deciding if policy is not None]
    hard = [policy for policy in known if policy.outcome is Outcome.DENY]
    strange = [
        name
        for name, policy in zip(first.reasons, deciding, strict=True)
        if policy is None or policy.outcome is Outcome.PROCEED
    ]
    if strange or hard or first.faults:
        # A policy's own denial stands even where another policy failed.
        return Verdict(
            outcome=Outcome.DENY,
            reasons=tuple(
                sorted(
                    {policy.id for policy in known}
                    | {f"unknown_annotation:{name}" for name in strange}
                    | set(_fault_reasons(first.faults))
                )
            ),
            evaluated=bool(hard),
            errors=_errors(first.faults),
            claims_read=_claims_read(known, part, question),
        )
    second = part.ask(part.hard, question)
    if second.ruling is Ruling.NONE:
        raise UndecidedError(_plain(second, part, question, also=known))
    if not second.allowed:
        return _plain(second, part, question, also=known)
    redacting = [policy for policy in known if policy.outcome is Outcome.REDACT]
    return Verdict(
        outcome=Outcome.REDACT if redacting else Outcome.WARN,
        reasons=first.reasons,
        redact=frozenset[str]().union(*(policy.redact for policy in redacting)),
        redact_with=_redact_with(redacting),
        obliges=together(
            policy.obliges
            for policy in [
                *known,
                *(part.policies[name] for name in second.reasons if name in part.policies),
            ]
        ),
        claims_read=_claims_read(known, part, question),
    )


def _redact_with(policies: Iterable[PolicyInfo]) -> Mapping[str, Redaction]:
    """The strictest method of each label; only what is not `mask`."""
    methods = strictest(
        (policy.redact, dict.fromkeys(policy.redact, policy.redact_with)) for policy in policies
    )
    return MappingProxyType({k: v for k, v in methods.items() if v is not Redaction.MASK})


def held(verdict: Verdict, platform: Platform) -> Verdict:
    """A verdict, or a denial where a deciding policy requires hardware that is not there."""
    unproven = platform.simulated or not platform.hardware_attested
    if unproven and verdict.obliges.require_hardware and verdict.outcome is not Outcome.DENY:
        return Verdict(
            outcome=Outcome.DENY, reasons=(HARDWARE_REQUIRED,), claims_read=verdict.claims_read
        )
    return verdict


def refused(reason: str, error: str) -> Verdict:
    """The verdict on a request that no policy could be asked about."""
    return Verdict(outcome=Outcome.DENY, reasons=(reason,), evaluated=False, errors=(error,))


def _plain(
    answer: Answer, part: PhasePart, question: Question, *, also: Iterable[PolicyInfo] = ()
) -> Verdict:
    """The verdict for an answer that no warn or redact policy softens.

    `also`: policies that decided in the first pass, named as reasons too.
    """
    policies = [part.policies[name] for name in answer.reasons if name in part.policies]
    policies += also
    names = {policy.id for policy in policies}
    read = _claims_read(policies, part, question)
    if answer.allowed:
        return Verdict(
            outcome=Outcome.PROCEED,
            reasons=answer.reasons,
            claims_read=read,
            obliges=together(policy.obliges for policy in policies),
        )
    evaluated = False
    if answer.ruling is Ruling.NONE:
        names.add("no_decision")
    elif answer.faults:
        names.update(_fault_reasons(answer.faults))
        # Beside an allow, the permits that were named did not decide anything.
        names -= {policy.id for policy in policies if policy.outcome is Outcome.PROCEED}
    else:
        evaluated = True
        if not answer.reasons:
            names.add("default_deny")
    return Verdict(
        outcome=Outcome.DENY,
        reasons=tuple(sorted(names)),
        evaluated=evaluated,
        errors=_errors(answer.faults),
        claims_read=read,
    )


def _claims_read(
    policies: Iterable[PolicyInfo], part: PhasePart, question: Question
) -> Mapping[str, ClaimValue]:
    read = [policy for policy in policies if policy.reads.claims or policy.reads.all_claims]
    if not read:
        return _NOTHING
    seen = part.claims_seen(question)
    names = tuple(seen)
    found: dict[str, ClaimValue] = {}
    for policy in read:
        for name in policy.reads.of(names):
            value = seen[name]
            if value is not None:
                found[name] = value
    return MappingProxyType(dict(sorted(found.items())))  # cached verdicts are shared


def _fault_reasons(faults: Iterable[Fault]) -> list[str]:
    return [f"policy_error:{fault.policy}" if fault.policy else "engine_error" for fault in faults]


def _errors(faults: Iterable[Fault]) -> tuple[str, ...]:
    """What failed, without values: Cedar's messages may quote claims, so only the attribute that
    was missing, or the words before anything quoted, are kept."""
    texts: list[str] = []
    for fault in faults:
        attribute = _ATTRIBUTE.search(fault.message)
        if fault.policy is None:
            what = "the request could not be evaluated"
        elif attribute:
            what = f"policy {fault.policy}: the attribute {attribute[1]} is not there"
        else:
            words = re.split(r"[`\"'0-9:]", fault.message, maxsplit=1)[0].strip()
            what = f"policy {fault.policy}: {words or 'it failed'}"
        texts.append(what[:MAX_ERROR])
    return tuple(dict.fromkeys(texts))
