"""One phase of an exchange put to the policy: texts to claims, claims to a verdict, to a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

import msgspec

from attestation.records import ClaimValue, Coverage, DecisionRecord, TextDigest
from enforcement.auditing import Audit
from enforcement.bodies.reading import BodyError, is_name
from enforcement.content.redact import RedactionIncompleteError, mask
from enforcement.detectors import DETECTORS, Span, claims_from, scan
from enforcement.outcome import Outcome, Phase, PolicyRequest, Verdict
from enforcement.policy.vocabulary import MEDIA_CLAIMS
from enforcement.snapshot import Snapshot

ACTION = "invoke"
MAX_MODEL = 128  # characters of a model's name in a record
MAX_REASONS = 64
_CONTENT_CLAIMS = frozenset({*MEDIA_CLAIMS.values(), "content_types"})


class Asked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What stays the same for both phases of one exchange."""

    snapshot: Snapshot
    route: str
    principal: tuple[str, str]
    groups: tuple[str, ...]
    trace_id: str
    request_id: str
    salt: bytes
    clock: Callable[[], int]
    random: Callable[[int], bytes]

    @property
    def labels(self) -> frozenset[str]:
        """The detectors that the bundle has on."""
        return frozenset(self.snapshot.bundle.detectors)

    def new_decision_id(self) -> str:
        """`dec-` and 24 hex digits."""
        return "dec-" + self.random(12).hex()

    def decide(self, phase: Phase, claims: dict[str, ClaimValue]) -> Verdict:
        """Ask the engine."""
        snapshot = self.snapshot
        request = PolicyRequest(
            principal=self.principal,
            action=ACTION,
            resource=("Agent", snapshot.agent_id),
            phase=phase,
            claims=claims,
            trace_id=self.trace_id,
            platform=snapshot.platform,
            groups=self.groups,
        )
        return decided(snapshot, request)


def decided(snapshot: Snapshot, request: PolicyRequest) -> Verdict:
    """The engine's verdict, and with it what the candidate says, where there is one."""
    verdict = snapshot.engine.decide(request)
    if snapshot.shadow is not None:
        return msgspec.structs.replace(verdict, shadow=snapshot.shadow.verdict(request))
    return verdict


class Findings(msgspec.Struct, kw_only=True, gc=False):
    """What was found and how long it took, on the way to one record."""

    phase: Phase
    decision_id: str
    claims: dict[str, ClaimValue] = msgspec.field(default_factory=dict)
    latency: dict[str, int] = msgspec.field(default_factory=dict)
    texts: tuple[TextDigest, ...] = ()
    coverage: Coverage = msgspec.field(default_factory=Coverage)
    auditors: dict[str, str] = msgspec.field(default_factory=dict)
    unscanned: tuple[str, ...] = ()  # kinds of content that passed and that no detector reads

    def heed(self, audit: Audit) -> None:
        """Put what auditors said beside the built-in claims."""
        self.claims = audit.add_to(self.claims)
        self.auditors |= audit.status
        for name, spent in audit.latency_us.items():
            key = f"auditor:{name}"
            self.latency[key] = self.latency.get(key, 0) + spent


def marked_by(audit: Audit | None, labels: frozenset[str]) -> tuple[tuple[Span, ...], ...] | None:
    """For each text, the auditors' spans of these labels; empty where they gave none at all.

    None: an auditor that knows one of the labels did not say where they are.
    """
    if audit is None:
        return None if labels - DETECTORS else ()
    if labels & audit.unmaskable:
        return None
    return tuple([tuple([s for s in spans if s.label in labels]) for spans in audit.spans])


def scan_all(texts: Iterable[str], labels: frozenset[str]) -> list[Span]:
    """Spans over separate texts; a match never reaches from one into the next."""
    spans: list[Span] = []
    for text in texts:
        spans += scan(text, labels)
    return spans


def claims_of(spans: Iterable[Span]) -> dict[str, ClaimValue]:
    """The built-in claims of what was found."""
    return claims_from(spans)


