"""The policy engine: one question, one verdict, and every doubt is a denial.

How a request is decided (`Engine.decide`):

1. The claims are checked against the vocabulary. Claims that the vocabulary does not give in this
   phase are left out; a value that does not fit its claim denies (`claim_invalid:<name>`).
2. *Applicable* policies are those whose `@phase` includes the phase and whose scope can match the
   action. Principal, resource and conditions are not looked at: that errs to the side of more.
   Every required claim that an applicable policy reads, or asks for with `has`, must be there
   (`claim_missing:<name>`): Cedar would skip the policy, and a skipped `forbid` lets through.
3. Cedar evaluates the phase's policies with the schema. No decision, an error in any policy, or
   anything unforeseen denies.
4. Where only `forbid` policies annotated warn or redact decided, Cedar is asked again without all
   of these: allowed then means `redact` (if one of the deciding ones redacts) or `warn`; else
   `deny`. Labels to mask are the union over the deciding policies.

The context is built from typed fields only; a client's own JSON never enters it. Verdicts are
kept in a bounded least-recently-used cache under the whole request in canonical form; the trace
id is part of it only if some policy reads it. One engine belongs to one bundle digest.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from attestation.records import ClaimValue
from enforcement.annotations import PolicyInfo
from enforcement.bundle import Bundle
from enforcement.outcome import Outcome, Phase, Platform, PolicyRequest, Verdict
from enforcement.policies import Answer, CedarError, Entities, Fault, PolicyStore, Ruling, Schema
from enforcement.problems import BundleError, Problem
from enforcement.schema import ACTIONS, NAMESPACE, PRINCIPALS, RESOURCES, request_schema
from enforcement.vocabulary import LIMITS, ClaimError, is_unicode

MAX_ERROR: Final = 200  # characters of one error text

_ATTRIBUTE: Final = re.compile(r"does not have the attribute `([A-Za-z_][A-Za-z0-9_]*)`")


@dataclass(frozen=True, slots=True)
class _Question:
    """A request in canonical form: the cache's key. Claims stand in the vocabulary's order."""

    principal: tuple[str, str]
    action: str
    resource: tuple[str, str]
    phase: Phase
    claims: tuple[ClaimValue | None, ...]
    trace_id: str
    platform: Platform


class _UndecidedError(Exception):
    """Carries a verdict past the cache: what could not be evaluated now may be later."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


class _Slice:
    """What is fixed for one phase: policies, required claims, handles."""

    def __init__(self, bundle: Bundle, phase: Phase, entities: Entities) -> None:
        self.policies = {
            name: policy for name, policy in bundle.policies.items() if phase in policy.phases
        }
        self.claims = bundle.vocabulary.of_phase(phase)
        self.names = tuple(claim.name for claim in self.claims)
        self.reads_trace_id = any(policy.reads.trace_id for policy in self.policies.values())
        required = {claim.name for claim in self.claims if not claim.optional}
        self.required = {
            action: tuple(
                name
                for name in self.names
                if name in required
                and any(
                    policy.reads.of((name,))
                    for policy in self.policies.values()
                    if policy.applies(action, phase)
                )
            )
            for action in ACTIONS
        }
        soft = {
            name
            for name, policy in self.policies.items()
            if policy.outcome in {Outcome.WARN, Outcome.REDACT}
        }
        self.all = PolicyStore(
            {name: policy.est for name, policy in self.policies.items()},
            entities=entities,
            schema=Schema(request_schema(bundle.vocabulary, phase)),
        )
        self.hard = self.all.without(frozenset(soft))


