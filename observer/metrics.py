"""Counters of the Observer, in its own registry. Labels are words of ours, never a peer's text."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.records = self._counter("records", "Decision records committed")
        self.checkpoints = self._counter("checkpoints", "Checkpoints that verified and agree")
        self.store_errors = self._counter("store_errors", "Failures of the database")
        self.missed = self._counter(
            "events_missed", "Decisions that slow pages were told they missed"
        )
        self.nacks = Counter(
            "lucid_observer_nacks", "Refusals sent to agents", ["code"], registry=self.registry
        )
        self.alarms = Counter(
            "lucid_observer_alarms", "Alarms raised", ["code"], registry=self.registry
        )

        self.http_refused = Counter(
            "lucid_observer_http_refused",
            "Connections that found no place",
            ["why"],
            registry=self.registry,
        )
        self.http_cut = Counter(
            "lucid_observer_http_cut",
            "Connections ended because a request did not come whole or an answer was not read",
            ["why"],
            registry=self.registry,
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"lucid_observer_{name}", text, registry=self.registry)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read when it is asked for."""
        Gauge(f"lucid_observer_{name}", text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
