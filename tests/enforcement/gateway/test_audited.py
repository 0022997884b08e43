"""Auditors behind the gateway: what goes wrong with one has one outcome, documented."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from enforcement.auditors.breaker import Rules
from enforcement.auditors.client import AuditorSettings
from enforcement.auditors.panel import AuditorService
from enforcement.gateway.gateway import Gateway, GatewayConfig
from enforcement.identity.callers import Caller
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from enforcement.snapshot import Snapshot
from tests.enforcement.auditors.peers import Peer, claim, error, nowhere, start, success
from tests.enforcement.bundles import SIMULATED, write
from tests.enforcement.gateway.doors import (
    DONE,
    LAST,
    OPEN,
    REPLY,
    STREAM_HEAD,
    ClientSide,
    Journal,
    Reply,
    Script,
    Upstream,
    UpstreamSide,
    answering,
    chunk,
    event,
    http_reply,
    request,
)

MANIFEST = """
name = "audited"
version = "1"
[stream]
hold_back = 256
[claims.injection_risk]
type = "score"
source = "auditor:injection"
phases = ["request"]
[claims.names]
type = "bool"
source = "auditor:people"
phases = ["response"]
[claims.mood]
type = "score"
source = "auditor:mood"
phases = ["request"]
optional = true
[auditors.people]
labels = ["person"]
"""

POLICIES = """
@id("use") permit (principal, action, resource);
@id("injection") @phase("request") forbid (principal, action, resource)
when { context.claims.injection_risk > 7000 };
@id("people") @phase("response") @decision("redact") @redact("person")
forbid (principal, action, resource) when { context.claims.names };
"""


def risk(value: object, kind: str = "score_normalized") -> Callable[[dict[str, Any]], object]:
    return lambda _: success(claim("injection_risk", kind, value))


def people(question: dict[str, Any]) -> object:
    text = question["data"]["output"]
    place = text.find("Anna")
    spans = [{"part": "output", "start": place, "end": place + 4, "label": "person"}]
    found = place >= 0
    return success(claim("names", "boolean", found, metadata={"spans": spans if found else []}))


class Home:
    """A gateway with auditors."""

    def __init__(self, port: int, journal: Journal, upstream: Upstream, service: AuditorService):
        self.port = port
        self.journal = journal
        self.upstream = upstream
        self.service = service

    async def ask(self, data: bytes | None = None) -> Reply:
        client = ClientSide(await trio.open_tcp_stream("127.0.0.1", self.port))
        await client.send(request() if data is None else data)
        reply = await client.reply()
        await client.stream.aclose()
        return reply


@asynccontextmanager
async def audited(
    folder: Path, peers: dict[str, Peer | None], script: Script | None = None, **settings: Any
) -> AsyncIterator[Home]:
    bundle = Bundle.load(write(folder, POLICIES, manifest=MANIFEST))
    log: list[str] = []
    upstream, journal = Upstream(script or answering(http_reply()), log), Journal(log)
    async with trio.open_nursery() as nursery:
        model = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        nursery.start_soon(trio.serve_listeners, upstream.serve, [model])
        urls = {}
        for name, peer in peers.items():
            urls[name] = await nowhere() if peer is None else await start(nursery, peer, None)
        service = AuditorService(
            [AuditorSettings(name=name, url=url, **settings) for name, url in urls.items()]
        )
        await nursery.start(service.run)
        snapshot = Snapshot(
            engine=Engine(bundle),
            bundle=bundle,
            passport_id="pass-0",
            platform=SIMULATED,
            agent_id="agent",
            auditors=service.for_bundle(bundle),
        )
        gateway = Gateway(
            config=GatewayConfig(upstream=f"http://127.0.0.1:{model.socket.getsockname()[1]}"),
            snapshot=lambda: snapshot,
            gate=lambda: OPEN,
            recorder=journal,
            identify=lambda *_: Caller(("User", "alice")),
            passport=lambda: None,
            watch=service.watch,
        )
        door = socket.create_server(("127.0.0.1", 0))
        port = door.getsockname()[1]
        await nursery.start(gateway.serve, [door])
        yield Home(port, journal, upstream, service)
        nursery.cancel_scope.cancel()


GOOD = {"injection": Peer(risk(0.1)), "people": Peer(people), "mood": Peer(lambda _: success())}


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jumps only when nothing has moved for a while: loopback data is never overtaken."""
    return trio.testing.MockClock(autojump_threshold=0.01)


async def test_all_is_well_where_auditors_answer(tmp_path: Path) -> None:
    async with audited(tmp_path, dict(GOOD)) as home:
        reply = await home.ask()
        assert reply.status == 200
        assert json.loads(reply.body) == json.loads(REPLY)
        first, second = home.journal.records
        assert first.claims["injection_risk"] == 1000
        assert first.auditors == {"injection": "ok injection_risk=1000", "mood": "ok"}
        assert second.auditors == {"people": "ok names=false"}
        assert "auditor:people" in second.latency_us


async def test_what_an_auditor_says_denies_before_the_model_server_hears_of_it(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path, {**GOOD, "injection": Peer(risk(0.9))}) as home:
        reply = await home.ask()
        assert (reply.status, reply.code) == (403, "injection")
        assert home.upstream.seen == []


async def forever(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + b" " * 65_536 + b"\r\n")


BAD = [
    (None, "unreachable"),
    (Peer(risk(0.1), delay=60.0), "timeout"),
    (Peer(risk("low", "string")), "invalid:injection_risk"),
    (Peer(risk(1.5)), "invalid:injection_risk"),
    (Peer(risk(True, "boolean")), "invalid:injection_risk"),
    (Peer(lambda _: error()), "error:INTERNAL_ERROR"),
    (Peer(lambda _: b"<html>"), "invalid:json"),
    (Peer(raw=forever), "too_large"),
    (Peer(risk(0.1), status=500), "http:500"),
    (Peer(lambda _: success()), "ok"),
]