def content_claims(
    media: AbstractSet[str], *, texts: bool, given: AbstractSet[str]
) -> dict[str, ClaimValue]:
    """The claims about kinds of content, as far as the bundle declares them (`given`).

    Raises:
        BodyError: there is content of a kind that no policy of this bundle can see.
    """
    if not media and _CONTENT_CLAIMS.isdisjoint(given):
        return {}
    unseen = [
        kind
        for kind, claim in MEDIA_CLAIMS.items()
        if kind in media and claim not in given and "content_types" not in given
    ]
    if unseen:
        raise BodyError(
            "content_not_supported",
            f"content of the kind {unseen[0]} is refused: the policy bundle declares neither "
            f"{MEDIA_CLAIMS[unseen[0]]} nor content_types, so no policy can see it",
        )
    claims: dict[str, ClaimValue] = {
        claim: kind in media for kind, claim in MEDIA_CLAIMS.items() if claim in given
    }
    if "content_types" in given:
        claims["content_types"] = tuple(sorted({*media, "text"} if texts else media))
    return claims


def denied(reason: str, *, evaluated: bool = True) -> Verdict:
    """A verdict of the door's own, where no policy was asked."""
    return Verdict(outcome=Outcome.DENY, reasons=(reason,), evaluated=evaluated)


def record_of(
    asked: Asked, findings: Findings, verdict: Verdict, *, model: str, redacted: bool = True
) -> DecisionRecord:
    """The record of a verdict."""
    bundle, shadow = asked.snapshot.bundle, None
    if verdict.shadow is not None and asked.snapshot.shadow is not None:
        shadow = asked.snapshot.shadow.note(
            findings.decision_id, findings.phase.value, verdict, verdict.shadow
        )
    obligations: dict[str, tuple[str, ...]] = {}
    if verdict.redact and redacted:
        obligations["redact"] = tuple(sorted(verdict.redact))
        if verdict.redact_with:
            how = sorted(verdict.redact_with.items())
            obligations["redact_with"] = tuple(f"{label}={method}" for label, method in how)
    if verdict.obliges and findings.phase is Phase.REQUEST:
        obligations |= verdict.obliges.as_record()
    return DecisionRecord(
        decision_id=findings.decision_id,
        request_id=asked.request_id,
        trace_id=asked.trace_id,
        phase=findings.phase.value,
        route=asked.route,
        model=kept_name(model, MAX_MODEL),
        principal=asked.principal,
        action=ACTION,
        resource=("Agent", asked.snapshot.agent_id),
        outcome=verdict.outcome.value,
        reasons=(
            *(f"not_scanned:{kind}" for kind in findings.unscanned),
            *verdict.reasons,
            *verdict.errors,
        )[:MAX_REASONS],
        bundle=(bundle.name, bundle.version, bundle.digest),
        passport=asked.snapshot.passport_id,
        obligations=obligations,
        claims=findings.claims,
        texts=findings.texts,
        coverage=findings.coverage,
        latency_us=findings.latency,
        auditors=findings.auditors,
        shadow=shadow,
        groups=_groups_seen(asked),
        platform=_platform_seen(asked.snapshot) if bundle.reads_platform else None,
    )


def _groups_seen(asked: Asked) -> tuple[str, ...] | None:
    """The groups that could matter; others are nobody's business."""
    known = asked.snapshot.bundle.groups
    if not known or asked.principal[0] != "User":
        return None
    return tuple([group for group in asked.groups if group in known])


def _platform_seen(snapshot: Snapshot) -> tuple[str, bool, str, bool]:
    platform = snapshot.platform
    return (
        platform.tee_type,
        platform.hardware_attested,
        platform.tcb_status,
        platform.simulated,
    )


def kept_name(text: str, limit: int) -> str:
    """A short text of the client's that is kept as a name: nothing in it that a detector finds,
    printable, cut.
    """
    if is_name(text):
        return text[:limit]
    try:
        text = mask(text, DETECTORS)
    except RedactionIncompleteError:
        return "?"
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
