"""The policy engine: one question, one verdict, and every doubt is a denial.

How a request is decided (`Engine.decide`):

1. Principal, action, resource, platform and claims are checked against the schema's types and the
   vocabulary. Claims that the vocabulary does not give in this phase are left out; a value that
   does not fit its claim denies (`claim_invalid:<name>`).
2. *Applicable* policies are those whose `@phase` includes the phase and whose scope can match the
   action. Principal, resource and conditions are not looked at: that errs to the side of more.
   Every required claim that an applicable policy reads, or asks for with `has`, must be there
   (`claim_missing:<name>`): Cedar would skip the policy, and a skipped `forbid` lets through.
3. Cedar evaluates those policies of the phase whose scope can match (`slicing`). No
   decision, an error in any policy, or anything unforeseen denies.
4. Where only `forbid` policies annotated warn or redact decided, Cedar is asked again without all
   of these: allowed then means `redact` (if one of the deciding ones redacts) or `warn`; else
   `deny`. Labels to mask are the union over the deciding policies.
5. Where a deciding policy requires hardware and the platform is none, `hardware_required` denies.

The context is built from typed fields only; a client's own JSON never enters it. A verdict depends
on the request and the bundle alone: what counts or measures time (limits, rates) is not decided
here but obliged, and belongs to the door. So there are two bounded least-recently-used caches: of
verdicts under the request as it came, and of Cedar's answers under what policies can see of it; the
trace id is part of a key only if some policy reads it. One engine belongs to one bundle digest, so
the digest is part of every key by construction.
"""

from __future__ import annotations

import functools
from typing import Final

from attestation.panics import is_fault
from attestation.records import ClaimValue
from enforcement.outcome import Outcome, Phase, Platform, PolicyRequest, Verdict
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine_parts import PhasePart, Question, members_of
from enforcement.policy.engine_verdict import UndecidedError, evaluate, held, refused
from enforcement.policy.policies import CedarError
from enforcement.policy.problems import BundleError, Problem
from enforcement.policy.schema import ACTIONS, APPLIES, PRINCIPALS, RESOURCES
from enforcement.policy.vocabulary import LIMITS, ClaimError, is_unicode

CACHE_SIZE: Final = 4096  # verdicts; some 500 bytes each

# A request as it came: principal, action, resource, phase, platform, names, values and types of
# its claims, groups.
_Key = tuple[
    tuple[str, str],
    str,
    tuple[str, str],
    Phase,
    Platform,
    tuple[str, ...],
    tuple[ClaimValue, ...],
    tuple[type, ...],
    tuple[str, ...],
]


