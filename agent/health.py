"""What the daemon says of itself: health, readiness, status, metrics; all derived when asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import psutil
from prometheus_client.core import Metric

from agent.boottime import Clock
from agent.journal import Journal
from agent.lifecycle import Lifecycle, State
from agent.metrics import counter, gauge, labelled
from agent.renewal import Renewal
from agent.stream import StreamStatus
from enforcement.gateway import GatewayMetrics
from enforcement.snapshot import Snapshot


class Parts(Protocol):
    """What is looked at. The daemon is one."""

    lifecycle: Lifecycle
    renewal: Renewal
    journal: Journal
    gateway_metrics: GatewayMetrics
    snapshot: Snapshot | None
    reload_failures: int
    gateway_address: str
    clock: Clock
    version: str

    @property
    def stream_status(self) -> StreamStatus | None:
        """None where no Observer is configured."""


def ready(parts: Parts) -> tuple[bool, str]:
    """Whether requests can be decided and recorded now, and if not, why."""
    lifecycle = parts.lifecycle
    if not lifecycle.serves.ready:
        return False, f"{lifecycle.state}: {lifecycle.reason}"
    if not parts.renewal.valid:
        return False, "the passport has ended"
    if not parts.journal.healthy:
        return False, f"the journal cannot record: {parts.journal.problem}"
    return True, str(lifecycle.state)


def status(parts: Parts) -> dict[str, Any]:
    """Everything an operator asks first, as JSON-ready values."""
    lifecycle, issued = parts.lifecycle, parts.renewal.current
    is_ready, why = ready(parts)
    snapshot, stream = parts.snapshot, parts.stream_status
    return {
        "version": parts.version,
        "state": lifecycle.state.value,
        "since_seconds": round(lifecycle.seconds_in_state, 1),
        "reason": lifecycle.reason,
        "next": lifecycle.serves.next,
        "ready": is_ready,
        "ready_reason": why,
        "gateway": parts.gateway_address,
        "passport": None
        if issued is None
        else {
            "id": issued.passport_id,
            "tee": issued.platform.tee_type,
            "simulated": issued.platform.simulated,
            "hardware_attested": issued.platform.hardware_attested,
            "seconds_left": round(issued.seconds_left(parts.clock()), 1),
            "valid": parts.renewal.valid,
        },
        "policy": None
        if snapshot is None
        else {
            "name": snapshot.bundle.name,
            "version": snapshot.bundle.version,
            "digest": snapshot.bundle.digest.hex(),
            "reload_failures": parts.reload_failures,
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
    }


def metrics(parts: Parts) -> Iterable[Metric]:
    """One scrape."""
    issued, journal, doors = parts.renewal.current, parts.journal, parts.gateway_metrics
    left = issued.seconds_left(parts.clock()) if issued is not None else 0.0
    yield gauge("lucid_ready", "1 if requests can be decided and recorded.", ready(parts)[0])
    for state in State:
        name = f"lucid_state_{state.value}"
        yield gauge(name, f"1 while {state.value}.", state is parts.lifecycle.state)
    yield gauge("lucid_passport_seconds_left", "Time until the passport ends.", left)
    yield counter(
        "lucid_passport_failures", "Quotes or passports that failed.", parts.renewal.failures
    )
    yield gauge("lucid_quote_seconds", "Duration of the last quote.", parts.renewal.quote_seconds)
    yield counter("lucid_policy_reload_failures", "Refused bundles.", parts.reload_failures)
    yield labelled(
        "lucid_decisions",
        "Decisions by phase and outcome.",
        ("phase", "outcome"),
        doors.decisions,
    )
    yield labelled(
        "lucid_gateway_refusals", "Requests refused by the gateway.", ("code",), doors.refusals
    )
    yield labelled(
        "lucid_upstream_errors", "Failures of the model server.", ("code",), doors.upstream_errors
    )
    yield gauge("lucid_gateway_connections", "Open client connections.", doors.connections)
    yield counter("lucid_gateway_requests", "Requests received.", doors.requests)
    yield gauge("lucid_journal_healthy", "1 if decisions can be recorded.", journal.healthy)
    yield counter("lucid_journal_records", "Decisions of this boot.", journal.last_seq)
    waiting = journal.last_seq - journal.durable_seq
    yield gauge("lucid_journal_waiting", "Decisions not yet durable.", waiting)
    yield counter(
        "lucid_journal_unrecorded",
        "Decisions that were let pass without a record.",
        journal.unrecorded,
    )
    stream = parts.stream_status
    if stream is not None:
        yield gauge("lucid_stream_connected", "1 while the Observer accepts.", stream.connected)
        yield gauge("lucid_stream_lag_records", "Durable and not acknowledged.", stream.lag)
        yield counter("lucid_stream_alarms", "Forks and refusals by the Observer.", stream.alarms)
    process = psutil.Process()
    with process.oneshot():
        yield gauge("process_resident_memory_bytes", "Memory.", process.memory_info().rss)
        yield gauge("process_open_fds", "Open descriptors.", process.num_fds())
        yield counter("process_cpu_seconds", "CPU time.", sum(process.cpu_times()[:2]))
        yield gauge("process_threads", "Threads.", process.num_threads())
