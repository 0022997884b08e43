"""The seam between the door's sockets and what decides about requests.

The connection loop knows nothing of policies. It asks an `Admission`: may a request come in now,
and who decides about this one. The gateway always brings `PolicyAdmission`; there is no other in
this package and no setting that would choose one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from attestation.records import DecisionRecord
from enforcement.apis.routes import find_route
from enforcement.auditing import Audit, Auditors, Question
from enforcement.content.apierror import Headers, Refusal
from enforcement.exchange import Exchange, refuse_unknown_route
from enforcement.http.fields import Header
from enforcement.http.request_head import RequestHead
from enforcement.identity.callers import UNKNOWN, Caller, Shown, Stranger
from enforcement.recorder import Recorder
from enforcement.ruling import Ruling
from enforcement.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """Whether requests are decided at all; `code` and `message` are told to the client if not."""

    open: bool
    code: str
    message: str


class GuardLike(Protocol):
    """What the door needs of the guard of a stream.

    `enforcement.stream_guard.StreamGuard` is one, `AuditedStream` is another.
    """

    @property
    def denied(self) -> bool:
        """Send what the last call returned, then close the upstream."""

    @property
    def headers(self) -> Headers:
        """For the reply's head."""

    @property
    def refusal(self) -> Refusal | None:
        """Set when the stream was denied before any byte left: it can still be a status."""

    @property
    def held(self) -> int:
        """Bytes of memory, about, that what waits for its release takes."""

    @property
    def question(self) -> Question | None:
        """After `feed` and `finish`: what auditors must be asked before more may leave.

        Their answer goes to `answer`. None: nothing.
        """

    @property
    def record(self) -> DecisionRecord:
        """Final after `finish` (and its answer), a denial or `aborted`."""

    def feed(self, data: bytes) -> bytes:
        """Upstream wire bytes to bytes that may leave now."""

    def answer(self, audit: Audit) -> bytes:
        """What auditors say, to bytes that may leave now."""

    def finish(self) -> bytes:
        """The upstream ended: the rest, once the record is durable."""

    def aborted(self, reason: str) -> None:
        """The stream ended without its end."""


class ExchangeLike(Protocol):
    """What the door needs of an exchange (`enforcement.exchange.Exchange` is one)."""

    @property
    def auditors(self) -> Auditors | None:
        """None: decide at once. Else decide by the functions of `enforcement.auditing`."""

    def look_at_request(self, body: bytes) -> Question | None:
        """What auditors must be asked before `request`."""

    def request(self, body: bytes, audit: Audit | None = None) -> Ruling:
        """Decide the request."""

    def refuse(self, code: str, message: str, status: int) -> Ruling:
        """Refuse it for a reason of the door's own."""

    def look_at_response(self, *, status: int, content_type: str, body: bytes) -> Question | None:
        """What auditors must be asked before `response`."""

    def response(
        self, *, status: int, content_type: str, body: bytes, audit: Audit | None = None
    ) -> Ruling:
        """Decide a whole reply."""

    def stream(self, *, status: int) -> GuardLike:
        """Guard a streamed reply."""

    def upstream_failed(self, code: str, message: str, *, status: int) -> Ruling:
        """There is no usable reply."""


class Admission(Protocol):
    """Who decides about requests, and where the decisions are kept."""

    @property
    def recorder(self) -> Recorder:
        """The journal, as the door sees it."""

    def gate(self) -> GateState:
        """Asked before a request's body is read."""

    def begin(self, request: RequestHead, shown: Shown | None = None) -> ExchangeLike | Ruling:
        """Who decides about this request, or a refusal that needs no body.

        Args:
            shown: the certificate of the client's connection.
        """


class PolicyAdmission:
    """Every request is decided by policy and recorded.

    Args:
        snapshot: the engine and bundle of the moment; asked once for each exchange.
        gate: whether requests are decided now.
        identify: who asks, by the request's headers and the certificate of its connection.
        clock: nanoseconds, monotonic, for latencies.
    """

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        gate: Callable[[], GateState],
        recorder: Recorder,
        identify: Callable[[Sequence[Header], Shown | None], Caller | Stranger],
        clock: Callable[[], int],
    ) -> None:
        self._snapshot = snapshot
        self._identify = identify
        self._clock = clock
        self._salt = os.urandom(32)  # one for a boot: equal texts have equal hashes within it
        self._recorder = recorder
        self.gate = gate

    @property
    def recorder(self) -> Recorder:
        """The journal, as the door sees it."""
        return self._recorder

    def begin(self, request: RequestHead, shown: Shown | None = None) -> ExchangeLike | Ruling:
        """Start an exchange on one snapshot; what its head alone refuses is refused at once."""
        snapshot = self._snapshot()
        caller: Caller | None
        stranger = UNKNOWN
        named = self._identify(request.headers, shown)
        if isinstance(named, Stranger):
            caller, stranger = None, named
        else:
            caller = None if named.anonymous and not snapshot.bundle.anonymous else named
        principal = None if caller is None else caller.principal
        fresh = os.urandom(32).hex()
        trace_id = request.trace_id or fresh[:32]
        request_id = f"req-{fresh[32:56]}"
        route = find_route(request.method, request.target)
        if route is None:
            return refuse_unknown_route(
                snapshot=snapshot,
                target=request.target,
                principal=principal,
                trace_id=trace_id,
                request_id=request_id,
                clock=self._clock,
            )
        exchange = Exchange(
            snapshot=snapshot,
            route=route,
            principal=principal,
            groups=() if caller is None else caller.groups,
            stranger=stranger,
            trace_id=trace_id,
            request_id=request_id,
            salt=self._salt,
            clock=self._clock,
        )
        if principal is None or route.refused is not None:
            return exchange.request(b"")  # refused whatever the body is: it is not read
        return exchange
