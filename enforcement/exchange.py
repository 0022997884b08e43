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

from attestation.records import Coverage
from enforcement import policy_view
from enforcement.apis.routes import Route, unknown_route
from enforcement.audited_stream import AuditedStream
from enforcement.auditing import Audit, Auditors, Question
from enforcement.content.apierror import Headers, Refusal, error_body, error_type
from enforcement.content.texts import (
    BodyError,
    Reading,
    drop_copies,
    encode_json,
    read_reply,
    read_request,
    write_reply,
)
from enforcement.deciding import claim_content, cover, decide, oblige, redact
from enforcement.denial import policy_refusal
from enforcement.identity.callers import UNKNOWN, Stranger
from enforcement.outcome import Outcome, Phase, Verdict
from enforcement.policy_view import Asked, Findings
from enforcement.ruling import Ruling
from enforcement.snapshot import Snapshot
from enforcement.stream_guard import StreamGuard

UNKNOWN_PRINCIPAL: Final = ("User", "unknown")


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
            claim_content(self._asked, findings, reading)
        except BodyError as error:
            reason = "malformed_request" if error.code.startswith("invalid") else error.code
            return self._refused(findings, reason, error.code, str(error), 400)
        self._read = None
        texts = reading.texts
        verdict = decide(self._asked, findings, texts, start, audit)
        edited = False
        if verdict.outcome is Outcome.REDACT:
            edited, verdict = redact(self._asked, texts, verdict, audit)
        verdict, wait = oblige(self._asked, verdict, value)
        if reading.copies:
            drop_copies(reading, self._asked.labels, edited=True)  # no model needs them
        cover(findings, reading, verdict)
        if verdict.outcome is Outcome.DENY:
            return self._denied(findings, verdict, retry_after=wait)
        if verdict.outcome is Outcome.WARN:
            self._warnings = ((b"lucid-warning", ", ".join(verdict.reasons).encode()),)
        forward = None if value is None else encode_json(value)
        return self._ruling(findings, verdict, forward, redacted=edited)

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
            claim_content(self._asked, findings, reading)
        except BodyError as error:
            return self._refused(findings, "malformed_reply", "upstream_malformed", str(error), 502)
        self._read = None
        texts = reading.texts
        verdict = decide(self._asked, findings, texts, start, audit)
        edited = False
        if verdict.outcome is Outcome.REDACT:
            edited, verdict = redact(self._asked, texts, verdict, audit)
        if reading.copies:
            drop_copies(reading, self._asked.labels, edited=edited)
        cover(findings, reading, verdict)
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
