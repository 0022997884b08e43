"""Fan-out to pages: bounded queues, what a slow page is told, filters in memory and in SQL."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, select
from starlette.types import Message

from observer.events import Client, Hub, Shown
from observer.filters import Filter
from observer.peers import Full, Places
from observer.store.schema import metadata, reasons, records
from observer.web import Watching


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "agent_id": "agent-1",
        "boot_id": bytes(16),
        "seq": number,
        "record": b"",
        "head": b"",
        "wall_ns": 0,
        "received_ns": 0,
        "decision_id": f"dec-{number}",
        "request_id": "",
        "trace_id": "",
        "phase": "request",
        "route": "",
        "model": "",
        "principal": "",
        "action": "",
        "resource": "",
        "outcome": "proceed",
        "reasons": "[]",
        "complete": True,
    } | changes


def test_a_slow_page_loses_the_oldest_and_is_told_how_many() -> None:
    async def scenario() -> None:
        missed: list[int] = []
        hub = Hub(places=Places(2, 2), queue_size=3, show=dict, on_missed=missed.append)
        slow = hub.join(Filter(), "192.0.2.1")
        hub.decisions([row(number) for number in range(1, 6)])
        hub.decisions([row(6)])
        assert missed == [2, 1]
        count, bunch, _ = slow.take()
        assert (count, [r["id"] for r in bunch]) == (3, [4, 5, 6])
        assert slow.take() == (0, [], set())

    asyncio.run(scenario())


def test_nobody_waits_for_a_slow_page() -> None:
    async def scenario() -> None:
        hub = Hub(places=Places(2, 2), queue_size=3, show=dict)
        hub.join(Filter(), "192.0.2.1")
        quick = hub.join(Filter(), "192.0.2.1")
        for number in range(1, 8):
            hub.decisions([row(number)])
            assert [r["id"] for r in quick.take()[1]] == [number]

    asyncio.run(scenario())


def test_what_a_page_has_been_sent_is_not_sent_again() -> None:
    async def scenario() -> None:
        client = Client(Filter(), 10, "192.0.2.1")
        client.last_id = 2
        client.offer([row(1), row(2), row(3)])
        assert [r["id"] for r in client.take()[1]] == [3]

    asyncio.run(scenario())


def test_a_closed_hub_takes_no_pages_and_lets_its_pages_go() -> None:
    async def scenario() -> None:
        hub = Hub(places=Places(2, 2), queue_size=3, show=dict)
        client = hub.join(Filter(), "192.0.2.1")

        async def read() -> list[bytes]:
            return [part async for part in hub.stream(client, replay=None)]

        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        hub.close()
        async with asyncio.timeout(5):
            await reading
        assert hub.clients == 0
        with pytest.raises(Full):
            hub.join(Filter(), "192.0.2.1")

    asyncio.run(scenario())


def test_an_event_is_one_event_whatever_it_holds() -> None:
    text = "a\nb\r\n\r\ndata: x\n\n\u2028id: 5"
    raw = Shown(lambda _row: text).bunch([{"id": 7}])
    assert raw.count(b"\n") == 4
    head, name, data, *rest = raw.decode().split("\n")
    assert (head, name, rest) == ("id: 7", "event: decisions", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == [text]


def test_a_decision_is_made_into_json_once_for_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("observer.events.KEPT", 3)
    asked: list[int] = []
    shown = Shown(lambda row: asked.append(row["id"]))
    rows = [{"id": number} for number in range(1, 5)]
    assert shown.bunch(rows[:3]) == shown.bunch(rows[:3])
    assert asked == [1, 2, 3]
    shown.bunch(rows)
    shown.bunch(rows[1:])
    assert asked == [1, 2, 3, 4], "the last few are kept"
    shown.bunch(rows[:1])
    assert asked == [1, 2, 3, 4, 1]


# -- the two forms of a filter agree -------------------------------------------------------

WORDS = st.text(st.sampled_from("aAbB%_\\\"'[],ÄÉ"), min_size=1, max_size=4)
ROWS = st.fixed_dictionaries(
    {
        "model": WORDS,
        "principal": WORDS,
        "outcome": st.sampled_from(["proceed", "deny"]),
        "reasons": st.lists(WORDS, max_size=2).map(lambda r: json.dumps(r, ensure_ascii=False)),
    }
)
FILTERS = st.builds(
    Filter,
    model=WORDS | st.just(""),
    outcome=st.sampled_from(["", "deny"]),
    reason=WORDS | st.just(""),
    q=WORDS | st.just(""),
)


@given(st.lists(ROWS, max_size=8), FILTERS)
@settings(max_examples=100, deadline=None)
def test_a_filter_means_the_same_in_memory_and_in_the_database(
    made: list[dict[str, Any]], wanted: Filter
) -> None:
    rows = [row(number, **fields) for number, fields in enumerate(made, start=1)]
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        for one in rows:
            connection.execute(insert(records), one)
            for reason in dict.fromkeys(json.loads(one["reasons"])):
                connection.execute(insert(reasons), {"reason": reason, "record_id": one["id"]})
        condition = wanted.where()
        query = select(records.c.id).order_by(records.c.id)
        found = connection.scalars(query if condition is None else query.where(condition)).all()
    engine.dispose()
    assert list(found) == [one["id"] for one in rows if wanted.matches(one)]


# -- the page's own files ------------------------------------------------------------------

STATIC = Path(__file__).parents[2] / "observer" / "static"
FORBIDDEN = (
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "DOMParser",
    "createContextualFragment",
    "setHTML",
    "eval(",
    "new Function",
    "srcdoc",
    "javascript:",
)


def test_the_page_never_parses_text_as_html() -> None:
    scripts = sorted(STATIC.glob("*.js"))
    assert scripts
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert [word for word in FORBIDDEN if word in text] == [], script.name


def test_the_page_holds_no_inline_script_or_style_and_loads_nothing_from_elsewhere() -> None:
    page = (STATIC.parent / "templates" / "index.html").read_text(encoding="utf-8")
    assert "<style" not in page
    assert "style=" not in page
    assert page.count("<script") == page.count('<script type="module" src="/static/')
    for text in (page, *(f.read_text(encoding="utf-8") for f in STATIC.iterdir())):
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in outside
        assert "https://" not in outside
        assert "@import" not in outside


def test_a_page_that_is_gone_before_its_stream_begins_gives_its_place_back() -> None:
    async def scenario() -> None:
        hub = Hub(places=Places(1, 1), queue_size=3, show=dict)

        async def connected() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async def gone(_: Message) -> None:
            raise OSError

        for _ in range(3):
            client = hub.join(Filter(), "192.0.2.1")
            stream = hub.stream(client, replay=None)
            answer = Watching(stream, gone=functools.partial(hub.leave, client))
            with pytest.RaisesGroup(OSError, allow_unwrapped=True, flatten_subgroups=True):
                await answer({"type": "http"}, connected, gone)
            assert hub.clients == 0

    asyncio.run(scenario())
