"""The way of one request and its reply, without I/O: bytes in, rulings out.

A door drives it: `request` with the client's body, then either `response` with the whole reply or
`stream` for an event stream. Every ruling brings its record; the door appends it before anything
else happens, and waits until it is durable before a refusal or a reply leaves. What goes on is
always encoded again from what was decided on, so no second parser can read something else.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from attestation.records import Coverage, DecisionRecord
from enforcement import policy_view
from enforcement.apierror import Headers, Refusal, error_body, error_type
from enforcement.audited_stream import AuditedStream
from enforcement.auditing import Audit, Auditors, Question
from enforcement.denial import RATE_LIMITED, policy_refusal
from enforcement.identity import UNKNOWN, Stranger
from enforcement.obligations import ObligationError, cap_tokens
from enforcement.outcome import Outcome, Phase, Verdict
from enforcement.policy_view import Asked, Findings
from enforcement.redact import RedactionIncompleteError, Redactor, known_labels, mask
from enforcement.routes import Route, unknown_route
from enforcement.snapshot import Snapshot
from enforcement.stream_guard import StreamGuard
from enforcement.texts import (
    BodyError,
    Reading,
    Text,
    digests,
    drop_copies,
    encode_json,
    read_reply,
    read_request,
    write_reply,
)

__all__ = ["Exchange", "Ruling", "StreamGuard", "refuse_unknown_route"]

UNKNOWN_PRINCIPAL: Final = ("User", "unknown")


class Ruling(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the door must do, and the record of why.

    Attributes:
        record: append it; where `refusal` is set it must be durable before the refusal is sent.
        forward_body: the body that goes on (upstream in the request phase, to the client in the
            response phase); None where there is none (GET) or where `refusal` is set.
        refusal: what the client gets instead, or None.
        headers: to add to the reply to the client. A response ruling repeats those of the
            request's, so the last ruling's headers are all of them. A refusal has them already.
    """

    verdict: Verdict
    record: DecisionRecord
    forward_body: bytes | None
    refusal: Refusal | None
    headers: Headers


