"""What a decision says, and what it obliges the door to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from attestation.records import ClaimValue
from enforcement.policy.obligations import NONE, Obligations


class Phase(StrEnum):
    """Which half of an exchange is decided."""

    REQUEST = "request"
    RESPONSE = "response"


class Outcome(StrEnum):
    """The four outcomes, mildest first; `strictness` orders them."""

    PROCEED = "proceed"
    WARN = "warn"
    REDACT = "redact"
    DENY = "deny"

    @property
    def strictness(self) -> int:
        """0 for proceed to 3 for deny."""
        return _ORDER.index(self)


_ORDER = (Outcome.PROCEED, Outcome.WARN, Outcome.REDACT, Outcome.DENY)


class Redaction(StrEnum):
    """How what is found is redacted, mildest first; `strictness` orders them. See `redact.py`."""

    HASH = "hash"
    MASK = "mask"
    DROP = "drop"

    @property
    def strictness(self) -> int:
        """0 for hash to 2 for drop."""
        return _REDACTIONS.index(self)


_REDACTIONS = (Redaction.HASH, Redaction.MASK, Redaction.DROP)


def strictest(
    demands: Iterable[tuple[Iterable[str], Mapping[str, Redaction]]],
) -> dict[str, Redaction]:
    """How to redact each label, of several demands: labels, and the methods of some of them."""
    methods: dict[str, Redaction] = {}
    for labels, given in demands:
        for label in labels:
            method = given.get(label, Redaction.MASK)
            before = methods.get(label)
            if before is None or method.strictness > before.strictness:
                methods[label] = method
    return methods


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The engine's answer to one policy request.

    Attributes:
        reasons: stable strings, sorted: ids of the policies that decided, `claim_missing:<name>`,
            `policy_error:<id>`, `no_decision`, `default_deny`, `unknown_annotation:<id>`,
            `hardware_required`, `engine_error`.
        redact: labels to mask (`email`, `card`, …); empty unless `outcome` is REDACT.
        redact_with: how, by label; a label that is not in it is masked.
        evaluated: False where no policy could be evaluated (503 at the door), True for a policy's
            own answer (403).
        claims_read: the claims that the deciding policies read, for explanations.
        obliges: what the door must do for a permission to hold; nothing in a denial.
        shadow: what a candidate bundle says of the same request; for the record alone.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    redact: frozenset[str] = frozenset()
    redact_with: Mapping[str, Redaction] = msgspec.field(default_factory=dict)
    evaluated: bool = True
    errors: tuple[str, ...] = ()
    claims_read: Mapping[str, ClaimValue] = msgspec.field(default_factory=dict)
    obliges: Obligations = NONE
    shadow: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What policies may require of the hardware (Cedar `context.platform`)."""

    tee_type: str
    hardware_attested: bool
    tcb_status: str
    simulated: bool


class PolicyRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One question to the engine. Uids are (entity type without namespace, id).

    `groups`: ids of groups that the principal is in, beside those that the bundle's entities say;
    sorted.
    """

    principal: tuple[str, str]
    action: str
    resource: tuple[str, str]
    phase: Phase
    claims: Mapping[str, ClaimValue]
    trace_id: str
    platform: Platform
    groups: tuple[str, ...] = ()
