"""The way of a request through the door, over real loopback sockets."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import pytest
import trio

from attestation.records import DecisionRecord
from enforcement.gateway.client import Client
from enforcement.gateway.gateway import GateState, Gateway, GatewayConfig
from enforcement.http.limits import Limits
from enforcement.http.wire import Watch
from enforcement.identity.callers import UNKNOWN
from enforcement.outcome import Outcome, Phase, PolicyRequest, Verdict
from tests.enforcement.exchanges import Policy, always, when_found
from tests.enforcement.gateway.doors import (
    CHAT,
    OPEN,
    REPLY,
    UpstreamSide,
    answering,
    chunk,
    house,
    http_reply,
    request,
)
from tests.panics import Panic


def on(phase: Phase, outcome: Outcome, *labels: str) -> Policy:
    def decide(asked: PolicyRequest) -> Verdict:
        if asked.phase is phase:
            return Verdict(outcome=outcome, reasons=("test",), redact=frozenset(labels))
        return Verdict(outcome=Outcome.PROCEED, reasons=("base",))

    return decide


async def test_a_request_goes_through_and_names_its_decision_and_passport() -> None:
    async with house() as door:
        reply = await door.ask(request(headers=("X-Thing: 1", "Authorization: Bearer k")))
        assert reply.status == 200
        assert reply.json == json.loads(REPLY)
        assert reply.headers["lucid-passport-id"] == "pass-00"
        assert reply.headers["lucid-decision-id"] == door.journal.records[-1].decision_id
        assert door.outcomes == [("request", "proceed"), ("response", "proceed")]
        (seen,) = door.upstream.seen
        assert seen.line == b"POST /v1/chat/completions HTTP/1.1"
        assert json.loads(seen.body) == json.loads(CHAT)
        assert seen.values("authorization") == ["Bearer k"]
        assert seen.values("x-thing") == ["1"]
        assert seen.values("host") == [f"127.0.0.1:{seen.values('host')[0].split(':')[1]}"]
        assert seen.values("content-length") == [str(len(seen.body))]
        assert seen.values("x-forwarded-for") == []
        assert seen.values("accept-encoding") == []
        assert door.gateway.metrics.decisions == {
            ("request", "proceed"): 1,
            ("response", "proceed"): 1,
        }
        assert door.gateway.metrics.by_outcome() == {"proceed": 2}


async def test_the_order_is_append_send_on_append_durable_reply() -> None:
    async with house() as door:
        await door.ask()
        assert door.log[:4] == [
            "append request proceed",
            "upstream got a request",
            "append response proceed",
            "durable 2",
        ]


async def test_no_byte_of_a_reply_leaves_before_its_decision_is_durable() -> None:
    async with house() as door:
        door.journal.hold = trio.Event()
        client = await door.connect()
        await client.send(request())
        with trio.move_on_after(0.05):
            await client.more()
        assert client.buffer == b""
        assert door.outcomes == [("request", "proceed"), ("response", "proceed")]
        door.journal.hold.set()
        assert (await client.reply()).status == 200


async def test_a_denied_request_is_refused_after_its_record_and_never_sent_on() -> None:
    async with house(policy=always(Outcome.DENY)) as door:
        door.journal.hold = trio.Event()
        client = await door.connect()
        await client.send(request())
        with trio.move_on_after(0.05):
            await client.more()
        assert client.buffer == b""
        door.journal.hold.set()
        reply = await client.reply()
        assert reply.status == 403
        assert reply.headers["lucid-decision-id"] == door.journal.records[0].decision_id
        assert reply.json["error"]["decision_id"] == door.journal.records[0].decision_id
        assert door.upstream.connections == 0
        # The refusal ends the request, not the connection.
        await client.send(request())
        assert (await client.reply()).status == 403


async def test_a_denied_reply_is_not_seen_by_the_client() -> None:
    async with house(policy=on(Phase.RESPONSE, Outcome.DENY)) as door:
        reply = await door.ask()
        assert reply.status == 403
        assert b"choices" not in reply.body
        assert door.outcomes == [("request", "proceed"), ("response", "deny")]


async def test_a_reply_is_redacted_and_its_length_is_the_new_one() -> None:
    secret = json.dumps(
        {"choices": [{"index": 0, "message": {"content": "write to bob@example.com now"}}]}
    ).encode()
    upstream = answering(
        http_reply(secret, headers=("Content-Type: application/json", 'ETag: "abc"'))
    )
    async with house(upstream, policy=when_found(Outcome.REDACT, "email")) as door:
        reply = await door.ask()
        assert reply.json["choices"][0]["message"]["content"] == "write to [EMAIL] now"
        assert int(reply.headers["content-length"]) == len(reply.body)
        assert "etag" not in reply.headers
        assert b"bob@" not in reply.body


async def test_a_warning_is_a_header() -> None:
    async with house(policy=on(Phase.REQUEST, Outcome.WARN)) as door:
        assert (await door.ask()).headers["lucid-warning"] == "test"


async def test_unknown_routes_are_refused_recorded_and_never_sent_on() -> None:
    async with house() as door:
        for target in ("/", "/v1/chat/completions/", "//v1/chat/completions", "/v1/%63hat"):
            reply = await door.ask(request(target=target))
            assert (reply.status, reply.code) == (404, "unknown_route")
            assert reply.headers["connection"] == "close"  # its body was not read
        assert door.outcomes == [("request", "deny")] * 4
        assert door.upstream.connections == 0


async def test_an_unknown_route_without_a_body_keeps_the_connection() -> None:
    async with house() as door:
        client = await door.connect()
        await client.send(request(b"", method="GET", target="/nothing"))
        assert (await client.reply()).status == 404
        await client.send(request())
        assert (await client.reply()).status == 200


async def test_a_query_string_is_refused() -> None:
    async with house() as door:
        reply = await door.ask(request(target="/v1/chat/completions?x=1"))
        assert (reply.status, reply.code) == (400, "query_not_supported")
        assert door.upstream.connections == 0


async def test_a_refusal_to_head_has_no_body() -> None:
    async with house() as door:
        client = await door.connect()
        await client.send(request(b"", method="HEAD", target="/x", close=True))
        assert (await client.rest()).endswith(b"\r\n\r\n")


async def test_get_models_is_sent_on_without_a_body() -> None:
    models = json.dumps({"object": "list", "data": []}).encode()
    async with house(answering(http_reply(models))) as door:
        reply = await door.ask(request(b"", method="GET", target="/v1/models"))
        assert reply.json == {"object": "list", "data": []}
        assert door.upstream.seen[0].values("content-length") == []


async def test_nobody_known_is_refused() -> None:
    async with house(principal=None) as door:
        reply = await door.ask()
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert door.upstream.connections == 0


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/chat/completions?x=1"])
async def test_who_is_refused_by_the_head_has_no_body_read(target: str) -> None:
    """Nobody known may fill the memory that all connections share."""
    async with house(principal=None) as door:
        client = await door.connect()
        wire = request(b"x" * 1_000_000, target=target)
        await client.send(wire[:70_000])
        reply = await client.reply()
        assert reply.status in (400, 401)
        assert reply.headers["connection"] == "close"
        assert door.gateway.metrics.request_bytes == 0
        assert door.outcomes == [("request", "deny")]


async def test_malformed_json_is_refused_and_the_connection_goes_on() -> None:
    async with house() as door:
        client = await door.connect()
        await client.send(request(b"{nope"))
        assert (await client.reply()).status == 400
        await client.send(request())
        assert (await client.reply()).status == 200
        assert door.outcomes[0] == ("request", "deny")


async def test_requests_on_one_connection_share_one_upstream_connection() -> None:
    async with house() as door:
        client = await door.connect()
        for _ in range(5):
            await client.send(request())
            assert (await client.reply()).status == 200
        assert door.upstream.connections == 1
        assert len(door.upstream.seen) == 5


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo(side: UpstreamSide) -> None:
        while (seen := await side.next()) is not None:
            text = json.loads(seen.body)["messages"][0]["content"]
            await side.send(http_reply(json.dumps({"choices": [{"text": text}]}).encode()))

    def ask(number: int) -> bytes:
        message = {"role": "user", "content": f"number {number}"}
        return request(json.dumps({"model": "m", "messages": [message]}).encode())

    async with house(echo) as door:
        client = await door.connect()
        await client.send(b"".join(ask(number) for number in range(20)))
        for number in range(20):
            assert (await client.reply()).json["choices"][0]["text"] == f"number {number}"


async def test_pipelined_requests_behind_a_chunked_one_are_found() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    first = head + chunk(CHAT[:7]) + chunk(CHAT[7:]) + b"0\r\n\r\n"
    async with house() as door:
        client = await door.connect()
        await client.send(first + first + request(close=True))
        for _ in range(3):
            assert (await client.reply()).status == 200
        assert await client.is_closed()
        assert [json.loads(seen.body) for seen in door.upstream.seen] == [json.loads(CHAT)] * 3
        assert all(seen.values("transfer-encoding") == [] for seen in door.upstream.seen)


async def test_a_request_split_at_any_byte_is_the_same_request() -> None:
    wire = request(headers=("Expect: 100-continue", "X-Request-Id: abc"))
    wire = wire.replace(b"Expect: 100-continue\r\n", b"")
    async with house() as door:
        client = await door.connect()
        for cut in range(1, len(wire)):
            await client.send(wire[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await client.send(wire[cut:])
            assert (await client.reply()).status == 200
        assert len(door.upstream.seen) == len(wire) - 1


async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    async with house() as door:
        client = await door.connect()
        for byte in request():
            await client.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert (await client.reply()).status == 200


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with house() as door:
        client = await door.connect()
        wire = request(headers=("Expect: 100-continue",))
        head, _, body = wire.partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.more() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.buffer = b""
        await client.send(body)
        assert (await client.reply()).status == 200
        assert door.upstream.seen[0].values("expect") == []


async def test_a_refused_body_is_not_asked_for() -> None:
    async with house(limits=Limits(body_bytes=1000)) as door:
        client = await door.connect()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Content-Length: 1001\r\n\r\n"
        )
        assert (await client.reply()).code == "body_too_large"


async def test_an_oversized_body_is_refused_and_recorded() -> None:
    async with house(limits=Limits(body_bytes=1000)) as door:
        client = await door.connect()
        await client.send(request(b"x" * 1001))
        reply = await client.reply()
        assert (reply.status, reply.code) == (413, "body_too_large")
        assert reply.headers["connection"] == "close"
        assert door.outcomes == [("request", "deny")]
        await client.stream.send_eof()
        assert await client.is_closed()


async def test_a_large_body_goes_through() -> None:
    message = {"role": "user", "content": "word " * 400_000}
    body = json.dumps({"model": "m", "messages": [message]}).encode()
    async with house() as door:
        assert (await door.ask(request(body))).status == 200
        assert json.loads(door.upstream.seen[0].body) == json.loads(body)
        assert door.gateway.metrics.buffered_bytes == 0


async def test_a_large_reply_goes_through() -> None:
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "word " * 400_000}}]})
    async with house(answering(http_reply(body.encode()))) as door:
        assert (await door.ask()).json == json.loads(body)
        assert door.gateway.metrics.buffered_bytes == 0


async def test_large_bodies_are_bounded_over_all_connections() -> None:
    async with house(limits=Limits(buffered_bytes=300_000)) as door:
        first, second = await door.connect(), await door.connect()
        wire = request(b"x" * 200_000)
        await first.send(wire[:199_000])
        await trio.testing.wait_all_tasks_blocked(0.05)
        await second.send(wire[:199_000])
        reply = await second.reply()
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.headers["retry-after"] == "1"
        await first.stream.aclose()


async def test_a_closed_gate_refuses_without_reading_the_body() -> None:
    closed = GateState(open=False, code="attestation_expired", message="the passport has ended")
    async with house(gate=lambda: closed) as door:
        client = await door.connect()
        await client.send(request(b"x" * 1000)[:-500])
        reply = await client.reply()
        assert (reply.status, reply.code) == (503, "attestation_expired")
        assert reply.headers["connection"] == "close"
        assert door.journal.records == []
        assert door.gateway.metrics.refusals == {("attestation_expired",): 1}


async def test_the_gate_is_asked_for_each_request() -> None:
    state = [OPEN]
    async with house(gate=lambda: state[0]) as door:
        client = await door.connect()
        await client.send(request())
        assert (await client.reply()).status == 200
        state[0] = GateState(open=False, code="not_ready", message="starting")
        await client.send(request())
        assert (await client.reply()).code == "not_ready"


async def test_what_cannot_be_recorded_is_not_sent_on() -> None:
    async with house() as door:
        door.journal.append_fails = True
        reply = await door.ask()
        assert (reply.status, reply.code) == (503, "journal_unavailable")
        assert door.upstream.connections == 0


async def test_a_reply_whose_record_is_not_durable_does_not_leave() -> None:
    async with house() as door:
        door.journal.durable_fails = True
        reply = await door.ask()
        assert (reply.status, reply.code) == (503, "journal_unavailable")
        assert b'"hi"' not in reply.body


async def test_a_denial_whose_record_is_not_durable_is_still_a_refusal() -> None:
    async with house(policy=always(Outcome.DENY)) as door:
        door.journal.durable_fails = True
        assert (await door.ask()).code == "journal_unavailable"


async def test_the_passport_is_served_even_while_the_gate_is_closed() -> None:
    closed = GateState(open=False, code="not_ready", message="starting")
    tokens = [None, b"\xd2\x84passport"]
    get = request(b"", method="GET", target="/.well-known/lucid/passport")
    async with house(gate=lambda: closed, passport=lambda: tokens[0]) as door:
        client = await door.connect()
        await client.send(get)
        assert (await client.reply()).code == "passport_unavailable"
        tokens.pop(0)
        await client.send(get)
        reply = await client.reply()
        assert reply.status == 200
        assert reply.body == b"\xd2\x84passport"
        assert reply.headers["content-type"] == "application/eat+cwt"
        assert reply.headers["cache-control"] == "no-store"
        assert door.journal.records == []


async def test_a_harmless_request_id_comes_back_and_no_other() -> None:
    upstream = answering(
        http_reply(headers=("Content-Type: application/json", "X-Request-Id: theirs"))
    )
    async with house(upstream) as door:
        reply = await door.ask(request(headers=("X-Request-Id: mine-1",)))
        assert reply.headers["x-request-id"] == "mine-1"
        assert door.upstream.seen[0].values("x-request-id") == ["mine-1"]
        reply = await door.ask(request(headers=("X-Request-Id: <script>",)))
        assert reply.headers["x-request-id"] == "theirs"
        assert all("mine" not in record.request_id for record in door.journal.records)


async def test_a_trace_goes_on_in_both_records() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with house() as door:
        await door.ask(request(headers=(f"traceparent: 00-{trace}-00f067aa0ba902b7-01",)))
        first, second = door.journal.records
        assert first.trace_id == second.trace_id == trace
        assert first.request_id == second.request_id
        await door.ask()
        assert door.journal.records[2].trace_id != trace


async def test_forged_lucid_fields_go_neither_way() -> None:
    upstream = answering(
        http_reply(headers=("Content-Type: application/json", "Lucid-Warning: forged"))
    )
    async with house(upstream) as door:
        reply = await door.ask(request(headers=("Lucid-Decision-Id: forged",)))
        assert "lucid-warning" not in reply.headers
        assert reply.headers["lucid-decision-id"].startswith("dec-")
        assert door.upstream.seen[0].values("lucid-decision-id") == []


async def test_an_http_1_0_client_is_answered_and_closed() -> None:
    async with house() as door:
        client = await door.connect()
        body = CHAT
        head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
        await client.send(head + body)
        reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert await client.is_closed()


async def test_a_client_that_hangs_up_inside_a_request_is_let_go() -> None:
    async with house() as door:
        for cut in (1, 30, len(request()) - 1):
            client = await door.connect()
            await client.send(request()[:cut])
            await client.stream.send_eof()
            reply = await client.reply()
            assert reply.code in ("http_head_cut", "http_body_cut")
            assert await client.is_closed()
        client = await door.connect()
        await client.stream.send_eof()
        assert await client.is_closed()
        assert door.upstream.connections == 0


async def test_a_client_that_resets_inside_a_request_harms_nobody() -> None:
    async with house() as door:
        for cut in (0, 1, 30, len(request()) - 1, len(request())):
            client = await door.connect()
            await client.send(request()[:cut])
            await trio.testing.wait_all_tasks_blocked()
            client.reset()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await door.ask()).status == 200
        assert door.gateway.metrics.internal_errors == 0


@pytest.mark.parametrize("half", [True, False])
async def test_a_client_gone_while_the_model_works_ends_the_models_work(half: bool) -> None:
    async def slow(side: UpstreamSide) -> None:
        await side.next()
        await side.closed()

    async with house(slow) as door:
        client = await door.connect()
        await client.send(request())
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert door.upstream.ended == 0
        if half:
            await client.stream.send_eof()
        else:
            client.reset()
        with trio.fail_after(5):
            while not door.upstream.ended:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert door.outcomes == [("request", "proceed"), ("response", "deny")]
        assert door.journal.records[1].coverage.complete is False
        assert door.gateway.metrics.client_gone == 1


async def test_a_client_gone_does_not_spoil_the_next_one_on_the_same_upstream() -> None:
    """Whoever hangs up after its reply has come must not wake the connection's next user."""
    async with house() as door:
        for _ in range(30):
            client = await door.connect()
            await client.send(request())
            await client.stream.send_eof()
            client.reset()
            assert (await door.ask()).status == 200
        assert door.gateway.metrics.internal_errors == 0


