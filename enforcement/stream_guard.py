"""Guards one streamed reply, without I/O: wire bytes of an event stream in, what may leave out.

Every text of every choice has a window of its own. An event is edited, never reordered: text that
is held back leaves with a later event; an event that has nothing else to say waits with its text.
When a choice ends, the rest of its text and its last event wait for `finish`, so that the last
bytes of a reply leave only after the decision is on record.

Modes: `window` holds back some characters, `buffer` holds everything until the end, `observe` lets
everything pass as it comes and only records. Per-token copies of the text (`logprobs`, token ids)
never pass in `window` and `buffer`: they would show what is still held.
"""

from __future__ import annotations

import copy
import re
from typing import Any, Final

import msgspec

from attestation.records import Coverage, DecisionRecord
from enforcement import policy_view, sse
from enforcement.apierror import Headers, Refusal, error_events
from enforcement.auditing import Audit, Question
from enforcement.denial import describe_denial, policy_refusal
from enforcement.detectors import Span
from enforcement.outcome import Outcome, Verdict
from enforcement.policy_view import Asked, Findings
from enforcement.redact import known_labels
from enforcement.routes import Style
from enforcement.sse import MalformedStreamError, SseDecoder
from enforcement.texts import TOKEN_COPIES, BodyError, collect, parse_json
from enforcement.window import Window, WindowOverflowError

MAX_WINDOWS: Final = 256  # texts of one stream: choices times fields
DONE: Final = "[DONE]"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{0,128}")

Channel = tuple[int, str]  # choice index, place of the text in its delta


