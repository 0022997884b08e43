"""From the texts of one body to a verdict that has been carried out on them.

In this order: what is not text becomes claims (`claim_content`), the texts become claims and the
policy is asked (`decide`), what the verdict marks is masked (`redact`) and what it obliges to is
done (`oblige`), and the record learns how much was looked at (`cover`).
"""

from __future__ import annotations

from typing import Any

from attestation.records import Coverage
from enforcement import policy_view
from enforcement.auditing import Audit
from enforcement.content.redact import RedactionIncompleteError, Redactor, known_labels, mask
from enforcement.content.texts import BodyError, Reading, Text, digests
from enforcement.denial import RATE_LIMITED
from enforcement.outcome import Outcome, Verdict
from enforcement.policy.obligations import ObligationError, cap_tokens
from enforcement.policy_view import Asked, Findings


def claim_content(asked: Asked, findings: Findings, reading: Reading) -> None:
    """Claims about what is not text.

    Raises:
        BodyError: it holds what no policy can see.
    """
    given = asked.snapshot.bundle.gives(findings.phase)
    findings.claims = policy_view.content_claims(
        reading.media, texts=bool(reading.texts), given=given
    )
    if reading.media:
        findings.unscanned = tuple(sorted(reading.media - {"remote"}))


def decide(
    asked: Asked, findings: Findings, texts: list[Text], start: int, audit: Audit | None
) -> Verdict:
    """Look at the texts and ask the policy.

    Args:
        start: when the body was taken up, by the exchange's clock.
        audit: what auditors say of the texts.
    """
    spans = policy_view.scan_all((text.value for text in texts), asked.labels)
    findings.claims |= policy_view.claims_of(spans)
    if audit is not None:
        findings.heed(audit)
    found = asked.clock()
    verdict = asked.decide(findings.phase, findings.claims)
    done = asked.clock()
    findings.latency["detect"] = (found - start) // 1000
    findings.latency["policy"] = (done - found) // 1000
    findings.texts = digests([text.value for text in texts], asked.salt)
    return verdict


def redact(
    asked: Asked, texts: list[Text], verdict: Verdict, audit: Audit | None
) -> tuple[bool, Verdict]:
    """Mask in place what the verdict says; whether a text is another now, and the verdict: a
    denial where not all of it can be masked."""
    labels, edited = known_labels(verdict.redact), False
    how = Redactor.of(verdict, asked.salt)
    marked = policy_view.marked_by(audit, verdict.redact)
    if marked is None:
        return False, policy_view.denied("redaction_incomplete")
    try:
        for index, text in enumerate(texts):
            masked = mask(text.value, labels, marked[index] if marked else (), how)
            if masked != text.value:
                text.replace(masked)
                edited = True
    except (RedactionIncompleteError, BodyError):
        return edited, policy_view.denied("redaction_incomplete")
    return edited, verdict


def oblige(asked: Asked, verdict: Verdict, body: Any) -> tuple[Verdict, float]:
    """Do what the deciding policies oblige to, or deny; and seconds to wait, where that helps.

    Rates come last: a request that is refused anyway uses nothing up.
    """
    obliges = verdict.obliges
    if not obliges or verdict.outcome is Outcome.DENY:
        return verdict, 0.0
    if obliges.max_tokens is not None and body is not None:
        try:
            cap_tokens(asked.route, body, obliges.max_tokens)
        except ObligationError as error:
            return policy_view.denied(error.code), 0.0
    if obliges.rates:
        now = asked.clock() / 1e9
        used_up = asked.snapshot.rates.take(asked.principal, obliges.rates, now)
        if used_up is not None:
            rate, wait = used_up
            return policy_view.denied(f"{RATE_LIMITED}{rate.policy}"), wait
    return verdict, 0.0


def cover(findings: Findings, reading: Reading, verdict: Verdict) -> None:
    """What the record says of how much was looked at, and released."""
    texts = reading.texts
    seen = released = sum([digest.size for digest in findings.texts])
    if verdict.outcome is Outcome.DENY:
        released = 0
    elif verdict.outcome is Outcome.REDACT:
        released = sum([len(text.value.encode()) for text in texts])
    findings.coverage = Coverage(
        seen=seen,
        released=released,
        windows=1 if texts else 0,
        fields=len(texts),
        complete=not findings.unscanned,
    )
