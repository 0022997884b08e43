"""The gateway's door without policy, journal or stream, for comparing it with other proxies.

    python -m benchmarks.bare PORT UPSTREAM_PORT [DIRECTORY with tls.pem and tls.key]

This admission exists only here: the daemon has no setting, and the package no class, that lets a
request through undecided.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import Final

import trio

from attestation.records import DecisionRecord
from enforcement.admission import ExchangeLike, GateState, GuardLike
from enforcement.auditing import Audit, Auditors, Question
from enforcement.content.apierror import Headers, Refusal
from enforcement.gateway.door import Door
from enforcement.gateway.replies import refusal
from enforcement.gateway.tls_server import TlsServer
from enforcement.http.limits import Limits
from enforcement.http.request_head import RequestHead
from enforcement.http.upstream import Address
from enforcement.identity.callers import Shown
from enforcement.outcome import Outcome, Verdict
from enforcement.ruling import Ruling

_OPEN: Final = GateState(open=True, code="", message="")
_VERDICT: Final = Verdict(outcome=Outcome.PROCEED, reasons=())
_RECORD: Final = DecisionRecord(
    decision_id="dec-000000000000000000000000",
    request_id="bare",
    trace_id="0" * 32,
    phase="request",
    route="bare",
    model="",
    principal=("User", "bare"),
    action="invoke",
    resource=("Service", "bare"),
    outcome="proceed",
    reasons=(),
    bundle=("bare", "0", b""),
    passport="",
)


class _NoJournal:
    def append(self, record: DecisionRecord) -> int:  # noqa: ARG002 - the recorder's interface
        return 0

    async def durable(self, seq: int) -> None:
        pass


class _OpenGuard:
    question: Question | None = None
    held = 0

    def __init__(self) -> None:
        self.denied = False
        self.headers: Headers = ()
        self.refusal: Refusal | None = None

    def feed(self, data: bytes) -> bytes:
        return data

    def answer(self, audit: Audit) -> bytes:  # noqa: ARG002 - the interface
        return b""

    def finish(self) -> bytes:
        return b""

    def aborted(self, reason: str) -> None:
        pass

    @property
    def record(self) -> DecisionRecord:
        return _RECORD


class Passthrough:
    """Lets everything through, undecided and unrecorded."""

    auditors: Auditors | None = None

    def __init__(self) -> None:
        self.recorder = _NoJournal()

    def gate(self) -> GateState:
        return _OPEN

    def begin(self, request: RequestHead, shown: Shown | None = None) -> ExchangeLike:  # noqa: ARG002
        return self

    def look_at_request(self, body: bytes) -> Question | None:  # noqa: ARG002 - the interface
        return None

    def request(self, body: bytes, audit: Audit | None = None) -> Ruling:  # noqa: ARG002
        return Ruling(verdict=_VERDICT, record=_RECORD, forward_body=body, refusal=None, headers=())

    def refuse(self, code: str, message: str, status: int) -> Ruling:
        return Ruling(
            verdict=_VERDICT,
            record=_RECORD,
            forward_body=None,
            refusal=refusal(code, message, status),
            headers=(),
        )

    def look_at_response(self, *, content_type: str, body: bytes) -> Question | None:  # noqa: ARG002
        return None

    def response(
        self,
        *,
        status: int,  # noqa: ARG002
        content_type: str,  # noqa: ARG002
        body: bytes,
        audit: Audit | None = None,
    ) -> Ruling:
        return self.request(body, audit)

    def stream(self, *, status: int) -> GuardLike:  # noqa: ARG002 - the interface
        return _OpenGuard()

    def upstream_failed(self, code: str, message: str, *, status: int) -> Ruling:
        return self.refuse(code, message, status)


def _tls(directory: str = "") -> TlsServer | None:
    if not directory:
        return None
    from agent.config import TlsTable  # noqa: PLC0415 - the plain door stays as it was
    from agent.gateway.tls_files import load  # noqa: PLC0415

    table = TlsTable(certificate_file=f"{directory}/tls.pem", key_file=f"{directory}/tls.key")
    return TlsServer(load(table, now=time.time()).credentials)


def main() -> None:
    """Serve until interrupted."""
    port, upstream_port = int(sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    door = Door(
        limits=Limits(),
        upstream=Address(host="127.0.0.1", port=upstream_port),
        admission=Passthrough(),
        tls=_tls(*sys.argv[3:]),
    )
    trio.run(door.serve, [listener])


if __name__ == "__main__":
    main()
