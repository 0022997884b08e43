"""What the engine prepares for each phase and action when a bundle is loaded.

For one action of one phase: which claims must be there, which facts any policy can see, and how to
write just these as Cedar's context. What no policy of the slice reads is left out: it cannot change
the answer, it costs time (2 to 10 µs for each value), and it would split the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from attestation.records import PLATFORM_FIELDS, ClaimValue
from enforcement.outcome import Outcome, Phase, Platform
from enforcement.policy.annotations import PolicyInfo
from enforcement.policy.bundle import Bundle
from enforcement.policy.members import Members
from enforcement.policy.policies import Answer, Entities, PolicyStore, Schema, Uid
from enforcement.policy.reads import mentioned
from enforcement.policy.schema import ACTIONS, NAMESPACE, PRINCIPALS, RESOURCES, request_schema
from enforcement.policy.slicing import PolicyIndex, Stores
from enforcement.policy.vocabulary import Claim

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request in canonical form, reduced to what policies can see.

    `claims` and `platform` stand in the order of the part's `reads` and `platform_reads`.
    """

    principal: tuple[str, str]
    action: str
    resource: tuple[str, str]
    phase: Phase
    claims: tuple[ClaimValue | None, ...]
    trace_id: str
    platform: tuple[str | bool, ...]
    groups: tuple[str, ...] = ()


class ActionPart:
    """One action in one phase.

    Attributes:
        reads: names of the claims that some policy reads, sorted.
        required: those of them that must be there.
        reads_trace_id: whether some policy sees the trace id.
        platform_reads: the fields of the platform that some policy reads.
    """

    def __init__(self, policies: list[PolicyInfo], claims: tuple[Claim, ...], phase: Phase) -> None:
        names = tuple(claim.name for claim in claims)
        read = {name for policy in policies for name in policy.reads.of(names)}
        frame = {name for policy in policies for name in policy.reads.frame}
        whole = any(policy.reads.whole for policy in policies)
        self._phase = phase.value
        self._whole = whole
        self._with_phase = whole or "phase" in frame
        self.reads = tuple(name for name in names if name in read)
        self.required = tuple(
            claim.name for claim in claims if claim.name in read and not claim.optional
        )
        self.reads_trace_id = whole or any(policy.reads.trace_id for policy in policies)
        self.platform_reads = tuple(
            field
            for field in PLATFORM_FIELDS
            if whole or "platform" in frame or f"platform.{field}" in frame
        )

    def platform_of(self, platform: Platform) -> tuple[str | bool, ...]:
        """What policies can see of the platform."""
        return tuple([getattr(platform, field) for field in self.platform_reads])

    def context(self, question: Question) -> str:
        """Cedar's context as JSON. Built from typed values alone: a client's own JSON, in which
        `__entity` and `__extn` would mean something, never enters it."""
        context: dict[str, Any] = {}
        if self.reads or self._whole:
            context["claims"] = {
                name: value
                for name, value in zip(self.reads, question.claims, strict=True)
                if value is not None
            }
        if self._with_phase:
            context["phase"] = self._phase
        if self.reads_trace_id:
            context["trace_id"] = question.trace_id
        if self.platform_reads:
            context["platform"] = dict(zip(self.platform_reads, question.platform, strict=True))
        return _encode(context).decode()


class PhasePart:
    """Everything that is fixed for one phase.

    Attributes:
        policies: those that take part in the phase, by id.
        claims: those that the vocabulary gives in the phase, sorted by name.
        actions: by the action's id.
        all, hard: the policies, and those that neither warn nor redact.
    """

    def __init__(self, bundle: Bundle, phase: Phase, members: Members, *, cache_size: int) -> None:
        self._members = members
        entities = members.base
        self.policies: dict[str, PolicyInfo] = {
            name: policy for name, policy in bundle.policies.items() if phase in policy.phases
        }
        self.claims = bundle.vocabulary.of_phase(phase)
        self.actions = {
            action: ActionPart(
                [policy for policy in self.policies.values() if policy.applies(action, phase)],
                self.claims,
                phase,
            )
            for action in ACTIONS
        }
        stores: Stores = {}
        self.all = _index(self.policies, entities, stores, cache_size)
        self.hard = _index(
            {
                name: policy
                for name, policy in self.policies.items()
                if policy.outcome not in {Outcome.WARN, Outcome.REDACT}
            },
            entities,
            stores,
            cache_size,
        )

    def ask(self, index: PolicyIndex, question: Question) -> Answer:
        """Put a question to the policies (`all`) or to the hard ones (`hard`)."""
        return index.evaluate(
            principal=_uid(question.principal),
            action=(f"{NAMESPACE}::Action", question.action),
            resource=_uid(question.resource),
            context=self.actions[question.action].context(question),
            entities=self._members.entities(
                question.principal[1], question.groups, _uid(question.resource)
            )
            if question.groups
            else None,
        )

    def claims_seen(self, question: Question) -> Mapping[str, ClaimValue | None]:
        """The claims of a question by name."""
        return dict(zip(self.actions[question.action].reads, question.claims, strict=True))


def members_of(bundle: Bundle) -> Members:
    """The bundle's entities, to which groups of a credential can be added.

    Raises:
        CedarError: they do not conform to the schema.
    """
    conditions = [policy.est.get("conditions", ()) for policy in bundle.policies.values()]
    return Members(
        bundle.entities, entities_of(bundle), schema_of(bundle), named=mentioned(conditions)
    )


def entities_of(bundle: Bundle) -> Entities:
    """The bundle's entities, parsed and checked once.

    Raises:
        CedarError: they do not conform to the schema.
    """
    return Entities(bundle.entities, schema_of(bundle))


def schema_of(bundle: Bundle) -> Schema:
    """The schema that entities conform to; it is the same in both phases."""
    return Schema(request_schema(bundle.vocabulary, Phase.REQUEST))


def plain_store(bundle: Bundle, phase: Phase) -> PolicyStore:
    """All policies of a phase in one set, evaluated with the schema: nothing sliced, left out or
    remembered. What the engine's answers are compared with.

    Raises:
        CedarError: the set cannot be built.
    """
    return PolicyStore(
        {name: policy.est for name, policy in bundle.policies.items() if phase in policy.phases},
        entities=entities_of(bundle),
        schema=Schema(request_schema(bundle.vocabulary, phase)),
    )


def _index(
    policies: Mapping[str, PolicyInfo], entities: Entities, stores: Stores, cache_size: int
) -> PolicyIndex:
    # Without the schema, which would cost as much again as the decision: the question conforms to
    # it by construction (docs/adr/0017).
    index = PolicyIndex(
        {name: policy.est for name, policy in policies.items()},
        entities=entities,
        action_groups=False,  # the schema has none
        stores=stores,
        cache_size=cache_size,
    )
    index.prepare(
        [(f"{NAMESPACE}::Action", action) for action in sorted(ACTIONS)],
        [f"{NAMESPACE}::{kind}" for kind in PRINCIPALS],
        [f"{NAMESPACE}::{kind}" for kind in RESOURCES],
    )
    return index


def _uid(pair: tuple[str, str]) -> Uid:
    return f"{NAMESPACE}::{pair[0]}", pair[1]
