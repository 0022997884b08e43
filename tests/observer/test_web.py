"""The HTTP side over real sockets: pages, filters, headers, export, events, hostile text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from attestation import chain
from attestation.checkpoint import verify_checkpoint
from attestation.wire import observer_pb2 as pb
from observer.app import Running
from observer.config import Limits
from observer.security import CONTENT_SECURITY_POLICY
from observer.store import StoreError
from observer.store.store import LOOKS
from tests.observer.conftest import Serve
from tests.observer.fake_agent import DEADLINE, FakeBoot, FakeStream, connect
from tests.observer.fake_trust import FakeTrust

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE records;--",
    "line\nbreak\r\n\r\ndata: {}\n\nevent: decisions",
    "nul\x00 esc\x1b[31m \u202egnp.exe \u2028 \U0001f4a9",
    "100% _under\\score",
)

Scenario = Callable[[Running, httpx.AsyncClient], Awaitable[None]]


@contextlib.asynccontextmanager
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{running.http}", timeout=DEADLINE) as made:
        yield made


@contextlib.asynccontextmanager
async def sent(running: Running, boot: FakeBoot) -> AsyncIterator[FakeStream]:
    """A stream over which all records of the boot have come in."""
    async with connect(running.grpc) as stream:
        await stream.open(boot)
        await stream.acked(boot.batch(1))
        yield stream


def run(pages: Serve, scenario: Scenario, **config: Any) -> None:
    async def main() -> None:
        async with pages(**config) as running, client(running) as http:
            await scenario(running, http)

    asyncio.run(main())


async def listed(http: httpx.AsyncClient, **query: Any) -> list[int]:
    answer = await http.get("/api/decisions", params=query)
    assert answer.status_code == 200, answer.text
    return [d["seq"] for d in answer.json()["decisions"]]


# -- decisions -----------------------------------------------------------------------------


def test_decisions_are_listed_newest_first_and_paged_by_id(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        assert (await http.get("/api/decisions")).json() == {"decisions": [], "before": None}
        async with sent(running, boot):
            assert await listed(http) == list(range(10, 0, -1))
            seen, before = [], None
            while True:
                query = {"limit": 4} | ({"before": before} if before else {})
                page = (await http.get("/api/decisions", params=query)).json()
                seen += [d["seq"] for d in page["decisions"]]
                before = page["before"]
                if before is None:
                    break
            assert seen == list(range(10, 0, -1))

    run(pages, scenario)


@pytest.fixture
def varied(trust: FakeTrust) -> FakeBoot:
    """Seven decisions that differ in everything that can be filtered by."""
    boot = FakeBoot()
    trust.believe(boot)
    boot.decide(1)
    boot.decide(1, model="qwen")
    boot.decide(1, principal=("Agent", "bot"))
    boot.decide(1, phase="response")
    boot.decide(1, outcome="deny", reasons=("no-secrets", "claim_missing:pii_found"))
    boot.decide(1, outcome="redact", reasons=('a "quoted" reason',), model="100%_done")
    boot.decide(1, request_id="req-SEARCHED")
    return boot


FILTERS: list[tuple[dict[str, str], list[int]]] = [
    ({}, [7, 6, 5, 4, 3, 2, 1]),
    ({"agent": "agent-1"}, [7, 6, 5, 4, 3, 2, 1]),
    ({"agent": "agent-2"}, []),
    ({"model": "qwen"}, [2]),
    ({"model": "qwe"}, []),
    ({"principal": 'Agent::"bot"'}, [3]),
    ({"phase": "response"}, [4]),
    ({"outcome": "deny"}, [5]),
    ({"reason": "no-secrets"}, [5]),
    ({"reason": "claim_missing:pii_found"}, [5]),
    ({"reason": "no-secret"}, []),
    ({"reason": 'a "quoted" reason'}, [6]),
    ({"q": "searched"}, [7]),
    ({"q": "SEARCHED"}, [7]),
    ({"q": "bot"}, [3]),
    ({"q": '"quoted"'}, [6]),
    ({"q": "0%_d"}, [6]),
    ({"q": "%"}, [6]),
    ({"q": "claim_missing"}, [5]),
    ({"q": "', "}, []),
    ({"outcome": "deny", "model": "qwen"}, []),
    ({"outcome": "deny", "q": "secret"}, [5]),
    ({"agent": "", "q": ""}, [7, 6, 5, 4, 3, 2, 1]),
]


def test_a_filter_finds_exactly_what_it_names(pages: Serve, varied: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, varied):
            for query, expected in FILTERS:
                assert await listed(http, **query) == expected, query
                export = await http.get("/api/export", params=query)
                found = [json.loads(line)["seq"] for line in export.text.splitlines()]
                assert found == expected, query

    run(pages, scenario)


def test_a_filter_that_finds_little_says_where_to_go_on(
    pages: Serve, boot: FakeBoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("observer.queries.SLICE", 2)
    monkeypatch.setattr("observer.queries.SLICES", 2)

    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot):
            page = (await http.get("/api/decisions", params={"outcome": "deny"})).json()
            assert page == {"decisions": [], "before": 7}
            page = (await http.get("/api/decisions", params={"q": "000001", "before": 7})).json()
            assert page["before"] == 3
            export = (await http.get("/api/export", params={"outcome": "proceed"})).text
            assert len(export.splitlines()) == 10

    run(pages, scenario)


NONSENSE = [
    {"colour": "red"},
    {"phase": "never"},
    {"outcome": "maybe"},
    {"limit": "0"},
    {"limit": "501"},
    {"limit": "many"},
    {"limit": "-1"},
    {"before": "x"},
    {"before": "9" * 40},
    {"q": "x" * 201},
    {"q": "nul\x00"},
]


def test_a_query_that_cannot_be_meant_is_refused_with_a_reason(pages: Serve) -> None:
    async def scenario(_running: Running, http: httpx.AsyncClient) -> None:
        for query in NONSENSE:
            answer = await http.get("/api/decisions", params=query)
            assert answer.status_code == 400, query
            assert answer.json()["error"]["message"]

    run(pages, scenario)


def test_one_decision_shows_everything_and_its_place_in_the_chain(
    pages: Serve, boot: FakeBoot
) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot) as stream:
            await stream.send(boot.checkpoint(5))
            await stream.settled_at(boot, 10)
            for seq, covered in ((1, True), (5, True), (6, False)):
                shown = (await http.get(f"/api/decisions/{boot.boot_id.hex()}/{seq}")).json()
                place = shown["chain"]
                assert place["checkpoint_covers"] is covered
                if covered:
                    assert place["checkpoint"]["recovered_by"] is None
                    cose = bytes.fromhex(place["checkpoint"]["cose"])
                    signed = verify_checkpoint(cose, boot.key.public_key())
                    assert (signed.seq, signed.head) == (5, boot.heads[5])
                else:
                    assert place["checkpoint"] is None
                assert place["previous_head"] == boot.heads[seq - 1].hex()
                assert place["head"] == boot.heads[seq].hex()
                raw = bytes.fromhex(place["raw"])
                assert chain.advance(boot.heads[seq - 1], raw) == boot.heads[seq]
            assert shown["claims"] == {"pii_found": False, "pii_types": []}
            assert shown["coverage"]["seen"] == 12
            assert shown["latency_us"] == {"detect": 41, "policy": 27}
            assert shown["texts"] == [{"sha256": "00" * 32, "size": 12}]
            assert shown["bundle"] == {"name": "demo", "version": "1", "digest": "00" * 32}
            assert shown["attestation"]["passport"]["simulated"] is True

    run(pages, scenario)


def test_what_a_later_boot_signed_is_not_shown_as_the_boots_own_word(
    pages: Serve, boot: FakeBoot, trust: FakeTrust
) -> None:
    crashed = FakeBoot()
    crashed.decide(3)

    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with connect(running.grpc) as stream:
            await stream.open(boot, crashed)
            await stream.acked(crashed.batch(1))
            await stream.send(crashed.checkpoint(3, key=boot.key, recovered_by=boot.boot_id))
            await stream.settled_at(crashed, 3)
            shown = (await http.get(f"/api/decisions/{crashed.boot_id.hex()}/2")).json()
            assert shown["chain"]["checkpoint"]["seq"] == 3
            assert shown["chain"]["checkpoint"]["recovered_by"] == boot.boot_id.hex()

    run(pages, scenario)


NOWHERE = ["00/1", "zz/1", "{boot}/11", "{boot}/0", "{boot}/x", "{boot}/²"]


def test_a_decision_or_alarm_that_is_not_there_is_a_404(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot):
            for place in NOWHERE:
                path = "/api/decisions/" + place.format(boot=boot.boot_id.hex())
                assert (await http.get(path)).status_code == 404, place
            for number in ("0", "7", "x", "-1", "²", "9" * 19, "9" * 5000):
                answer = await http.get(f"/api/alarms/{number}")
                assert (answer.status_code, answer.json()["error"]["code"]) == (
                    404,
                    "alarm_unknown",
                )

    run(pages, scenario)


def test_an_export_is_the_bytes_that_are_chained(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot):
            answer = await http.get("/api/export")
            assert answer.headers["content-type"] == "application/x-ndjson"
            assert "attachment" in answer.headers["content-disposition"]
            lines = [json.loads(line) for line in answer.text.splitlines()]
            assert [bytes.fromhex(line["raw"]) for line in lines] == boot.records[::-1]
            assert lines[0]["head"] == boot.heads[10].hex()

    run(pages, scenario)


# -- agents --------------------------------------------------------------------------------


def test_agents_show_what_attests_them_and_how_far_they_are_proven(
    pages: Serve, boot: FakeBoot
) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot) as stream:
            await stream.send(boot.checkpoint(7))
            await stream.settled_at(boot, 10)
            (agent,) = (await http.get("/api/agents")).json()["agents"]
            assert (agent["agent"], agent["connected"], agent["lag"]) == ("agent-1", True, 0)
            assert agent["passport"]["tee_name"] == "Simulated TEE"
            assert agent["passport"]["simulated"] is True
            assert agent["passport"]["hardware_attested"] is False
            assert agent["passport"]["expired"] is False
            (shown,) = agent["boots"]
            assert shown["boot"] == agent["boot"] == boot.boot_id.hex()
            assert bytes.fromhex(shown["boot_seed"]) == boot.seed
            assert (shown["verified_seq"], shown["checkpoint_seq"]) == (10, 7)
            assert shown["head"] == boot.heads[10].hex()
            assert agent["alarms"] == []
        async with connect(running.grpc) as stream:
            await stream.open(boot)
            boot.decide(5)
            await stream.acked(boot.batch(11, 12))
            await stream.send(heartbeat(boot.last_seq))
            await stream.settled_at(boot, 12)
            (agent,) = (await http.get("/api/agents")).json()["agents"]
            assert (agent["lag"], agent["state"]) == (3, "serving")

    run(pages, scenario)


def heartbeat(durable_seq: int) -> Any:
    return pb.AgentMessage(heartbeat=pb.Heartbeat(durable_seq=durable_seq, state="serving"))


def test_alarms_are_on_their_agent_and_strangers_are_not(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot) as stream:
            await stream.refused(boot.checkpoint(5, head=bytes(32)))
        async with connect(running.grpc) as stream:
            liar = FakeBoot(passport=b"made up")
            await stream.refused(liar.hello())
        (agent,) = (await http.get("/api/agents")).json()["agents"]
        assert [a["code"] for a in agent["alarms"]] == ["fork"]
        alarms = (await http.get("/api/alarms")).json()["alarms"]
        assert sorted(a["code"] for a in alarms) == ["fork", "untrusted"]
        number = agent["alarms"][0]["id"]
        evidence = (await http.get(f"/api/alarms/{number}")).json()["evidence"]
        assert bytes.fromhex(evidence).startswith(b"\xd2\x84")  # the COSE_Sign1 that was sent
        assert (await http.get("/api/alarms/999")).status_code == 404

    run(pages, scenario)


# -- events --------------------------------------------------------------------------------


class Events:
    """Reads server-sent events one by one."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self, name: str) -> tuple[str | None, Any]:
        """The next event of this name: its id and data."""
        async with asyncio.timeout(DEADLINE):
            found: dict[str, str] = {}
            async for line in self._lines:
                field, _, value = line.partition(": ")
                if line:
                    found[field] = value
                elif found.get("event") == name:
                    return found.get("id"), json.loads(found["data"])
                else:
                    found = {}
        raise AssertionError(f"the stream ended before {name!r}")