class StreamGuard:
    """One stream. After a denial, `finish` or `aborted`, `record` is final.

    Attributes:
        denied: send what `feed` or `finish` returned, then close the upstream.
        headers: for the reply's head.
        refusal: set when the stream was denied before any byte left: it can still be a status.
        redact: every label that the policy masks so far, those that only auditors know included.
        question: always None; `AuditedStream`, which may stand before this, has questions.
    """

    question: Question | None = None

    def __init__(
        self, asked: Asked, findings: Findings, *, style: Style, model: str, headers: Headers
    ) -> None:
        rules = asked.snapshot.bundle.stream
        self._asked = asked
        self._findings = findings
        self._style: Style = style
        self._model = model
        self._observe = rules.mode == "observe"
        self._hold_back = None if rules.mode == "buffer" else rules.hold_back
        self._labels = asked.labels
        self._decoder = SseDecoder()
        self._windows: dict[Channel, Window] = {}
        self._ended: set[int] = set()
        self._ending: set[int] = set()
        self._last: dict[str, Any] = {}
        self._tail = b""
        self._seen_labels: set[str] = set()
        self._verdict: Verdict | None = None
        self._asked_with: frozenset[str] | None = None
        self._evaluations = 0
        self._audit: Audit | None = None
        self.redact: frozenset[str] = frozenset()
        self._edited = False
        self._done = False
        self._left = False
        self._other_seen = 0
        self._record: DecisionRecord | None = None
        self.denied = False
        self.headers = headers
        self.refusal: Refusal | None = None

    @property
    def record(self) -> DecisionRecord:
        """Final after `finish`, a denial or `aborted`. RuntimeError before."""
        if self._record is None:
            raise RuntimeError("the stream has not ended")
        return self._record

    # -- the door's calls -------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Upstream wire bytes, in any chunking, to bytes that may leave now."""
        if self.denied:
            return b""
        try:
            events = self._decoder.feed(data)
            out = b"".join([self._event(event) for event in events])
        except _DeniedError as denial:
            return self._deny(denial.verdict)
        except (MalformedStreamError, WindowOverflowError, BodyError):
            if self._observe:
                self._done = True
                return data
            return self._deny(policy_view.denied("malformed_stream", evaluated=False))
        if self._observe:
            return data
        self._left = self._left or bool(out)
        return out

    def finish(self) -> bytes:
        """The upstream ended cleanly: the rest that may leave, once `record` is durable."""
        if self.denied:
            return b""
        try:
            if not self._observe:
                self._require_whole()
                self._flush_all()
            self._judge()
        except _DeniedError as denial:
            return self._deny(denial.verdict)
        except (MalformedStreamError, WindowOverflowError, BodyError):
            return self._deny(policy_view.denied("malformed_stream", evaluated=False))
        self._close(complete=True)
        return b"" if self._observe else self._tail

    def aborted(self, reason: str) -> None:
        """Client gone or upstream broken: closes the record as incomplete. Idempotent."""
        if self._record is not None:
            return
        verdict = self._verdict or policy_view.denied(f"aborted:{reason}", evaluated=False)
        self._verdict = _with_reason(verdict, f"aborted:{reason}")
        self._close(complete=False)

    def answer(self, audit: Audit) -> bytes:
        """What auditors say of the text so far; counts from now on. Gives what may leave now."""
        if self.denied:
            return b""
        self._audit = audit
        self._findings.heed(audit)
        self._asked_with = None
        try:
            self._judge()
        except _DeniedError as denial:
            return self._deny(denial.verdict)
        return b""

    def deny(self, reason: str) -> bytes:
        """End the stream for a reason of the door's own; gives the event that says so."""
        return self._deny(policy_view.denied(reason, evaluated=False))

    # -- events -----------------------------------------------------------------------------------

    def _event(self, event: sse.Event) -> bytes:
        if event.data is None:
            return sse.KEEP_ALIVE
        if self._done:
            raise MalformedStreamError("an event after the end")
        if event.data == DONE:
            self._done = True
            self._flush_all()
            self._tail += b"data: [DONE]\n\n"
            return b""
        value = parse_json(event.data.encode())
        if not isinstance(value, dict) or event.name:
            raise MalformedStreamError("an event that this API does not have")
        choices = value.get("choices")
        if choices is None or (isinstance(choices, list) and not choices):
            return self._other(value)
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise MalformedStreamError("choices is not a list of objects")
        return self._chunk(value, choices)

    def _other(self, value: dict[str, Any]) -> bytes:
        """An event without choices: usage, or the upstream's own error. Read as a whole."""
        texts = collect(value, skip=TOKEN_COPIES)
        for text in texts:
            self._other_seen += len(text.value.encode())
            window = Window(labels=self._labels, hold_back=None, salt=b"")
            window.add(text.value)
            self._found(window.spans())
            self._judge()
            released = window.release(known_labels(self.redact), everything=True)
            if released != text.value:
                self._edited = True
                text.replace(released)
        if not self._observe:
            for key in TOKEN_COPIES & set(value):
                del value[key]
        return self._emit(value)

    def _chunk(self, value: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
        speaks = False
        self._last = value
        # The text of a choice's last event leaves with the rest of its window, in order.
        self._ending = {c.get("index", 0) for c in choices if c.get("finish_reason") is not None}
        for choice in choices:
            index = choice.get("index", 0)
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1024:
                raise MalformedStreamError("a choice without a place")
            if index in self._ended and self._has_text(choice):
                raise MalformedStreamError("text after the end of its choice")
            for key in TOKEN_COPIES & set(choice):
                choice[key] = None
            speaks |= self._choice(index, choice)
        for key in TOKEN_COPIES & set(value):
            value[key] = None
        if not self._ending:
            return self._emit(value) if speaks else b""
        for index in sorted(self._ending):
            self._flush(index, value)
        self._tail += sse.encode(msgspec.json.encode(value))
        return b""

    @staticmethod
    def _has_text(choice: dict[str, Any]) -> bool:
        return bool(choice.get("text")) or bool(choice.get("delta"))

    def _choice(self, index: int, choice: dict[str, Any]) -> bool:
        """Pass one choice's texts through their windows, in place; True if it says something."""
        speaks = False
        for key, item in choice.items():
            if key == "text" and isinstance(item, str):
                choice[key] = self._pass(index, key, item)
                speaks |= bool(choice[key])
            elif key == "delta" and isinstance(item, dict):
                speaks |= self._delta(index, item)
            elif key in ("finish_reason", "stop_reason"):
                _require_name(item)
            elif isinstance(item, (str, dict, list)) and key != "index":
                raise MalformedStreamError("a choice with a part that is not known")
        return speaks

    def _delta(self, index: int, delta: dict[str, Any]) -> bool:
        speaks = False
        for key in list(delta):
            item = delta[key]
            if key == "role":
                _require_name(item)
                speaks = True
            elif isinstance(item, str):
                delta[key] = self._pass(index, key, item)
                speaks |= bool(delta[key])
            elif key in TOKEN_COPIES:
                delta[key] = None
            elif key == "tool_calls" and isinstance(item, list):
                speaks |= self._tool_calls(index, item)
            elif key == "function_call" and isinstance(item, dict):
                speaks |= self._function(index, key, item)
            elif isinstance(item, (dict, list)) and item:
                raise MalformedStreamError("a delta with a part that is not known")
        return speaks

    def _tool_calls(self, index: int, calls: list[Any]) -> bool:
        speaks = False
        for call in calls:
            if not isinstance(call, dict):
                raise MalformedStreamError("a tool call that is no object")
            place = call.get("index", 0)
            if not isinstance(place, int) or not 0 <= place < 1024:
                raise MalformedStreamError("a tool call without a place")
            for key, item in call.items():
                if key in ("id", "type"):
                    _require_name(item)
                    speaks |= item is not None
                elif key == "function" and isinstance(item, dict):
                    speaks |= self._function(index, f"tool_calls.{place}", item)
                elif isinstance(item, (str, dict, list)) and item:
                    raise MalformedStreamError("a tool call with a part that is not known")
        return speaks

    def _function(self, index: int, place: str, function: dict[str, Any]) -> bool:
        speaks = False
        for key, item in function.items():
            if key == "name":
                _require_name(item)
                speaks |= bool(item)
            elif isinstance(item, str):
                function[key] = self._pass(index, f"{place}.{key}", item)
                speaks |= bool(function[key])
            elif item is not None:
                raise MalformedStreamError("a function call with a part that is not known")
        return speaks

    # -- texts ------------------------------------------------------------------------------------

    def _pass(self, index: int, place: str, text: str) -> str:
        """Text into its window; gives what may leave of it now."""
        window = self._windows.get((index, place))
        if window is None:
            if len(self._windows) >= MAX_WINDOWS:
                raise MalformedStreamError("too many texts in one stream")
            window = Window(labels=self._labels, hold_back=self._hold_back, salt=self._asked.salt)
            self._windows[index, place] = window
        window.add(text)
        if self._observe:
            self._found(window.spans())
            window.release(frozenset())
            return text
        if index in self._ending or not window.full:
            return ""
        return self._release(window, everything=False)

    def _release(self, window: Window, *, everything: bool) -> str:
        self._found(window.spans())
        self._judge()
        before = window.held
        text = window.release(known_labels(self.redact), everything=everything)
        self._edited = self._edited or text != before[: len(before) - len(window.held)]
        return text

    def _flush(self, index: int, like: dict[str, Any]) -> None:
        """The rest of a choice's texts, as an event of their own, into the tail."""
        self._ended.add(index)
        delta: dict[str, Any] = {}
        text_of_completion: str | None = None
        for (choice, place), window in self._windows.items():
            if choice != index:
                continue
            text = self._release(window, everything=True)
            if not text:
                continue
            if place == "text":
                text_of_completion = text
            else:
                _put(delta, place, text)
        if not delta and text_of_completion is None:
            return
        event = {key: copy.copy(v) for key, v in like.items() if key not in ("choices", "usage")}
        part: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
        if text_of_completion is not None:
            part["text"] = text_of_completion
        if delta:
            part["delta"] = delta
        event["choices"] = [part]
        self._tail += sse.encode(msgspec.json.encode(event))

    def _flush_all(self) -> None:
        """Choices that have not ended, at the end of the stream."""
        for index in sorted({index for index, _ in self._windows} - self._ended):
            self._flush(index, self._last)

    def _require_whole(self) -> None:
        if self._decoder.pending:
            raise MalformedStreamError("the stream ends inside an event")

    def _emit(self, value: dict[str, Any]) -> bytes:
        """An event leaves now, or behind what already waits for the end."""
        self._judge()
        event = sse.encode(msgspec.json.encode(value))
        if self._tail:
            if len(self._windows) == 0 or self._ended >= {index for index, _ in self._windows}:
                self._tail += event
                return b""
            return event  # another choice still speaks
        return event

    # -- policy -----------------------------------------------------------------------------------

    def _found(self, spans: list[Span]) -> None:
        for span in spans:
            self._seen_labels.update((span.label, *span.also))

    def _judge(self) -> None:
        """Ask the policy where something new is known; at least once before anything leaves."""
        known = frozenset(self._seen_labels)
        if known == self._asked_with:
            return
        asked = self._asked
        self._asked_with = known
        start = asked.clock()
        claims = policy_view.claims_of([Span(0, 0, label) for label in sorted(known)])
        if self._audit is not None:
            claims = self._audit.add_to(claims)
        verdict = asked.decide(self._findings.phase, claims)
        self._evaluations += 1
        self._findings.claims = claims
        spent = (asked.clock() - start) // 1000
        self._findings.latency["policy"] = self._findings.latency.get("policy", 0) + spent
        before = self._verdict
        if before is None or verdict.outcome.strictness >= before.outcome.strictness:
            self._verdict = verdict
        self.redact |= verdict.redact
        if verdict.outcome is Outcome.DENY and not self._observe:
            raise _DeniedError(verdict)

    def _deny(self, verdict: Verdict) -> bytes:
        self.denied = True
        self._verdict = verdict
        decision_id = self._findings.decision_id
        self._close(complete=False)
        if not self._left:
            self.refusal = policy_refusal(self._style, verdict, decision_id, self.headers)
        status, kind, message = describe_denial(verdict)
        return error_events(
            self._style,
            status=status,
            kind=kind,
            code=verdict.reasons[0] if verdict.reasons else "denied",
            message=message,
            decision_id=decision_id,
        )

    def _close(self, *, complete: bool) -> None:
        verdict = self._verdict
        assert verdict is not None
        if self._observe:
            verdict = _with_reason(verdict, "observed_only")
        windows = self._windows.values()
        texts = tuple(window.digest() for window in list(windows)[:64])
        released = sum(window.released_size for window in windows)
        seen = sum(window.digest().size for window in windows)
        self._findings.texts = texts
        self._findings.coverage = Coverage(
            seen=seen + self._other_seen,
            released=seen if self._observe else released,
            windows=self._evaluations,
            fields=len(self._windows),
            complete=complete,
        )
        self._record = policy_view.record_of(
            self._asked, self._findings, verdict, model=self._model, redacted=not self._observe
        )


class _DeniedError(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__("denied")
        self.verdict = verdict


def _with_reason(verdict: Verdict, reason: str) -> Verdict:
    return Verdict(
        outcome=verdict.outcome,
        reasons=(*verdict.reasons, reason),
        redact=verdict.redact,
        evaluated=verdict.evaluated,
        errors=verdict.errors,
        claims_read=verdict.claims_read,
    )


def _require_name(value: Any) -> None:
    """Identifiers pass without a window; so they must be identifiers."""
    if value is None or isinstance(value, (bool, int)):
        return
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise MalformedStreamError("an identifier that is none")


def _put(delta: dict[str, Any], place: str, text: str) -> None:
    match place.split("."):
        case ["tool_calls", number, key]:
            calls = delta.setdefault("tool_calls", [])
            calls.append({"index": int(number), "function": {key: text}})
        case ["function_call", key]:
            delta.setdefault("function_call", {})[key] = text
        case _:
            delta[place] = text