async def test_too_many_connections_are_told_so() -> None:
    async with house(limits=Limits(connections=2)) as door:
        first, second = await door.connect(), await door.connect()
        await first.send(request())
        assert (await first.reply()).status == 200
        third = await door.connect()
        reply = await third.reply()
        assert (reply.status, reply.code) == (503, "too_many_connections")
        assert reply.headers["retry-after"] == "1"
        await third.stream.aclose()
        await second.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (await door.ask()).status == 200


class _Unwilling(socket.socket):
    def accept(self) -> tuple[socket.socket, Any]:
        raise OSError(errno.EPERM, "by rule of a firewall")


async def test_a_socket_that_takes_nobody_stops_nobody_else() -> None:
    async with house(also=[_Unwilling()]) as door:
        for _ in range(3):
            assert (await door.ask()).status == 200


@pytest.mark.parametrize("fault", [RuntimeError, Panic])
async def test_a_fault_of_our_own_ends_one_exchange_with_500(
    capsys: pytest.CaptureFixture[str], fault: type[BaseException]
) -> None:
    def broken(_: PolicyRequest) -> Verdict:
        raise fault("secret text of the request")

    async with house(policy=broken) as door:
        reply = await door.ask()
        assert (reply.status, reply.code) == (500, "internal_error")
        assert reply.headers["connection"] == "close"
        assert door.upstream.connections == 0
        assert door.gateway.metrics.internal_errors == 1
    assert "secret text" not in capsys.readouterr().out


