"""What Prometheus is told of auditors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agent.metrics.metrics import Family, Sample, counters, gauges
from enforcement.auditors.breaker import State
from enforcement.auditors.client import BUCKETS, AuditorClient

_STATES: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def auditor_metrics(clients: Mapping[str, AuditorClient]) -> Iterable[Family]:
    """One scrape of all auditors; nothing where there are none."""
    if not clients:
        return
    yield counters(
        "lucid_auditor_calls",
        "Calls by how they ended.",
        ("auditor", "status"),
        {
            (name, status): count
            for name, client in clients.items()
            for status, count in client.metrics.calls.items()
        },
    )
    yield Family(
        "lucid_auditor_seconds",
        "histogram",
        "Time of one call, all of it.",
        tuple(sample for name, client in clients.items() for sample in _times(name, client)),
    )
    yield gauges(
        "lucid_auditor_breaker_state",
        "0 closed, 1 half-open, 2 open.",
        "auditor",
        {name: _STATES[client.state] for name, client in clients.items()},
    )
    yield counters(
        "lucid_auditor_breaker_opens",
        "How often the breaker opened.",
        ("auditor",),
        {(name,): client.breaker.opens for name, client in clients.items()},
    )
    yield gauges(
        "lucid_auditor_under_way",
        "Calls under way.",
        "auditor",
        {name: client.under_way for name, client in clients.items()},
    )
    yield counters(
        "lucid_auditor_retries",
        "Calls made again over a new connection.",
        ("auditor",),
        {(name,): client.metrics.retries for name, client in clients.items()},
    )


def _times(name: str, client: AuditorClient) -> Iterable[Sample]:
    total = 0
    label = ("auditor", name)
    for bound, count in zip([*map(repr, BUCKETS), "+Inf"], client.metrics.buckets, strict=True):
        total += count
        yield Sample("_bucket", (label, ("le", bound)), total)
    yield Sample("_count", (label,), total)
    yield Sample("_sum", (label,), client.metrics.seconds)