class Engine:
    """Decides by one bundle. Safe to share between threads; `decide` is synchronous and short."""

    def __init__(self, bundle: Bundle, *, cache_size: int = 4096) -> None:
        """`cache_size`: verdicts kept; 0 switches the cache off.

        Raises:
            BundleError: Cedar refuses what the bundle's checks let pass.
        """
        self.bundle = bundle
        try:
            entities = Entities(
                bundle.entities, Schema(request_schema(bundle.vocabulary, Phase.REQUEST))
            )
            self._slices = {phase: _Slice(bundle, phase, entities) for phase in Phase}
        except CedarError as error:
            raise BundleError([Problem(file="", message=str(error))]) from error
        self._answer = functools.lru_cache(maxsize=cache_size)(self._evaluate)
        # Requests that were checked and answered, as they came: spares the hot path the checks.
        # The types are part of the key, because `True` and `1` are equal and not the same claim.
        self._recent: dict[object, Verdict] = {}
        self._recent_size = (
            0 if any(part.reads_trace_id for part in self._slices.values()) else cache_size
        )

    def decide(self, request: PolicyRequest, /) -> Verdict:
        """Answer one question. Never raises; fails closed."""
        try:
            as_it_came = _key(request)
            known = self._recent.get(as_it_came) if as_it_came is not None else None
            if known is not None:
                return known
            question = self._question(request)
            if isinstance(question, Verdict):
                return question
            verdict = self._answer(question)
            if as_it_came is not None:
                self._remember(as_it_came, verdict)
        except _UndecidedError as undecided:
            return undecided.verdict
        except Exception as error:  # noqa: BLE001  # any failure at all must deny
            return _refused("engine_error", f"the policy engine failed: {type(error).__name__}")
        return verdict

    def _remember(self, as_it_came: object, verdict: Verdict) -> None:
        if len(self._recent) < self._recent_size:
            self._recent[as_it_came] = verdict
        elif self._recent:
            self._recent.clear()

    def cache_counts(self) -> tuple[int, int]:
        """Hits and misses so far."""
        info = self._answer.cache_info()
        return info.hits, info.misses

    def _question(self, request: PolicyRequest) -> _Question | Verdict:
        """The request, checked and in canonical form, or the verdict that it cannot be one."""
        part = self._slices[request.phase]
        complaint = _frame_problem(request)
        if complaint:
            return _refused("no_decision", complaint)
        claims: list[ClaimValue | None] = []
        for claim in part.claims:
            value = request.claims.get(claim.name)
            if value is None:
                claims.append(None)
                continue
            try:
                claims.append(claim.check(value))
            except ClaimError as error:
                return _refused(f"claim_invalid:{claim.name}", str(error))
        given = request.claims
        missing = [name for name in part.required[request.action] if given.get(name) is None]
        if missing:
            return Verdict(
                outcome=Outcome.DENY,
                reasons=tuple(f"claim_missing:{name}" for name in missing),
                evaluated=False,
                errors=tuple(
                    f"no source gave the claim {name}, which a policy reads" for name in missing
                ),
            )
        return _Question(
            principal=request.principal,
            action=request.action,
            resource=request.resource,
            phase=request.phase,
            claims=tuple(claims),
            trace_id=request.trace_id if part.reads_trace_id else "",
            platform=request.platform,
        )

    def _evaluate(self, question: _Question) -> Verdict:
        part = self._slices[question.phase]
        first = _ask(part.all, part, question)
        if first.ruling is Ruling.NONE:
            raise _UndecidedError(_plain(first, part, question))
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
        second = _ask(part.hard, part, question)
        if second.ruling is Ruling.NONE:
            raise _UndecidedError(_plain(second, part, question, also=known))
        if not second.allowed:
            return _plain(second, part, question, also=known)
        redacting = [policy for policy in known if policy.outcome is Outcome.REDACT]
        return Verdict(
            outcome=Outcome.REDACT if redacting else Outcome.WARN,
            reasons=first.reasons,
            redact=frozenset[str]().union(*(policy.redact for policy in redacting)),
            claims_read=_claims_read(known, part, question),
        )


def _ask(store: PolicyStore, part: _Slice, question: _Question) -> Answer:
    platform = question.platform
    context = {
        "claims": {
            name: value
            for name, value in zip(part.names, question.claims, strict=True)
            if value is not None
        },
        "phase": question.phase.value,
        "trace_id": question.trace_id,
        "platform": {
            "tee_type": platform.tee_type,
            "hardware_attested": platform.hardware_attested,
            "tcb_status": platform.tcb_status,
            "simulated": platform.simulated,
        },
    }
    return store.evaluate(
        principal=(f"{NAMESPACE}::{question.principal[0]}", question.principal[1]),
        action=(f"{NAMESPACE}::Action", question.action),
        resource=(f"{NAMESPACE}::{question.resource[0]}", question.resource[1]),
        context=msgspec.json.encode(context).decode(),
    )


def _plain(
    answer: Answer, part: _Slice, question: _Question, *, also: Iterable[PolicyInfo] = ()
) -> Verdict:
    """The verdict for an answer that no warn or redact policy softens.

    `also`: policies that decided in the first pass, named as reasons too.
    """
    policies = [part.policies[name] for name in answer.reasons if name in part.policies]
    policies += also
    names = {policy.id for policy in policies}
    read = _claims_read(policies, part, question)
    if answer.allowed:
        return Verdict(outcome=Outcome.PROCEED, reasons=answer.reasons, claims_read=read)
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
    policies: Iterable[PolicyInfo], part: _Slice, question: _Question
) -> Mapping[str, ClaimValue]:
    values = dict(zip(part.names, question.claims, strict=True))
    found: dict[str, ClaimValue] = {}
    for policy in policies:
        for name in policy.reads.of(part.names):
            value = values.get(name)
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


def _key(request: PolicyRequest) -> object | None:
    """A request as it came, hashable; None where it cannot be (the checks will refuse it).

    Types are part of it: `True` and `1` are equal and not the same claim.
    """
    values = tuple(request.claims.values())
    key = (
        request.principal,
        request.action,
        request.resource,
        request.phase,
        request.platform,
        tuple(request.claims),
        values,
        tuple(map(type, values)),
    )
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _refused(reason: str, error: str) -> Verdict:
    return Verdict(outcome=Outcome.DENY, reasons=(reason,), evaluated=False, errors=(error,))


def _frame_problem(request: PolicyRequest) -> str | None:
    """What is wrong with everything but the claims, or None. No values in the text."""
    kind, name = request.principal
    if kind not in PRINCIPALS or not _is_text(name, LIMITS.id):
        return "the principal is of no known type, or its id is too long or not Unicode"
    kind, name = request.resource
    if kind not in RESOURCES or not _is_text(name, LIMITS.id):
        return "the resource is of no known type, or its id is too long or not Unicode"
    if request.action not in ACTIONS:
        return "the action is not known"
    if not _is_text(request.trace_id, LIMITS.trace_id):
        return "the trace id is too long or not Unicode"
    platform = request.platform
    if not (
        _is_text(platform.tee_type, LIMITS.id)
        and _is_text(platform.tcb_status, LIMITS.id)
        and _is_bool(platform.hardware_attested)
        and _is_bool(platform.simulated)
    ):
        return "the platform is not described in the right types"
    return None


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and is_unicode(value)
