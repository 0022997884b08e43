"""AuthZEN 1.0 (OpenID): a decision for whoever enforces it elsewhere, without a request to pass on.

The request's subject, action and resource become principal, action and resource by the bundle's
`[authzen]` tables (`subjects`, `actions`, `resources`; `"*"` is for every other name); the names of
this agent's own types need no entry. Nothing of the request enters Cedar's context but claims that
the bundle declares with `source = "authzen:<path>"`, as the types it declares them with:

    [claims.owner]
    type = "string"
    source = "authzen:resource.properties.ownerID"

`context.input` and `context.output` are texts: where they are given, the detectors and auditors
look at them as at a request, or a reply. Without them nothing was looked at, and the claims of
detectors are missing, not harmless.

A permission may oblige (to mask, to bound tokens). Only a caller that says in `context.supports`
that it does so gets it (`["redact", "max_tokens"]`); for others it is a denial. Rates and required
hardware are judged here. Every decision is recorded, and durable before it is answered.

Source: Authorization API 1.0, sections 5 (information model), 6 (evaluation), 7 (evaluations).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from attestation.records import Coverage, DecisionRecord
from enforcement import policy_view
from enforcement.auditing import Audit, Question
from enforcement.authzen_request import (
    AuthzenError,
    Json,
    Names,
    check,
    claims_of,
    decode,
    texts_of,
)
from enforcement.content.texts import digests
from enforcement.denial import RATE_LIMITED
from enforcement.outcome import Outcome, Phase, PolicyRequest, Verdict
from enforcement.policy.bundle import Bundle
from enforcement.policy.vocabulary import ClaimError
from enforcement.policy_view import Asked, Findings
from enforcement.recorder import Recorder
from enforcement.snapshot import Snapshot

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
CONFIGURATION: Final = "/.well-known/authzen-configuration"
MAX_EVALUATIONS: Final = 100  # in one request
ROUTE: Final = "authzen"


class Pdp:
    """Answers evaluations.

    Args:
        snapshot: engine and bundle of the moment; one for all evaluations of a request.
        recorder: the journal.
        clock: monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        recorder: Recorder,
        clock: Callable[[], int],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._snapshot = snapshot
        self._recorder = recorder
        self._clock = clock
        self._random = random
        self._salt = random(32)

    async def evaluation(self, body: bytes) -> Json:
        """One evaluation: the answer of `POST /access/v1/evaluation`.

        Raises:
            AuthzenError: the request is malformed.
            RecordError: the decision cannot be recorded; nothing may be answered.
        """
        asked = decode(body)
        return await self._one(self._snapshot(), asked.members())

    async def evaluations(self, body: bytes) -> Json:
        """Several: the answer of `POST /access/v1/evaluations`. Members above the list are defaults
        for its items. Without a list it is one evaluation.

        Raises:
            AuthzenError, RecordError: see `evaluation`.
        """
        asked = decode(body)
        if not asked.evaluations:
            return await self.evaluation(body)
        if len(asked.evaluations) > MAX_EVALUATIONS:
            raise AuthzenError(f"more than {MAX_EVALUATIONS} evaluations")
        snapshot = self._snapshot()
        defaults = asked.members()
        items = [{**defaults, **item} for item in asked.evaluations]
        for item in items:
            check(item)
        semantic = asked.options.evaluations_semantic
        answers: list[Json] = []
        for item in items:
            answer = await self._one(snapshot, item)
            answers.append(answer)
            if semantic == "deny_on_first_deny" and not answer["decision"]:
                break
            if semantic == "permit_on_first_permit" and answer["decision"]:
                break
        return {"evaluations": answers}

    async def _one(self, snapshot: Snapshot, given: Json) -> Json:
        check(given)
        bundle = snapshot.bundle
        if not isinstance(bundle, Bundle):
            raise TypeError("AuthZEN needs the bundle itself")
        context = given.get("context", {})
        names = Names(bundle, given)
        fresh = self._random(28).hex()
        asked = Asked(
            snapshot=snapshot,
            route=ROUTE,
            principal=names.principal,
            groups=(),
            trace_id=fresh[:32],
            request_id=f"req-{fresh[32:]}",
            salt=self._salt,
            clock=self._clock,
            random=self._random,
        )
        texts = texts_of(context)
        phase = Phase.RESPONSE if "output" in texts else Phase.REQUEST
        findings = Findings(phase=phase, decision_id=asked.new_decision_id())
        verdict = names.problem or await self._decide(asked, names, findings, texts, given)
        supported = context.get("supports")
        verdict = _for(verdict, supported if isinstance(supported, list) else [])
        record = msgspec.structs.replace(
            policy_view.record_of(asked, findings, verdict, model="", redacted=True),
            action=names.action,
            resource=names.resource,
        )
        await self._recorder.durable(self._recorder.append(record))
        return _answer(verdict, record)

    async def _decide(
        self,
        asked: Asked,
        names: Names,
        findings: Findings,
        texts: Mapping[str, str],
        given: Json,
    ) -> Verdict:
        snapshot, phase = asked.snapshot, findings.phase
        start = self._clock()
        try:
            findings.claims = claims_of(names.bundle, phase, given)
        except ClaimError as error:
            return policy_view.denied(str(error), evaluated=False)
        text = texts.get("output" if phase is Phase.RESPONSE else "input")
        if text is not None:
            spans = policy_view.scan_all([text], asked.labels)
            findings.claims |= policy_view.claims_of(spans)
            findings.texts = digests([text], asked.salt)
            size = len(text.encode(errors="replace"))
            findings.coverage = Coverage(seen=size, windows=1, fields=1)
            audit = await _audit(asked, phase, texts)
            if audit is not None:
                findings.heed(audit)
        found = self._clock()
        request = PolicyRequest(
            principal=names.principal,
            action=names.action,
            resource=names.resource,
            phase=phase,
            claims=findings.claims,
            trace_id=asked.trace_id,
            platform=snapshot.platform,
        )
        verdict = policy_view.decided(snapshot, request)
        findings.latency["detect"] = (found - start) // 1000
        findings.latency["policy"] = (self._clock() - found) // 1000
        if verdict.outcome is not Outcome.DENY and verdict.obliges.rates:
            used_up = snapshot.rates.take(
                names.principal, verdict.obliges.rates, self._clock() / 1e9
            )
            if used_up is not None:
                return policy_view.denied(f"{RATE_LIMITED}{used_up[0].policy}")
        return verdict


