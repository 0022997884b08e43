"""The exposition is what Prometheus reads, and the documents say what is really scraped."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.config import TlsTable
from agent.gateway.gateway_tls import GatewayTls
from agent.metrics.auditor_metrics import auditor_metrics
from agent.metrics.histogram import QUICK, Histogram
from agent.metrics.metrics import Family, counters, exposition, gauge, gauges, histogram, info
from agent.metrics.tls_metrics import tls_metrics
from enforcement.auditors.client import AuditorClient, AuditorSettings
from enforcement.http.wire import Watch
from tests.pki import DOMAIN, authority, make
from tests.processes import AgentProcess, free_port

DOCS = Path(__file__).resolve().parents[3] / "docs"


def parsed(*families: Family) -> dict[str, Metric]:
    text = exposition(families).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


# -- the text form -------------------------------------------------------------------------------


@given(st.text(), st.text(), st.floats(allow_nan=False))
def test_any_label_help_and_value_come_back(label: str, text: str, value: float) -> None:
    found = parsed(gauges("lucid_x", text, "l", {label: value}))
    (sample,) = found["lucid_x"].samples
    assert sample.labels == {"l": label}
    assert sample.value == value


def test_a_counter_has_its_ending_and_its_labels() -> None:
    found = parsed(counters("lucid_c", "t", ("a", "b"), {("x", "y"): 3, ("p", "q"): 0}))
    assert found["lucid_c"].type == "counter"
    assert {(s.name, s.labels["a"], s.value) for s in found["lucid_c"].samples} == {
        ("lucid_c_total", "x", 3.0),
        ("lucid_c_total", "p", 0.0),
    }


def test_an_info_is_one() -> None:
    (sample,) = parsed(info("lucid_info", "t", {"name": "a", "text": 'b"\n\\'}))[
        "lucid_info"
    ].samples
    assert (sample.value, sample.labels) == (1.0, {"name": "a", "text": 'b"\n\\'})


@given(st.lists(st.floats(0, 10, allow_nan=False)))
def test_a_histogram_is_cumulative_and_counts_what_equals_a_bound(values: list[float]) -> None:
    made = Histogram(QUICK)
    for value in values:
        made.observe(value)
    found = parsed(histogram("lucid_h", "t", made))["lucid_h"]
    buckets = [(float(s.labels["le"]), s.value) for s in found.samples if s.name.endswith("bucket")]
    assert [bound for bound, _ in buckets] == [*QUICK, float("inf")]
    for bound, count in buckets:
        assert count == sum(value <= bound for value in values)
    (total,) = [s.value for s in found.samples if s.name == "lucid_h_count"]
    assert total == len(values)


def test_an_empty_family_has_no_samples_and_is_declared() -> None:
    assert exposition([counters("lucid_c", "t", ("a",), {})]) == (
        b"# HELP lucid_c_total t\n# TYPE lucid_c_total counter\n"
    )
    assert exposition([gauge("lucid_g", "t", True)]).endswith(b"lucid_g 1.0\n")


# -- the documents -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, simulated_state: Path) -> dict[str, Metric]:
    """A real scrape: families by the name that Prometheus stores."""
    directory = tmp_path_factory.mktemp("agent")
    shutil.copytree(simulated_state, directory / "state", dirs_exist_ok=True)
    (directory / "state").chmod(0o700)
    agent = AgentProcess(directory, "http://127.0.0.1:9", observer_port=free_port())
    agent.start()
    try:
        text = agent.api("GET", "/metrics")[1].decode()
    finally:
        agent.stop(signal.SIGKILL)
    settings = AuditorSettings(name="a", url="http://127.0.0.1:1")
    client = AuditorClient(settings, Watch())
    text += exposition(auditor_metrics({"a": client})).decode()
    text += exposition(tls_metrics(_tls(directory))).decode()
    declared = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        name: families[name.removesuffix("_total") if kind == "counter" else name]
        for name, kind in declared.items()
    }


def _tls(folder: Path) -> GatewayTls:
    """A gateway's TLS that has seen clients come and go."""
    make("gateway").write(folder, "gateway")
    authority().write(folder, "trust")
    tls = GatewayTls(
        TlsTable(
            certificate_file=f"{folder}/gateway.pem",
            key_file=f"{folder}/gateway.key",
            client="required",
            trust_domains={DOMAIN: f"{folder}/trust.pem"},
        )
    )
    tls.server.metrics.handshakes["TLSv1.3", "yes"] = 1
    tls.server.metrics.failures["expired",] = 1
    return tls


def documented() -> dict[str, tuple[str, str, str]]:
    """Name to (type, labels, alert)."""
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    return {name.strip("`"): (kind, labels, alert) for name, kind, labels, _, alert in cells}


def test_the_document_has_every_metric_and_no_other(scraped: dict[str, Metric]) -> None:
    assert set(documented()) == set(scraped)


def test_the_document_has_the_types_and_labels_of_the_scrape(scraped: dict[str, Metric]) -> None:
    for name, (kind, labels, _) in documented().items():
        assert scraped[name].type == kind, name
        found = labels_of(scraped[name]) - {"le"}
        if found:
            assert found == set(re.findall(r"`(\w+)`", labels)), name


def test_names_and_units_follow_the_conventions(scraped: dict[str, Metric]) -> None:
    for name, family in scraped.items():
        assert re.fullmatch(r"(lucid|process)_[a-z0-9_]+", name)
        assert name.endswith("_total") == (family.type == "counter"), name
        assert not re.search(r"_(ms|millis|minutes|kb|mb|percent|count|sum|bucket)$", name), name
        assert family.documentation, name


def labels_of(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels}


def alerts() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    read: dict[str, Any] = yaml.safe_load((DOCS / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def test_every_alert_asks_for_metrics_that_exist(scraped: dict[str, Metric]) -> None:
    for rule in alerts():
        names = set(re.findall(r"\b((?:lucid|process)_\w+)", rule["expr"]))
        assert names, rule["alert"]
        for name in names:
            assert name in scraped or name.removesuffix("_bucket") in scraped, rule["alert"]
        known = {label for name in names if name in scraped for label in labels_of(scraped[name])}
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label == "instance" or not known or label in known, (rule["alert"], label)
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_every_alert_is_in_the_document_and_every_one_named_there_exists() -> None:
    named = {alert for _, _, alert in documented().values() if alert}
    assert named == {rule["alert"] for rule in alerts()}
