"""Guards one streamed reply, without I/O: wire bytes of an event stream in, what may leave out.

Modes: `window` holds back some characters of every text, `buffer` holds everything until the end
and then masks by what the policy says to the whole, `observe` lets everything pass as it comes and
only records. Copies of the text (`logprobs`, token ids) never pass in `window` and `buffer`: they
would show what is still held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from attestation.records import Coverage, DecisionRecord
from enforcement import policy_view
from enforcement.apis.routes import Route
from enforcement.auditing import Audit, Question
from enforcement.bodies.reading import BodyError
from enforcement.content import sse
from enforcement.content.apierror import Headers, Refusal, error_events
from enforcement.content.redact import RedactionIncompleteError, Redactor
from enforcement.content.sse import MalformedStreamError, SseDecoder
from enforcement.content.window import WindowOverflowError
from enforcement.denial import describe_denial, policy_refusal
from enforcement.outcome import Verdict
from enforcement.policy_view import Asked, Findings
from enforcement.streams import StreamApi, open_stream
from enforcement.streams.editor import Editor
from enforcement.streams.judge import DeniedError, Judge

MAX_BUFFERED: Final = 4 * 1024 * 1024  # characters of events that `buffer` keeps
MAX_DIGESTS: Final = 64

# What a stream can be that cannot be guarded, and the reason that is recorded.
_UNGUARDABLE: Final = (
    MalformedStreamError,
    BodyError,
    RedactionIncompleteError,
    WindowOverflowError,
    UnicodeError,  # a half of a surrogate pair in a place where nothing expects one
)


class StreamGuard:
    """One stream. After a denial, `finish` or `aborted`, `record` is final.

    Attributes:
        denied: send what `feed` or `finish` returned, then close the upstream.
        headers: for the reply's head.
        refusal: set when the stream was denied before any byte left: it can still be a status.
        question: always None; `AuditedStream`, which may stand before this, has questions.
    """

    question: Question | None = None

    def __init__(
        self, asked: Asked, findings: Findings, *, route: Route, model: str, headers: Headers
    ) -> None:
        self._asked = asked
        self._findings = findings
        self._route = route
        self._model = model
        mode = asked.snapshot.bundle.stream.mode
        self._observe = mode == "observe"
        self._buffered: list[sse.Event] | None = [] if mode == "buffer" else None
        self._buffered_size = 0
        self._decoder = SseDecoder()
        self._judge = Judge(asked, findings, observe=self._observe)
        self._editor = self._edit()
        self._verdict: Verdict | None = None
        self._blind = ""  # in `observe`: why the rest was not read
        self._left = False
        self._released = 0  # bytes of text, by the calls that gave something
        self._record: DecisionRecord | None = None
        self.denied = False
        self.headers = headers
        self.refusal: Refusal | None = None

    def _edit(self) -> Editor:
        rules = self._asked.snapshot.bundle.stream
        return Editor(
            self.reader(),
            self._judge,
            labels=self._asked.labels,
            hold_back=None if rules.mode == "buffer" else rules.hold_back,
            salt=self._asked.salt,
        )

    def reader(self) -> StreamApi:
        """A reader of streams like this one."""
        return open_stream(self._route.stream)

    @property
    def redact(self) -> frozenset[str]:
        """Every label that the policy masks so far, those that only auditors know included."""
        return self._judge.redact

    @property
    def how(self) -> Redactor:
        """How the policy has it masked."""
        return self._judge.how

    @property
    def held(self) -> int:
        """Bytes of memory, about, that what waits for its release takes."""
        return self._buffered_size + self._editor.held

    @property
    def record(self) -> DecisionRecord:
        """Final after `finish`, a denial or `aborted`. RuntimeError before."""
        if self._record is None:
            raise RuntimeError("the stream has not ended")
        return self._record

    def feed(self, data: bytes) -> bytes:
        """Upstream wire bytes, in any chunking, to bytes that may leave now."""
        if self.denied:
            return b""
        if self._observe:
            self._watch(data)
            return data
        try:
            out = b"".join([self._event(event) for event in self._decoder.feed(data)])
        except DeniedError as denial:
            return self._deny(denial.verdict)
        except _UNGUARDABLE as error:
            return self._deny(_unguardable(error))
        if out:
            self._left = True
            if self._buffered is None:
                self._released = self._editor.left
        return out

    def _event(self, event: sse.Event) -> bytes:
        if event.data is None:
            return sse.KEEP_ALIVE
        out = self._editor.event(event)
        if self._buffered is None:
            return out
        self._buffered.append(event)
        self._buffered_size += len(event.data) + 64
        if self._buffered_size > MAX_BUFFERED:
            raise WindowOverflowError
        return b""

    def _watch(self, data: bytes) -> None:
        """Read without holding anything up. What cannot be read is not called looked at."""
        if self._blind:
            return
        try:
            for event in self._decoder.feed(data):
                if event.data is not None:
                    self._editor.event(event)
        except _UNGUARDABLE as error:
            self._blind = _unguardable(error).reasons[0]

    def finish(self) -> bytes:
        """The upstream ended cleanly: the rest that may leave, once `record` is durable."""
        if self.denied:
            return b""
        try:
            if self._decoder.pending and not self._blind:
                raise MalformedStreamError("the stream ends inside an event")
            last = self._editor.finish()
            if self._buffered is not None:
                last = self._replay(self._buffered)
        except DeniedError as denial:
            return self._deny(denial.verdict)
        except _UNGUARDABLE as error:
            if not self._observe:
                return self._deny(_unguardable(error))
            self._blind = self._blind or _unguardable(error).reasons[0]
            last = b""
        self._close(complete=not self._blind)
        return b"" if self._observe else last

    def _replay(self, events: list[sse.Event]) -> bytes:
        """`buffer`: everything is known now, so everything is masked by the same verdict."""
        self._editor = self._edit()
        out = [self._editor.event(event) for event in events]
        return b"".join((*out, self._editor.finish()))

    def aborted(self, reason: str) -> None:
        """Client gone or upstream broken: closes the record as incomplete. Idempotent."""
        if self._record is not None:
            return
        verdict = self._judge.verdict or policy_view.denied(f"aborted:{reason}", evaluated=False)
        self._verdict = _with_reason(verdict, f"aborted:{reason}")
        self._close(complete=False)

    def foresee(self, texts: Iterable[str]) -> None:
        """Look for the detectors' labels in texts that are still to come.

        Where auditors mark texts, the verdict must be there before the texts are.
        """
        self._judge.found(policy_view.scan_all(texts, self._asked.labels))

    def answer(self, audit: Audit) -> bytes:
        """What auditors say of the text so far; counts from now on. Gives what may leave now."""
        if self.denied:
            return b""
        self._judge.heed(audit)
        try:
            self._judge.ask()
        except DeniedError as denial:
            return self._deny(denial.verdict)
        return b""

    def deny(self, reason: str) -> bytes:
        """End the stream for a reason of the door's own; gives the event that says so."""
        return self._deny(policy_view.denied(reason, evaluated=False))

    def _deny(self, verdict: Verdict) -> bytes:
        self.denied = True
        self._verdict = verdict
        decision_id = self._findings.decision_id
        self._close(complete=False)
        style = self._route.style
        if not self._left:
            self.refusal = policy_refusal(style, verdict, decision_id, self.headers)
        status, kind, message = describe_denial(verdict)
        return error_events(
            style,
            stream=self._route.stream or "chat",
            status=status,
            kind=kind,
            code=verdict.reasons[0] if verdict.reasons else "denied",
            message=message,
            decision_id=decision_id,
        )

    def _close(self, *, complete: bool) -> None:
        verdict = self._verdict or self._judge.verdict
        if verdict is None:  # nothing of the stream could be read
            verdict = policy_view.denied("malformed_stream", evaluated=False)
        if self._blind:
            verdict = _with_reason(verdict, f"not_scanned:{self._blind}")
        if self._observe:
            verdict = _with_reason(verdict, "observed_only")
        editor, findings = self._editor, self._findings
        findings.texts = editor.texts(MAX_DIGESTS)
        seen = editor.seen
        findings.coverage = Coverage(
            seen=seen,
            released=seen if self._observe else editor.left if complete else self._released,
            windows=editor.scans,
            fields=editor.fields,
            complete=complete,
        )
        self._record = policy_view.record_of(
            self._asked, findings, verdict, model=self._model, redacted=not self._observe
        )


def _unguardable(error: Exception) -> Verdict:
    if isinstance(error, WindowOverflowError):
        reason = "stream_too_large"
    elif isinstance(error, RedactionIncompleteError):
        reason = "redaction_incomplete"
    elif isinstance(error, BodyError) and not error.code.startswith("invalid"):
        reason = error.code
    else:
        reason = "malformed_stream"
    return policy_view.denied(reason, evaluated=False)


def _with_reason(verdict: Verdict, reason: str) -> Verdict:
    return msgspec.structs.replace(verdict, reasons=(*verdict.reasons, reason))
