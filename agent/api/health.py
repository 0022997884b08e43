"""What the daemon says of itself: readiness and status, derived when asked."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Protocol

from agent.attesting.renewal import Renewal
from agent.boottime import Clock, wall_ns
from agent.custody import Custody
from agent.gateway.gateway_tls import GatewayTls
from agent.journal import Journal
from agent.life.lifecycle import Lifecycle, Standing
from agent.policy.policies import Policies
from agent.stream.status import StreamStatus
from enforcement.auditors.panel import AuditorService
from enforcement.http.metrics import GatewayMetrics
from enforcement.snapshot import Snapshot


class Parts(Protocol):
    """What is looked at. `agent.parts` are."""

    lifecycle: Lifecycle
    renewal: Renewal
    journal: Journal
    auditors: AuditorService
    policies: Policies
    gateway_address: str
    tls: GatewayTls | None
    clock: Clock
    version: str
    custody: Custody | None

    @property
    def snapshot(self) -> Snapshot | None:
        """What exchanges are decided with; None until the first passport."""

    @property
    def gateway_metrics(self) -> GatewayMetrics:
        """The gateway's counters."""

    @property
    def stream_status(self) -> StreamStatus | None:
        """None where no Observer is configured."""


def since(boot_instant_ns: int, clock: Clock) -> str:
    """An instant of the boot-time clock for people: UTC by the wall clock of now."""
    wall = wall_ns() - (clock() - boot_instant_ns)
    return datetime.fromtimestamp(wall // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_line(standing: Standing, clock: Clock) -> str:
    """State, since when, why and what next, for the service manager."""
    return (
        f"{standing.state} since {since(standing.since_ns, clock)}: {standing.reason};"
        f" next: {standing.next}"
    )


def ready(parts: Parts) -> tuple[bool, str]:
    """Whether requests can be decided and recorded now, and the state with its reason."""
    standing = parts.lifecycle.look()
    return standing.ready, standing.line()


def status(parts: Parts) -> dict[str, Any]:
    """Everything an operator asks first, as JSON-ready values."""
    standing, issued = parts.lifecycle.look(), parts.renewal.current
    snapshot, stream, now = parts.snapshot, parts.stream_status, parts.clock()
    return {
        "version": parts.version,
        "state": standing.state.value,
        "since": since(standing.since_ns, parts.clock),
        "since_seconds": round((now - standing.since_ns) / 1e9, 1),
        "reason": standing.reason,
        "next": standing.next,
        "ready": standing.ready,
        "ready_reason": standing.line(),
        "troubles": [
            {
                "part": trouble.part.value,
                "blocks": trouble.weight.name == "BLOCKS",
                "code": trouble.code,
                "since": since(began, parts.clock),
                "since_seconds": round((now - began) / 1e9, 1),
                "reason": trouble.reason,
                "next": trouble.next,
            }
            for trouble, began in standing.troubles
        ],
        "gateway": parts.gateway_address,
        "tls": None if parts.tls is None else parts.tls.as_json(),
        "passport": None
        if issued is None
        else {
            "id": issued.passport_id,
            "tee": issued.platform.tee_type,
            "simulated": issued.platform.simulated,
            "hardware_attested": issued.platform.hardware_attested,
            "seconds_left": round(issued.seconds_left(now), 1),
            "valid": parts.renewal.valid,
            "next_try_seconds": None
            if math.isinf(parts.renewal.next_seconds)
            else round(parts.renewal.next_seconds, 1),
            "collateral_ends": issued.collateral_ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "revocation": {
                "check": issued.revocation.name,
                "status": issued.revocation.status.value,
                "detail": issued.revocation.detail,
            },
        },
        "policy": None
        if snapshot is None
        else {
            "name": snapshot.bundle.name,
            "version": snapshot.bundle.version,
            "digest": snapshot.bundle.digest.hex(),
            "reload_failures": parts.policies.failures,
            "superseded": parts.policies.superseded,
            "shadow": parts.policies.candidate.as_json(),
        },
        "journal": {
            "healthy": parts.journal.healthy,
            "problem": parts.journal.problem,
            "boot": parts.journal.boot_id.hex(),
            "last_seq": parts.journal.last_seq,
            "durable_seq": parts.journal.durable_seq,
            "head": parts.journal.head.hex(),
        },
        "observer": None if stream is None else stream.as_json(),
        "custody": None if parts.custody is None else parts.custody.as_json(),
    }
