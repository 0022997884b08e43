"""The policy's side of a stream: what was found so far, and what the policy says to it."""

from __future__ import annotations

from collections.abc import Iterable

from attestation.records import ClaimValue
from enforcement import policy_view
from enforcement.auditing import Audit
from enforcement.content.redact import PLAIN, Redactor, known_labels
from enforcement.detectors import DETECTORS, Span
from enforcement.outcome import Outcome, Verdict, strictest
from enforcement.policy_view import Asked, Findings


class DeniedError(Exception):
    """The policy denies the rest of the stream."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("denied")
        self.verdict = verdict


class Judge:
    """Asks the policy where something new is known, and never for each token.

    Attributes:
        verdict: the strictest so far; None before the first question.
        redact: every label that a verdict so far wanted masked, those that only auditors know
            included.
        how: they are redacted, by the strictest of the verdicts so far.
    """

    def __init__(self, asked: Asked, findings: Findings, *, observe: bool) -> None:
        self._asked = asked
        self._findings = findings
        self._observe = observe
        self._base: dict[str, ClaimValue] = dict(findings.claims)
        self._labels: set[str] = set()
        self._asked_with = -1
        self._audit: Audit | None = None
        self.verdict: Verdict | None = None
        self.redact: frozenset[str] = frozenset()
        self.how = PLAIN

    @property
    def masks(self) -> frozenset[str]:
        """The labels to mask that detectors find."""
        return known_labels(self.redact)

    def found(self, spans: Iterable[Span]) -> None:
        """Take note of what a detector found."""
        for span in spans:
            self._labels.update((span.label, *span.also))

    def heed(self, audit: Audit) -> None:
        """What auditors say of the text so far; counts from now on."""
        self._audit = audit
        self._findings.heed(audit)
        self._asked_with = -1

    def ask(self) -> None:
        """Ask the policy if something new is known; at least once before anything leaves.

        Raises:
            DeniedError: it denies (except in `observe` mode).
        """
        if len(self._labels) == self._asked_with:
            return
        self._asked_with = len(self._labels)
        asked, findings = self._asked, self._findings
        start = asked.clock()
        found = policy_view.claims_of([Span(0, 0, label) for label in sorted(self._labels)])
        claims = self._base | found
        findings.claims = claims if self._audit is None else self._audit.add_to(claims)
        verdict = asked.decide(findings.phase, findings.claims)
        spent = (asked.clock() - start) // 1000
        findings.latency["policy"] = findings.latency.get("policy", 0) + spent
        before = self.verdict
        if before is None or verdict.outcome.strictness >= before.outcome.strictness:
            self.verdict = verdict
        if verdict.redact:
            if verdict.redact_with or self.how is not PLAIN:
                demands = ((self.redact, self.how.methods), (verdict.redact, verdict.redact_with))
                self.how = Redactor(key=asked.salt, methods=strictest(demands))
            self.redact |= verdict.redact
        if self._audit is None and verdict.redact - DETECTORS and not self._observe:
            # Only an auditor knows what is to be masked, and none was asked.
            raise DeniedError(policy_view.denied("redaction_incomplete"))
        if verdict.outcome is Outcome.DENY and not self._observe:
            raise DeniedError(verdict)
