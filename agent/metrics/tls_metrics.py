"""Metrics of the gateway's TLS; none of them is there where it speaks plain HTTP."""

from __future__ import annotations

import math
from collections.abc import Iterator

from agent.gateway.gateway_tls import GatewayTls
from agent.metrics.metrics import Family, counter, counters, gauge


def tls_metrics(tls: GatewayTls | None) -> Iterator[Family]:
    """The families, in the order of the document."""
    if tls is None:
        return
    yield counters(
        "lucid_tls_handshakes",
        "Handshakes that were finished.",
        ("version", "certificate"),
        tls.server.metrics.handshakes,
    )
    yield counters(
        "lucid_tls_handshake_failures",
        "Handshakes that failed.",
        ("reason",),
        tls.server.metrics.failures,
    )
    yield gauge(
        "lucid_tls_certificate_time_left_seconds",
        "Time until the gateway's certificate ends; negative when it has.",
        tls.seconds_left(),
    )
    yield gauge(
        "lucid_tls_certificate_lifetime_seconds",
        "How long this certificate is valid, from its beginning to its end.",
        tls.loaded.ends - tls.loaded.begins,
    )
    left = tls.authorities_seconds_left()
    if math.isfinite(left):
        yield gauge(
            "lucid_tls_authorities_time_left_seconds",
            "Time until the last authority of some trust domain ends.",
            left,
        )
    yield counter("lucid_tls_loads", "Readings of the files that were taken.", tls.loads)
    yield counter("lucid_tls_load_failures", "Readings that were refused.", tls.failures)
