"""One request and its reply, without I/O: bytes in, rulings out (signatures; bodies follow)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from attestation.records import DecisionRecord
from enforcement.apierror import Headers, Refusal
from enforcement.outcome import Verdict
from enforcement.routes import Route
from enforcement.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
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


class StreamGuard:
    """Guards one streamed reply; see the contract in the module docstring."""

    denied: bool
    headers: Headers  # for the reply's head
    refusal: Refusal | None  # set when denied before any byte left: the head may still say 403

    def feed(self, data: bytes) -> bytes:
        """Upstream wire bytes, in any chunking, to bytes that may leave now."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """The upstream ended cleanly: the rest that may leave, once `record` is durable."""
        raise NotImplementedError

    def aborted(self, reason: str) -> None:
        """Client gone or upstream broken: closes the record as incomplete. Idempotent."""
        raise NotImplementedError

    @property
    def record(self) -> DecisionRecord:
        """Final after `finish`, a denial or `aborted`. RuntimeError before."""
        raise NotImplementedError


class Exchange:
    """One request and its reply. One snapshot for its whole life. Sans-I/O, synchronous."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        route: Route,
        principal: tuple[str, str] | None,
        trace_id: str,
        request_id: str,
        salt: bytes,
        clock: Callable[[], int],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        raise NotImplementedError

    def request(self, body: bytes) -> Ruling:
        """Decide the request. Refuses what cannot be understood."""
        raise NotImplementedError

    def refuse(self, code: str, message: str, status: int) -> Ruling:
        """Refuse the request for a reason of the door's own (oversized, closed, …)."""
        raise NotImplementedError

    def response(self, *, status: int, content_type: str, body: bytes) -> Ruling:
        """Decide a whole reply."""
        raise NotImplementedError

    def stream(self, *, status: int) -> StreamGuard:
        """A guard for a reply of content type `text/event-stream`."""
        raise NotImplementedError

    def upstream_failed(self, code: str, message: str, *, status: int) -> Ruling:
        """The model server gave no usable reply (502, 504): recorded as a denied response."""
        raise NotImplementedError


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
    raise NotImplementedError