class Exchange:
    """One request and its reply. One snapshot for its whole life. Sans-I/O, synchronous.

    Args:
        principal: who asks; None: nobody known, the request is refused (401).
        stranger: why nobody is known.
        groups: of the principal, by its credential.
        salt: of text digests; 32 random bytes of this boot.
        clock: monotonic nanoseconds, for latencies.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        route: Route,
        principal: tuple[str, str] | None,
        groups: tuple[str, ...] = (),
        stranger: Stranger = UNKNOWN,
        trace_id: str,
        request_id: str,
        salt: bytes,
        clock: Callable[[], int],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._route = route
        self._known = principal is not None
        self._stranger = stranger
        self._asked = Asked(
            snapshot=snapshot,
            route=route.name,
            principal=principal or UNKNOWN_PRINCIPAL,
            groups=groups,
            trace_id=trace_id,
            request_id=request_id,
            salt=salt,
            clock=clock,
            random=random,
        )
        self._model = ""
        self._warnings: Headers = ()
        self._input: tuple[str, ...] = ()  # kept only for auditors
        self._read: tuple[Any, Reading] | None = None  # by a look, for the decision after it

    @property
    def auditors(self) -> Auditors | None:
        """Who is to be asked before a decision (`enforcement.auditing`); None: nobody."""
        return self._asked.snapshot.auditors

    # -- the request ------------------------------------------------------------------------------

    def look_at_request(self, body: bytes) -> Question | None:
        """What auditors must be asked before `request`; None: nothing."""
        auditors = self.auditors
        if auditors is None or self._route.refused is not None or not self._known:
            return None
        try:
            self._read = self._read_request(body)
        except BodyError:
            return None  # `request` refuses it, and says why
        self._input = tuple([text.value for text in self._read[1].texts])
        if not auditors.gives(Phase.REQUEST):
            return None
        return self._question(auditors, Phase.REQUEST, None)

    def request(self, body: bytes, audit: Audit | None = None) -> Ruling:
        """Decide the request. Refuses what cannot be understood.

        Args:
            audit: what auditors say of it, where `look_at_request` asked for that.
        """
        if self._route.refused is not None:
            return self.refuse(*_route_refusal(self._route))
        if not self._known:
            who, findings = self._stranger, self._findings(Phase.REQUEST)
            return self._refused(findings, who.reason, who.code, who.message, 401)
        findings = self._findings(Phase.REQUEST)
        start = self._asked.clock()
        try:
            value, reading = self._read or self._read_request(body)
            self._claim_content(findings, reading)
        except BodyError as error:
            reason = "malformed_request" if error.code.startswith("invalid") else error.code
            return self._refused(findings, reason, error.code, str(error), 400)
        self._read = None
        texts = reading.texts
        verdict = self._decide(findings, texts, start, audit)
        edited = False
        if verdict.outcome is Outcome.REDACT:
            edited, verdict = self._redact(texts, verdict, audit)
        verdict, wait = self._oblige(verdict, value)
        if reading.copies:
            drop_copies(reading, self._asked.labels, edited=True)  # no model needs them
        self._cover(findings, reading, verdict)
        if verdict.outcome is Outcome.DENY:
            return self._denied(findings, verdict, retry_after=wait)
        if verdict.outcome is Outcome.WARN:
            self._warnings = ((b"lucid-warning", ", ".join(verdict.reasons).encode()),)
        forward = None if value is None else encode_json(value)
        return self._ruling(findings, verdict, forward, redacted=edited)

    def _oblige(self, verdict: Verdict, body: Any) -> tuple[Verdict, float]:
        """Do what the deciding policies oblige to, or deny; and seconds to wait, where that helps.

        Rates come last: a request that is refused anyway uses nothing up.
        """
        obliges = verdict.obliges
        if not obliges or verdict.outcome is Outcome.DENY:
            return verdict, 0.0
        asked = self._asked
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

    def refuse(self, code: str, message: str, status: int) -> Ruling:
        """Refuse the request for a reason of the door's own (oversized, closed, …)."""
        return self._refused(self._findings(Phase.REQUEST), code, code, message, status)

    def _read_request(self, body: bytes) -> tuple[Any, Reading]:
        value, reading = read_request(self._route, body)
        self._model = "" if value is None else value.get("model", "")
        return value, reading

    # -- the reply --------------------------------------------------------------------------------

    def look_at_response(self, *, status: int, content_type: str, body: bytes) -> Question | None:
        """What auditors must be asked before `response`; None: nothing."""
        auditors = self.auditors
        if auditors is None or not auditors.gives(Phase.RESPONSE):
            return None
        try:
            self._read = read_reply(
                self._route, status=status, content_type=content_type, body=body
            )
        except BodyError:
            return None  # `response` refuses it, and says why
        output = tuple([text.value for text in self._read[1].texts])
        return self._question(auditors, Phase.RESPONSE, output)

    def response(
        self, *, status: int, content_type: str, body: bytes, audit: Audit | None = None
    ) -> Ruling:
        """Decide a whole reply, an error reply included.

        Args:
            audit: what auditors say of it, where `look_at_response` asked for that.
        """
        findings = self._findings(Phase.RESPONSE)
        start = self._asked.clock()
        try:
            value, reading = self._read or read_reply(
                self._route, status=status, content_type=content_type, body=body
            )
            self._claim_content(findings, reading)
        except BodyError as error:
            return self._refused(findings, "malformed_reply", "upstream_malformed", str(error), 502)
        self._read = None
        texts = reading.texts
        verdict = self._decide(findings, texts, start, audit)
        edited = False
        if verdict.outcome is Outcome.REDACT:
            edited, verdict = self._redact(texts, verdict, audit)
        if reading.copies:
            drop_copies(reading, self._asked.labels, edited=edited)
        self._cover(findings, reading, verdict)
        if verdict.outcome is Outcome.DENY:
            return self._denied(findings, verdict)
        if verdict.outcome is Outcome.WARN:
            warning = (b"lucid-warning", ", ".join(verdict.reasons).encode())
            self._warnings = (*self._warnings, warning)
        forward = write_reply(content_type, value[0]) if value else b""
        return self._ruling(findings, verdict, forward, redacted=edited)

    def stream(self, *, status: int) -> StreamGuard | AuditedStream:
        """A guard for a reply of content type `text/event-stream`."""
        del status
        findings = self._findings(Phase.RESPONSE)
        guard = StreamGuard(
            self._asked,
            findings,
            route=self._route,
            model=self._model,
            headers=self._headers(findings.decision_id),
        )
        auditors = self.auditors
        if auditors is None or not auditors.gives(Phase.RESPONSE):
            return guard
        rules = self._asked.snapshot.bundle.stream
        return AuditedStream(
            guard,
            functools.partial(self._question_of_stream, auditors),
            observe=rules.mode == "observe",
            every=rules.hold_back if rules.mode == "window" else None,
            hold_back=rules.hold_back if auditors.labels else 0,
        )

    def _question_of_stream(
        self, auditors: Auditors, output: tuple[str, ...], *, final: bool
    ) -> Question:
        return self._question(auditors, Phase.RESPONSE, output, final=final)

    def upstream_failed(self, code: str, message: str, *, status: int) -> Ruling:
        """The model server gave no usable reply (502, 504): recorded as a denied response."""
        findings = self._findings(Phase.RESPONSE)
        findings.coverage = Coverage(complete=False)
        return self._refused(findings, f"upstream:{code}", code, message, status)

    # -- shared -----------------------------------------------------------------------------------

    def _findings(self, phase: Phase) -> Findings:
        return Findings(phase=phase, decision_id=self._asked.new_decision_id())

    def _claim_content(self, findings: Findings, reading: Reading) -> None:
        """Claims about what is not text; refuses what no policy can see."""
        given = self._asked.snapshot.bundle.gives(findings.phase)
        findings.claims = policy_view.content_claims(
            reading.media, texts=bool(reading.texts), given=given
        )
        if reading.media:
            findings.unscanned = tuple(sorted(reading.media - {"remote"}))

    def _question(
        self,
        auditors: Auditors,
        phase: Phase,
        output: tuple[str, ...] | None,
        *,
        final: bool = True,
    ) -> Question:
        asked = self._asked
        return Question(
            auditors=auditors,
            phase=phase,
            input=self._input,
            output=output,
            model=self._model,
            principal=asked.principal,
            agent_id=asked.snapshot.agent_id,
            trace_id=asked.trace_id,
            request_id=asked.request_id,
            final=final,
        )

    def _decide(
        self, findings: Findings, texts: list[Text], start: int, audit: Audit | None
    ) -> Verdict:
        asked = self._asked
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

    def _redact(
        self, texts: list[Text], verdict: Verdict, audit: Audit | None
    ) -> tuple[bool, Verdict]:
        labels, edited = known_labels(verdict.redact), False
        how = Redactor.of(verdict, self._asked.salt)
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

    def _cover(self, findings: Findings, reading: Reading, verdict: Verdict) -> None:
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

    def _headers(self, decision_id: str) -> Headers:
        passport = self._asked.snapshot.passport_id.encode()
        return (
            (b"lucid-decision-id", decision_id.encode()),
            (b"lucid-passport-id", passport),
            *self._warnings,
        )

    def _ruling(
        self, findings: Findings, verdict: Verdict, forward: bytes | None, *, redacted: bool
    ) -> Ruling:
        record = policy_view.record_of(
            self._asked, findings, verdict, model=self._model, redacted=redacted
        )
        headers = self._headers(findings.decision_id)
        return Ruling(
            verdict=verdict, record=record, forward_body=forward, refusal=None, headers=headers
        )

    def _denied(self, findings: Findings, verdict: Verdict, *, retry_after: float = 0.0) -> Ruling:
        refusal = policy_refusal(
            self._route.style,
            verdict,
            findings.decision_id,
            self._headers(findings.decision_id),
            retry_after=retry_after,
        )
        return self._with_refusal(findings, verdict, refusal)

    def _refused(
        self, findings: Findings, reason: str, code: str, message: str, status: int
    ) -> Ruling:
        body = error_body(
            self._route.style,
            status=status,
            kind=error_type(status),
            code=code,
            message=message,
            decision_id=findings.decision_id,
        )
        headers = (
            (b"content-type", b"application/json"),
            *self._headers(findings.decision_id),
        )
        refusal = Refusal(status=status, body=body, headers=headers)
        verdict = policy_view.denied(reason, evaluated=False)
        return self._with_refusal(findings, verdict, refusal)

    def _with_refusal(self, findings: Findings, verdict: Verdict, refusal: Refusal) -> Ruling:
        record = policy_view.record_of(self._asked, findings, verdict, model=self._model)
        return Ruling(
            verdict=verdict,
            record=record,
            forward_body=None,
            refusal=refusal,
            headers=self._headers(findings.decision_id),
        )


def _route_refusal(route: Route) -> tuple[str, str, int]:
    code = route.refused or "route_refused"
    message, status = {
        "query_not_supported": ("a query string is not supported on this route", 400),
        "unknown_route": ("this route is unknown, so it is refused", 404),
    }.get(code, ("this route is refused", 403))
    return code, message, status


def refuse_unknown_route(
    *,
    snapshot: Snapshot,
    target: str,
    principal: tuple[str, str] | None,
    trace_id: str,
    request_id: str,
    clock: Callable[[], int],
) -> Ruling:
    """The 404 for a request that no route knows, with its record."""
    exchange = Exchange(
        snapshot=snapshot,
        route=unknown_route(target),
        principal=principal,
        trace_id=trace_id,
        request_id=request_id,
        salt=b"",
        clock=clock,
    )
    return exchange.request(b"")