@contextlib.asynccontextmanager
async def events(
    http: httpx.AsyncClient, last: str | None = None, **query: str
) -> AsyncIterator[Events]:
    headers = {} if last is None else {"last-event-id": last}
    async with http.stream("GET", "/api/events", params=query, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        reader = Events(answer)
        await reader.next("hello")
        yield reader


def test_decisions_are_pushed_as_they_are_committed(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with events(http) as watching, connect(running.grpc) as stream:
            await stream.open(boot)
            await stream.acked(boot.batch(1, 4))
            number, bunch = await watching.next("decisions")
            assert [d["seq"] for d in bunch] == [1, 2, 3, 4]
            assert number == str(bunch[-1]["id"])
            await stream.acked(boot.batch(3, 6))
            _, bunch = await watching.next("decisions")
            assert [d["seq"] for d in bunch] == [5, 6]
            assert bunch == (await http.get("/api/decisions?limit=2")).json()["decisions"][::-1]

    run(pages, scenario)


def test_a_page_is_sent_only_what_passes_its_filter(pages: Serve, varied: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with events(http, outcome="deny") as watching, sent(running, varied):
            _, bunch = await watching.next("decisions")
            assert [d["seq"] for d in bunch] == [5]

    run(pages, scenario)


def test_a_page_that_lost_its_connection_goes_on_after_its_last_event(
    pages: Serve, boot: FakeBoot
) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with connect(running.grpc) as stream:
            await stream.open(boot)
            async with events(http) as watching:
                await stream.acked(boot.batch(1, 3))
                number, _ = await watching.next("decisions")
            await stream.acked(boot.batch(4, 7))
            async with events(http, last=number) as watching:
                _, bunch = await watching.next("decisions")
                assert [d["seq"] for d in bunch] == [4, 5, 6, 7]
                await stream.acked(boot.batch(8, 10))
                _, bunch = await watching.next("decisions")
                assert [d["seq"] for d in bunch] == [8, 9, 10]

    run(pages, scenario)


def test_a_page_that_was_away_for_too_long_is_told_what_it_missed(
    pages: Serve, boot: FakeBoot
) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot), events(http, last="1") as watching:
            _, missed = await watching.next("missed")
            assert missed == {"count": 5}
            _, bunch = await watching.next("decisions")
            assert [d["seq"] for d in bunch] == [7, 8, 9, 10]

    run(pages, scenario, limits=Limits(event_queue=4))


def test_changes_of_agents_and_alarms_are_announced(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with events(http) as watching, sent(running, boot) as stream:
            await watching.next("agents")
            await stream.refused(boot.checkpoint(5, head=bytes(32)))
            await watching.next("alarms")

    run(pages, scenario)


def test_pages_beyond_the_limit_are_sent_away(pages: Serve) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with events(http):
            assert (await http.get("/api/events")).status_code == 503
        assert running.hub.clients <= 1

    run(pages, scenario, limits=Limits(event_clients=1))


# -- hostile text, headers -----------------------------------------------------------------


def test_hostile_text_comes_out_as_the_same_text(pages: Serve, trust: FakeTrust) -> None:
    boot = FakeBoot(agent_id='agent <b onload="x">')
    trust.believe(boot)
    for text in HOSTILE:
        boot.decide(
            1, model=text, principal=("User", text), reasons=(text,), claims={text: (text,)}
        )

    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with events(http) as watching, sent(running, boot):
            _, pushed = await watching.next("decisions")
            answer = await http.get("/api/decisions")
            assert answer.headers["content-type"] == "application/json"
            rows = answer.json()["decisions"][::-1]
            assert pushed == rows
            for seq, (text, row) in enumerate(zip(HOSTILE, rows, strict=True), start=1):
                shown = text.replace("\x00", "\ufffd")
                assert row["model"] == shown
                assert row["reasons"] == [shown]
                whole = (await http.get(f"/api/decisions/{row['boot']}/{seq}")).json()
                assert whole["model"] == text
                assert whole["claims"] == {text: [text]}
                if "\x00" not in text:
                    assert await listed(http, model=text) == [seq]
                    assert await listed(http, reason=text) == [seq]
                    assert seq in await listed(http, q=text)
            page = (await http.get("/", params={"q": HOSTILE[0]})).text
            assert "alert(1)" not in page

    run(pages, scenario)


PATHS = [
    "/",
    "/static/app.js",
    "/static/style.css",
    "/api/decisions",
    "/api/decisions?limit=x",
    "/api/agents",
    "/api/alarms",
    "/api/export",
    "/healthz",
    "/metrics",
    "/nothing",
    "/static/../web.py",
]


def test_every_answer_carries_the_security_headers(pages: Serve) -> None:
    async def scenario(_running: Running, http: httpx.AsyncClient) -> None:
        for path in PATHS:
            headers = (await http.get(path)).headers
            assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY, path
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers
            assert headers["cache-control"]

    run(pages, scenario)


FOREIGN = ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io"]


def test_a_name_that_is_not_ours_is_refused(pages: Serve) -> None:
    """DNS rebinding: a foreign page must not read decisions with a visitor's browser."""

    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        for asked in (name for host in FOREIGN for name in (host, f"{host}:{running.http.port}")):
            answer = await http.get("/api/decisions", headers={"host": asked})
            assert answer.status_code in {400, 421}

    run(pages, scenario)


def test_our_own_names_are_answered(pages: Serve) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        for host in (
            "localhost",
            f"LOCALHOST:{running.http.port}",
            "[::1]:80",
            "obs.internal",
        ):
            assert (await http.get("/healthz", headers={"host": host})).status_code == 200

    run(pages, scenario, allowed_hosts=("obs.internal",))


def test_nothing_can_be_written_over_http(pages: Serve) -> None:
    async def scenario(_running: Running, http: httpx.AsyncClient) -> None:
        for path in ("/api/decisions", "/api/agents", "/api/alarms", "/"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                assert (await http.request(method, path)).status_code == 405

    run(pages, scenario)


# -- health --------------------------------------------------------------------------------


def test_readiness_follows_the_database(
    pages: Serve, boot: FakeBoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        assert (await http.get("/readyz")).status_code == 200
        running.store.healthy = False
        assert (await http.get("/readyz")).status_code == 503
        running.store.healthy = True

        async def broken(_query: object) -> None:
            raise StoreError("disk I/O error")

        monkeypatch.setattr(running.store, "read", broken)
        assert (await http.get("/healthz")).status_code == 200
        for path in ("/readyz", "/api/decisions", "/api/agents", "/api/export"):
            answer = await http.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "database"

    run(pages, scenario)


def test_metrics_count_and_name_no_agent(pages: Serve, boot: FakeBoot) -> None:
    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        async with sent(running, boot) as stream:
            await stream.refused(boot.checkpoint(5, head=bytes(32)))
        text = (await http.get("/metrics")).text
        assert "lucid_observer_records_total 10.0" in text
        assert 'lucid_observer_alarms_total{code="fork"} 1.0' in text
        assert 'lucid_observer_nacks_total{code="FORK"} 1.0' in text
        assert boot.agent_id not in text

    run(pages, scenario)


def test_a_page_that_stays_open_does_not_keep_the_observer_from_stopping(pages: Serve) -> None:
    async def main() -> None:
        async with pages() as running, client(running) as http:
            stack = contextlib.AsyncExitStack()
            await stack.enter_async_context(events(http))
            address = (running.http.host, running.http.port)
            # A peer that never reads its answer.
            silent = socket.create_connection(address)
            silent.sendall(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            await stack.aclose()
        silent.close()

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    asyncio.run(bounded())


def test_searches_leave_the_database_to_the_agents(
    pages: Serve, boot: FakeBoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many people search at once, and however long it takes."""
    slow = 2 * LOOKS

    async def scenario(running: Running, http: httpx.AsyncClient) -> None:
        plain, held, let_go, full = running.store.read, [], asyncio.Event(), asyncio.Event()

        async def read(query: Any) -> Any:
            if "LIKE" in str(query):
                held.append(query)
                if len(held) == LOOKS:
                    full.set()
                await let_go.wait()
            return await plain(query)

        monkeypatch.setattr(running.store, "read", read)
        searches = [
            asyncio.ensure_future(http.get("/api/decisions", params={"q": "x"}))
            for _ in range(slow)
        ]
        async with asyncio.timeout(DEADLINE):
            await full.wait()
        async with sent(running, boot):
            assert len(held) == LOOKS
        let_go.set()
        assert {answer.status_code for answer in await asyncio.gather(*searches)} == {200}

    run(pages, scenario)