async def _audit(asked: Asked, phase: Phase, texts: Mapping[str, str]) -> Audit | None:
    auditors = asked.snapshot.auditors
    if auditors is None or not auditors.gives(phase):
        return None
    output = (texts["output"],) if phase is Phase.RESPONSE else None
    return await auditors.ask(
        Question(
            auditors=auditors,
            phase=phase,
            input=(texts["input"],) if "input" in texts else (),
            output=output,
            model="",
            principal=asked.principal,
            agent_id=asked.snapshot.agent_id,
            trace_id=asked.trace_id,
            request_id=asked.request_id,
        )
    )


def _for(verdict: Verdict, supported: Sequence[object]) -> Verdict:
    """A permission that obliges to what the caller does not do is a denial."""
    if verdict.outcome is Outcome.DENY:
        return verdict
    obliged = []
    if verdict.outcome is Outcome.REDACT:
        obliged.append("redact")
    if verdict.obliges.max_tokens is not None:
        obliged.append("max_tokens")
    for name in obliged:
        if name not in supported:
            return policy_view.denied(f"obligation_unsupported:{name}")
    return verdict


def _answer(verdict: Verdict, record: DecisionRecord) -> Json:
    context: Json = {
        "id": record.decision_id,
        "outcome": verdict.outcome.value,
        "reasons": list(verdict.reasons),
        "bundle": record.bundle[2].hex(),
    }
    if record.obligations:
        context["obligations"] = {
            name: list(values)
            for name, values in record.obligations.items()
            if name not in ("rate", "require_hardware")
        }
    return {"decision": verdict.outcome is not Outcome.DENY, "context": context}


def configuration(base: str) -> Json:
    """The document at `/.well-known/authzen-configuration` (section 9)."""
    return {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION,
        "access_evaluations_endpoint": base + EVALUATIONS,
    }