class Engine:
    """Decides by one bundle. Safe to share between threads; `decide` is synchronous and short.

    Attributes:
        missing: how often a claim that had to be there was not, by (claim,). May be replaced by
            one that several engines share.
    """

    def __init__(self, bundle: Bundle, *, cache_size: int = CACHE_SIZE) -> None:
        """`cache_size`: verdicts kept in each cache; 0 switches them off.

        Parsing releases the interpreter lock, so an engine may be built in a thread.

        Raises:
            BundleError: Cedar refuses what the bundle's checks let pass.
        """
        self.bundle = bundle
        self.missing: dict[tuple[str, ...], int] = {}
        try:
            members = members_of(bundle)
            self._phases = {
                phase: PhasePart(bundle, phase, members, cache_size=cache_size) for phase in Phase
            }
        except CedarError as error:
            raise BundleError(
                [Problem(file="", message=str(error), rule="bundle.engine")]
            ) from error
        # Requests as they came, which spares the checks. The types of claims are part of the key,
        # because `True` and `1` are equal and not the same claim; the trace id is not, so this is
        # not used where one is read.
        self._as_it_came = functools.lru_cache(maxsize=cache_size)(self._decide_key)
        self._remembers = cache_size > 0 and not any(
            part.reads_trace_id
            for phase in self._phases.values()
            for part in phase.actions.values()
        )

    def decide(self, request: PolicyRequest, /) -> Verdict:
        """Answer one question. Never raises; fails closed."""
        try:
            if not self._remembers or not _is_text(request.trace_id, LIMITS.trace_id):
                return self._decide(request)
            claims = request.claims
            values = tuple(claims.values())
            try:
                return self._as_it_came(
                    (
                        request.principal,
                        request.action,
                        request.resource,
                        request.phase,
                        request.platform,
                        tuple(claims),
                        values,
                        tuple(map(type, values)),
                        request.groups,
                    )
                )
            except TypeError:  # something that cannot be hashed; the checks will refuse it
                return self._decide(request)
        except UndecidedError as undecided:
            return undecided.verdict
        except BaseException as error:  # any failure at all must deny
            if not is_fault(error):
                raise
            return refused("engine_error", f"the policy engine failed: {type(error).__name__}")

    def cache_counts(self) -> tuple[int, int]:
        """Decisions answered from a cache so far, and those that Cedar was asked about."""
        counts = [part.all.cache_counts() for part in self._phases.values()]
        hits = self._as_it_came.cache_info().hits + sum(hits for hits, _ in counts)
        return hits, sum(misses for _, misses in counts)

    def _decide_key(self, key: _Key) -> Verdict:
        principal, action, resource, phase, platform, names, values, _types, groups = key
        return self._decide(
            PolicyRequest(
                principal=principal,
                action=action,
                resource=resource,
                phase=phase,
                claims=dict(zip(names, values, strict=True)),
                trace_id="",
                platform=platform,
                groups=groups,
            )
        )

    def _decide(self, request: PolicyRequest) -> Verdict:
        question = self._question(request)
        return held(evaluate(self._phases[question.phase], question), request.platform)

    def _question(self, request: PolicyRequest) -> Question:
        """The request, checked and in canonical form.

        Raises:
            UndecidedError: it cannot be one.
        """
        complaint = _frame_problem(request)
        if complaint:
            raise UndecidedError(refused("no_decision", complaint))
        phase = self._phases[request.phase]
        part = phase.actions[request.action]
        given = request.claims
        checked: dict[str, ClaimValue] = {}
        for claim in phase.claims:
            value = given.get(claim.name)
            if value is not None:
                try:
                    checked[claim.name] = claim.check(value)
                except ClaimError as error:
                    reason = f"claim_invalid:{claim.name}"
                    raise UndecidedError(refused(reason, str(error))) from None
        missing = [name for name in part.required if name not in checked]
        if missing:
            for name in missing:
                self.missing[(name,)] = self.missing.get((name,), 0) + 1
            raise UndecidedError(_claims_missing(missing))
        return Question(
            principal=request.principal,
            action=request.action,
            resource=request.resource,
            phase=request.phase,
            claims=tuple([checked.get(name) for name in part.reads]),
            trace_id=request.trace_id if part.reads_trace_id else "",
            platform=part.platform_of(request.platform),
            # Others than the bundle names cannot matter, and would split the cache.
            groups=tuple([group for group in request.groups if group in self.bundle.groups]),
        )


def _claims_missing(names: list[str]) -> Verdict:
    return Verdict(
        outcome=Outcome.DENY,
        reasons=tuple(f"claim_missing:{name}" for name in names),
        evaluated=False,
        errors=tuple(f"no source gave the claim {name}, which a policy reads" for name in names),
    )


def _frame_problem(request: PolicyRequest) -> str | None:
    """What is wrong with everything but the claims, or None. No values in the text."""
    kind, name = request.principal
    if kind not in PRINCIPALS or not _is_text(name, LIMITS.id):
        return "the principal is of no known type, or its id is too long or not Unicode"
    resource, name = request.resource
    if resource not in RESOURCES or not _is_text(name, LIMITS.id):
        return "the resource is of no known type, or its id is too long or not Unicode"
    if request.action not in ACTIONS:
        return "the action is not known"
    principals, resources = APPLIES[request.action]
    if kind not in principals or resource not in resources:
        return "the action is not for such a principal or resource"
    if not _is_text(request.trace_id, LIMITS.trace_id):
        return "the trace id is too long or not Unicode"
    groups = request.groups
    if groups and (kind != "User" or not all(_is_text(group, LIMITS.id) for group in groups)):
        return "the groups are not those of a user, or one's id is too long or not Unicode"
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