@pytest.mark.parametrize(("peer", "status"), BAD)
async def test_a_required_auditor_that_fails_is_503_and_on_record(
    tmp_path: Path, autojump_clock: object, peer: Peer | None, status: str
) -> None:
    async with audited(tmp_path, {**GOOD, "injection": peer}, deadline=1.0) as home:
        reply = await home.ask()
        assert (reply.status, reply.code) == (503, "claim_missing:injection_risk")
        assert reply.headers["retry-after"] == "1"
        assert home.upstream.seen == []
        (record,) = home.journal.records
        assert record.auditors["injection"] == status
        assert record.outcome == "deny"


@pytest.mark.parametrize("peer", [None, Peer(lambda _: error()), Peer(delay=60.0)])
async def test_an_optional_auditor_that_fails_stops_nothing(
    tmp_path: Path, autojump_clock: object, peer: Peer | None
) -> None:
    async with audited(tmp_path, {**GOOD, "mood": peer}, deadline=1.0) as home:
        assert (await home.ask()).status == 200


async def test_a_flapping_auditor_harms_only_what_needs_it_while_it_is_down(
    tmp_path: Path, autojump_clock: object
) -> None:
    down = False
    peer = Peer(lambda q: b"" if down else risk(0.1)(q))
    rules = Rules(failures=2, pause=5.0)
    async with audited(tmp_path, {**GOOD, "injection": peer}, breaker=rules) as home:
        seen = []
        for step in range(8):
            down = step in (1, 2, 3)
            if step == 5:
                await trio.sleep(6)
            reply = await home.ask()
            seen.append((reply.status, home.journal.records[-1].auditors.get("injection", "")))
        statuses = [status for status, _ in seen]
        assert statuses == [200, 503, 503, 503, 503, 200, 200, 200]
        assert [text for _, text in seen[1:5]] == [
            "invalid:json", "invalid:json", "circuit_open", "circuit_open",
        ]  # fmt: skip


async def test_one_slow_auditor_does_not_keep_other_requests_waiting(
    tmp_path: Path, autojump_clock: object
) -> None:
    slow = Peer(risk(0.1))
    times = []
    async with audited(tmp_path, {**GOOD, "injection": slow}, deadline=10.0) as home:

        async def one(delay: float) -> None:
            slow.delay = delay
            begin = trio.current_time()
            assert (await home.ask()).status == 200
            times.append(round(trio.current_time() - begin))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 5.0)
            await trio.sleep(1)
            for _ in range(5):
                nursery.start_soon(one, 0.0)
        assert sorted(times) == [0, 0, 0, 0, 0, 5]


async def test_a_reply_is_masked_where_an_auditor_marked_it(tmp_path: Path) -> None:
    body = json.dumps(
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": "I am Anna."}}]}
    ).encode()
    async with audited(tmp_path, dict(GOOD), answering(http_reply(body))) as home:
        reply = await home.ask()
        assert reply.json["choices"][0]["message"]["content"] == "I am [PERSON]."
        assert home.journal.records[1].obligations == {"redact": ("person",)}


def streaming(*parts: str) -> Script:
    async def script(side: UpstreamSide) -> None:
        while await side.next() is not None:
            await side.send(STREAM_HEAD)
            for part in parts:
                await side.send(chunk(event(part)))
            await side.send(chunk(event("", finish="stop")) + chunk(DONE) + LAST)

    return script


async def test_a_reply_that_auditors_look_at_when_the_gateway_stops_is_on_record(
    tmp_path: Path,
) -> None:
    slow = Peer(people, delay=60.0)
    async with audited(tmp_path, {**GOOD, "people": slow}, deadline=60.0) as home:
        client = ClientSide(await trio.open_tcp_stream("127.0.0.1", home.port))
        await client.send(request())
        with trio.fail_after(10):
            await slow.was_asked.wait()
    assert await client.is_closed()
    await client.stream.aclose()
    last = home.journal.records[-1]
    assert (last.phase, last.outcome) == ("response", "deny")
    assert last.reasons == ("upstream:gateway_stopped",)


async def test_a_stream_is_masked_over_its_pieces_and_asks_one_question_at_a_time(
    tmp_path: Path,
) -> None:
    peer = Peer(people, delay=0.01)
    script = streaming("x" * 400, " I am An", "na, he", "llo ", "y" * 400)
    async with audited(tmp_path, {**GOOD, "people": peer}, script) as home:
        reply = await home.ask()
        read = "".join(
            json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            for line in reply.body.decode().split("\n")
            if line.startswith("data: {")
        )
        assert read == "x" * 400 + " I am [PERSON], hello " + "y" * 400
        assert peer.most_under_way == 1
        assert len(peer.asked) >= 2
        lengths = [len(question["data"]["output"]) for question in peer.asked]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize(
    ("peer", "status"), [(None, "unreachable"), (Peer(raw=forever), "too_large")]
)
async def test_a_stream_whose_auditor_fails_is_refused_before_a_byte_leaves(
    tmp_path: Path, autojump_clock: object, peer: Peer | None, status: str
) -> None:
    script = streaming("I am Anna " * 50)
    async with audited(tmp_path, {**GOOD, "people": peer}, script, deadline=1.0) as home:
        reply = await home.ask()
        assert (reply.status, reply.code) == (503, "claim_missing:names")
        assert b"Anna" not in reply.body
        assert home.journal.records[-1].auditors == {"people": status}
