"""What docs/observer.md says, held against what is."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx

from observer.config import Limits
from observer.effects import AlarmCode
from observer.store.store import LOOKS
from tests.observer.conftest import Serve

PAGE = (Path(__file__).parents[2] / "docs" / "observer.md").read_text(encoding="utf-8")


def row(name: str) -> str:
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))


def test_every_bound_is_the_one_that_is_documented() -> None:
    limits = Limits()
    assert f"| {limits.grpc_connections:,} | |" in row("connections of agents")
    assert f"| {limits.streams} | {limits.streams_per_peer} |" in row("streams")
    unproven = row("streams without a proof yet")
    assert (
        f"| {limits.unproven} | {limits.unproven_per_peer} | {limits.handshake:.0f} s" in unproven
    )
    assert f"| {limits.hello_size // 1024} KiB |" in row("a message before the proof")
    assert f"{limits.batch_records:,} records" in row("a message after it")
    assert f"| {limits.http_connections} | {limits.http_per_address} |" in row(
        "connections to the page"
    )
    watch = (
        f"| {limits.event_clients} | {limits.event_clients_per_address} | {limits.event_queue:,}"
    )
    assert watch in row("pages that watch")
    request = row("a request")
    assert f"{limits.http_head // 1024} KiB" in request
    assert f"{limits.http_request:.0f} seconds; {limits.http_idle} seconds" in request
    assert f"{limits.http_unsent:.0f} seconds" in row("an answer")
    assert f"| {LOOKS} |" in row("searches at a time")
    assert f"{limits.strangers_at_once} at once" in row("alarms of strangers kept")


def test_every_alarm_has_a_meaning_and_a_remedy() -> None:
    for code in AlarmCode:
        meaning, remedy = row(f"`{code.value}`").split(" | ")[1:3]
        assert meaning
        assert remedy


def test_every_metric_is_documented(pages: Serve) -> None:
    async def scenario() -> None:
        async with pages() as running, httpx.AsyncClient() as http:
            text = (await http.get(f"http://{running.http}/metrics")).text
        kinds = re.findall(r"^# TYPE (\S+) (counter|gauge)$", text, re.MULTILINE)
        shown = {f"`{name}` | {kind}" for name, kind in kinds if not name.endswith("_created")}
        documented = set(re.findall(r"^\| (`lucid_observer_\S+` \| \w+) \|", PAGE, re.MULTILINE))
        assert shown == documented

    asyncio.run(scenario())
