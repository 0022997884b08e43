"""The gateway: the inline enforcement point in front of the model server.

Requests come in over HTTP/1.1, are decided by policy, recorded, and passed on, edited or refused;
replies take the same way back (`enforcement.exchange` decides, `relay` keeps the
order). Streamed replies pass through a hold-back window. What is refused before any policy is
asked: `enforcement.http.requests`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from enforcement.admission import GateState, PolicyAdmission
from enforcement.gateway.door import Door
from enforcement.gateway.pages import PASSPORT_PATH, passport_page
from enforcement.gateway.tls_server import TlsServer
from enforcement.http.fields import Header
from enforcement.http.limits import Limits
from enforcement.http.metrics import GatewayMetrics
from enforcement.http.upstream import Address
from enforcement.http.wire import Watch
from enforcement.identity.callers import Caller, Shown, Stranger
from enforcement.recorder import Recorder
from enforcement.snapshot import Snapshot

__all__ = ["GateState", "Gateway", "GatewayConfig", "GatewayMetrics", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Where the model server is (`http://HOST:PORT`), and what the door bears."""

    upstream: str
    limits: Limits = field(default_factory=Limits)


class Gateway:
    """The door with the policy behind it.

    Args:
        snapshot: engine, bundle and passport id of the moment.
        gate: whether requests are decided now; closed: 503 with its code, the body unread.
        recorder: the journal.
        identify: who asks, by a request's headers (names in lower case) and the certificate that
            the client has shown.
        passport: the present passport as a CWT, served at `/.well-known/lucid/passport`.
        clock: monotonic nanoseconds, for latencies in records.
        watch: of sockets, where somebody else runs one already.
        tls: what clients are greeted with; None: they speak plain HTTP.

    Raises:
        ValueError: the upstream is not `http://HOST:PORT`.
    """

    def __init__(
        self,
        *,
        config: GatewayConfig,
        snapshot: Callable[[], Snapshot],
        gate: Callable[[], GateState],
        recorder: Recorder,
        identify: Callable[[Sequence[Header], Shown | None], Caller | Stranger],
        passport: Callable[[], bytes | None],
        clock: Callable[[], int] = time.monotonic_ns,
        watch: Watch | None = None,
        tls: TlsServer | None = None,
    ) -> None:
        self._door = Door(
            limits=config.limits,
            upstream=Address.from_url(config.upstream),
            admission=PolicyAdmission(
                snapshot=snapshot,
                gate=gate,
                recorder=recorder,
                identify=identify,
                clock=clock,
            ),
            pages={PASSPORT_PATH: passport_page(passport)},
            watch=watch,
            tls=tls,
        )

    @property
    def metrics(self) -> GatewayMetrics:
        """The door's counters; read them at any time."""
        return self._door.metrics

    async def serve(
        self,
        listen_sockets: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; the sockets are bound and listening, and are closed here."""
        await self._door.serve(listen_sockets, task_status=task_status)

    def stop_accepting(self) -> None:
        """Begin to drain: no new connections, idle ones closed, open exchanges go on."""
        self._door.stop_accepting()

    async def drained(self) -> None:
        """Wait, after `stop_accepting`, for the open exchanges. The caller sets the deadline."""
        await self._door.drained()