@pytest.mark.parametrize("fault", [MemoryError, Panic])
async def test_a_fault_while_the_client_is_told_of_one_ends_its_connection_alone(
    monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise fault

    async with house() as door:
        with monkeypatch.context() as patch:
            patch.setattr(Client, "refuse", broken)
            patch.setattr(Client, "next_request", broken)
            client = await door.connect()
            await client.send(request())
            assert not await client.more()
            assert door.gateway.metrics.internal_errors == 2
        assert (await door.ask()).status == 200


@pytest.mark.parametrize("fault", [MemoryError, Panic])
async def test_a_fault_while_a_connection_is_turned_away_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise fault

    async with house(limits=Limits(connections=1)) as door:
        first = await door.connect()
        with monkeypatch.context() as patch:
            patch.setattr(Client, "greet", broken)
            second = await door.connect()
            assert not await second.more()
        await first.send(request())
        assert (await first.reply()).status == 200


async def test_a_socket_that_the_kernel_does_not_watch_is_closed_and_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches")

    async with house() as door:
        with monkeypatch.context() as patch:
            patch.setattr(Watch, "add", full)
            client = await door.connect()
            assert not await client.more()
        assert (await door.ask()).status == 200
        assert door.gateway.metrics.internal_errors == 1


async def test_counters_are_what_happened() -> None:
    async with house() as door:
        client = await door.connect()
        for _ in range(3):
            await client.send(request())
            await client.reply()
        metrics = door.gateway.metrics
        assert (metrics.accepted, metrics.connections, metrics.requests) == (1, 1, 3)
        assert metrics.upstream_connections == 1
        assert metrics.request_bytes == 3 * len(CHAT)
        assert metrics.reply_bytes > 3 * len(REPLY)


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1:1", "127.0.0.1:80", "http://", "http://a/b", "http://u@a", "http://a?x=1"],
)
def test_an_upstream_that_is_not_plain_http_host_port_is_refused(url: str) -> None:
    def never() -> DecisionRecord:
        raise AssertionError

    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Gateway(
            config=GatewayConfig(upstream=url),
            snapshot=never,  # type: ignore[arg-type] # never called
            gate=lambda: OPEN,
            recorder=never,  # type: ignore[arg-type] # never called
            identify=lambda *_: UNKNOWN,
            passport=lambda: None,
        )
