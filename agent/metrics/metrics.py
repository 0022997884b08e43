"""Prometheus metrics, read from the parts at scrape time: nothing is counted twice or kept here.

Names and units follow the Prometheus conventions: `lucid_` prefix, base units, `_total` counters.
The text is written here and not by prometheus-client, whose import costs 2 MB of the daemon's
memory and 60 ms of its start; tests read what comes out with that library's parser.

Source: "Exposition formats", text format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from agent.metrics.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: what follows the family's name, labels, value."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples. A counter's name is without `_total`."""

    name: str
    kind: Kind
    text: str
    samples: tuple[Sample, ...]


def gauge(name: str, text: str, value: float) -> Family:
    """A gauge without labels."""
    return Family(name, "gauge", text, (Sample("", (), value),))


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Family:
    """A gauge for each value of one label."""
    samples = (Sample("", ((label, key),), value) for key, value in values.items())
    return Family(name, "gauge", text, tuple(samples))


def info(name: str, text: str, labels: Mapping[str, str]) -> Family:
    """A gauge that is 1 and says something with its labels; `name` ends in `_info`."""
    return Family(name, "gauge", text, (Sample("", tuple(labels.items()), 1),))


def counter(name: str, text: str, value: float) -> Family:
    """A counter without labels; `name` is without `_total`."""
    return Family(name, "counter", text, (Sample("_total", (), value),))


def counters(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int]
) -> Family:
    """A counter for each combination of labels that has occurred."""
    samples = (
        Sample("_total", tuple(zip(labels, key, strict=True)), value)
        for key, value in sorted(values.items())
    )
    return Family(name, "counter", text, tuple(samples))


def histogram(name: str, text: str, values: Histogram) -> Family:
    """A histogram without labels."""
    samples, total = [], 0
    for bound, count in zip((*values.bounds, float("inf")), values.counts, strict=True):
        total += count
        samples.append(Sample("_bucket", (("le", _number(bound)),), total))
    return Family(
        name,
        "histogram",
        text,
        (*samples, Sample("_count", (), total), Sample("_sum", (), values.sum)),
    )


def exposition(families: Iterable[Family]) -> bytes:
    """The metrics in Prometheus' text format."""
    lines = []
    for family in families:
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        lines.append(f"# HELP {name} {_escape(family.text, quotes=False)}\n")
        lines.append(f"# TYPE {name} {family.kind}\n")
        for sample in family.samples:
            labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels)
            braces = f"{{{labels}}}" if labels else ""
            lines.append(f"{family.name}{sample.suffix}{braces} {_number(sample.value)}\n")
    return "".join(lines).encode()


def _escape(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return repr(float(value))
