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

from enforcement.exchange import Exchange, Ruling, StreamGuard, refuse_unknown_route
from enforcement.http1 import Header, RequestHead
from enforcement.recorder import Recorder
from enforcement.routes import find_route
from enforcement.snapshot import Snapshot

Principal = tuple[str, str]  # entity type without namespace, id


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """Whether requests are decided at all; `code` and `message` are told to the client if not."""

    open: bool
    code: str
    message: str


class ExchangeLike(Protocol):
    """What the door needs of an exchange (`enforcement.exchange.Exchange` is one)."""

    def request(self, body: bytes) -> Ruling:
        """Decide the request."""

    def refuse(self, code: str, message: str, status: int) -> Ruling:
        """Refuse it for a reason of the door's own."""

    def response(self, *, status: int, content_type: str, body: bytes) -> Ruling:
        """Decide a whole reply."""

    def stream(self, *, status: int) -> StreamGuard:
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

    def begin(self, request: RequestHead) -> ExchangeLike | Ruling:
        """Who decides about this request, or a refusal that needs no body."""


class PolicyAdmission:
    """Every request is decided by policy and recorded.

    Args:
        snapshot: the engine and bundle of the moment; asked once for each exchange.
        gate: whether requests are decided now.
        identify: the principal of a request from its headers; None: nobody known.
        clock: nanoseconds, monotonic, for latencies.
    """

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        gate: Callable[[], GateState],
        recorder: Recorder,
        identify: Callable[[Sequence[Header]], Principal | None],
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

    def begin(self, request: RequestHead) -> Exchange | Ruling:
        """Start an exchange on one snapshot; a request on no known route is refused at once."""
        snapshot = self._snapshot()
        principal = self._identify(request.headers)
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
        return Exchange(
            snapshot=snapshot,
            route=route,
            principal=principal,
            trace_id=trace_id,
            request_id=request_id,
            salt=self._salt,
            clock=self._clock,
        )
