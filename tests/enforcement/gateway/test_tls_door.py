"""The door with TLS, over real sockets: who is let in, what refuses, how connections end."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.config import TlsTable
from agent.gateway.gateway_tls import GatewayTls
from enforcement.http.limits import Limits
from enforcement.identity.callers import Certificates, Identifier, Key
from enforcement.identity.peer import LEAVE_SECONDS
from tests.enforcement.gateway.doors import (
    CHAT as BODY,
)
from tests.enforcement.gateway.doors import (
    DONE,
    LAST,
    STREAM_HEAD,
    ClientSide,
    House,
    Script,
    UpstreamSide,
    answering,
    chunk,
    event,
    house,
    http_reply,
    request,
)
from tests.enforcement.gateway.secured import Ended, SecuredStream
from tests.pki import CHAT, DOMAIN, HOUR, Cert, authority, client_context, make, revoked

ONE_TRANSPORT = True

ROOT = authority()
GATEWAY = make("gateway", hosts=("gateway.example",))
CLIENT = make("chat", ROOT, uris=(CHAT,))
MIDDLE = authority("middle", ROOT)
BELOW = make("below", MIDDLE, uris=(CHAT,), send=(MIDDLE,))
OTHER = authority("other")
FOR_SERVERS = (ExtendedKeyUsageOID.SERVER_AUTH,)


class Secured:
    """A house with client certificates, its files, and a wall clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead = 0.0
        self.house: House
        self.tls: GatewayTls

    def now(self) -> float:
        return time.time() + self.ahead

    async def connect(self, shown: Cert | None = CLIENT, *, tls12: bool = False) -> ClientSide:
        context = client_context(self.folder, GATEWAY, shown, tls12=tls12)
        return await self.house.connect(context)

    async def refused(self, shown: Cert | None) -> str:
        """Why a client is not let in: the door's own word for it."""
        before = dict(self.failures)
        # TLS 1.3: the client's part of the handshake is over before the server has judged it.
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            await self._try(shown)
        await trio.testing.wait_all_tasks_blocked(0.01)
        (reason,) = [key for key, count in self.failures.items() if count != before.get(key)]
        return reason

    async def _try(self, shown: Cert | None) -> None:
        client = await self.connect(shown)
        await client.send(request())
        await client.stream.receive_some()

    @property
    def failures(self) -> dict[str, int]:
        return {reason: count for (reason,), count in self.tls.server.metrics.failures.items()}

    def write_trust(self, *authorities: Cert) -> None:
        (self.folder / "trust.pem").write_bytes(b"".join(one.pem for one in authorities))


@asynccontextmanager
async def secured(
    folder: Path,
    script: Script | None = None,
    *,
    client: str = "required",
    caller: Certificates = "certificate",
    crl: bytes = b"",
    more_trust: dict[str, Cert] | None = None,
    limits: Limits | None = None,
    anonymous: bool = False,
) -> AsyncIterator[Secured]:
    world = Secured(folder)
    GATEWAY.write(folder, "gateway")
    world.write_trust(ROOT)
    trust = {DOMAIN: f"{folder}/trust.pem"}
    for name, one in (more_trust or {}).items():
        one.write(folder, name)
        trust[name] = f"{folder}/{name}.pem"
    if crl:
        (folder / "crl.pem").write_bytes(crl)
    table = TlsTable(
        certificate_file=f"{folder}/gateway.pem",
        key_file=f"{folder}/gateway.key",
        client=client,  # type: ignore[arg-type]  # of a parametrized test
        trust_domains=trust,
        client_crl_file=f"{folder}/crl.pem" if crl else "",
        caller=caller,
    )
    world.tls = GatewayTls(table, now=world.now)
    key = Key(name="alice", sha256=hashlib.sha256(b"sk-alice").digest())
    identify = Identifier([key], certificates=caller, anonymous=anonymous)
    async with house(
        script, tls=world.tls.server, identify=identify, principal=None, limits=limits
    ) as door:
        world.house = door
        yield world


def principals(door: House) -> set[tuple[str, str]]:
    return {record.principal for record in door.journal.records}


# -- who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize("tls12", [False, True])
@pytest.mark.parametrize("shown", [CLIENT, BELOW], ids=["directly", "by an intermediate"])
async def test_a_workload_asks_as_the_agent_that_its_certificate_names(
    tmp_path: Path, shown: Cert, tls12: bool
) -> None:
    async with secured(tmp_path) as world:
        client = await world.connect(shown, tls12=tls12)
        for _ in range(3):
            await client.send(request())
            assert (await client.reply()).status == 200
        assert principals(world.house) == {("Agent", CHAT)}
        version = "TLSv1.2" if tls12 else "TLSv1.3"
        assert world.tls.server.metrics.handshakes == {(version, "yes"): 1}


async def test_a_session_that_is_resumed_is_the_same_client(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        context = client_context(tmp_path, GATEWAY, BELOW, tls12=True)
        first = await world.house.connect(context)
        assert isinstance(first.stream, SecuredStream)
        await first.send(request(close=True))
        assert (await first.reply()).status == 200
        tcp = await trio.open_tcp_stream("127.0.0.1", world.house.port)
        again = SecuredStream(tcp, context)
        again.object.session = first.stream.object.session
        await again.handshake()
        assert again.object.session_reused
        client = ClientSide(again)
        world.house.clients.append(client)
        await client.send(request())
        assert (await client.reply()).status == 200
        assert principals(world.house) == {("Agent", CHAT)}


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (None, "no_certificate"),
        (make("stranger", OTHER, uris=(CHAT,)), "unknown_authority"),
        (make("alone", uris=(CHAT,)), "self_signed"),
        (make("chat", MIDDLE, uris=(CHAT,)), "unknown_authority"),  # the intermediate is missing
        (make("old", ROOT, uris=(CHAT,), ends=-HOUR / 60), "expired"),
        (make("new", ROOT, uris=(CHAT,), begins=HOUR / 2), "not_yet_valid"),
        (make("web", ROOT, uris=(CHAT,), usage=FOR_SERVERS), "wrong_purpose"),
    ],
)
async def test_one_whose_certificate_cannot_be_verified_is_not_let_in(
    tmp_path: Path, shown: Cert | None, reason: str
) -> None:
    async with secured(tmp_path) as world:
        assert await world.refused(shown) == reason
        assert world.house.journal.records == []
        assert world.house.upstream.connections == 0


REFUSED = [
    (make("none", ROOT), "spiffe.no_id"),
    (make("two", ROOT, uris=(CHAT, CHAT + "2")), "spiffe.no_id"),
    (make("web", ROOT, uris=("https://example.org/x",)), "spiffe.malformed"),
    (make("far", ROOT, uris=("spiffe://elsewhere.org/x",)), "spiffe.trust_domain"),
    (make("alien", OTHER, uris=(CHAT,)), "certificate.authority"),
]


@pytest.mark.parametrize(("shown", "reason"), REFUSED)
@pytest.mark.parametrize("caller", ["certificate", "credential", "either"])
async def test_a_verified_certificate_that_names_nobody_is_refused_and_recorded(
    tmp_path: Path, shown: Cert, reason: str, caller: Certificates
) -> None:
    trusted = {"other.org": OTHER}
    async with secured(tmp_path, caller=caller, more_trust=trusted) as world:
        client = await world.connect(shown)
        await client.send(request(headers=("Authorization: Bearer sk-alice",)))
        reply = await client.reply()
        assert (reply.status, reply.code) == (401, "certificate_refused")
        (record,) = world.house.journal.records
        assert record.reasons == (reason,)
        assert record.principal == ("User", "unknown")
        assert reply.json["error"]["decision_id"] == record.decision_id
        assert world.house.upstream.connections == 0


@pytest.mark.parametrize(
    ("caller", "header", "status", "who"),
    [
        ("certificate", None, 200, ("Agent", CHAT)),
        ("certificate", "Authorization: Bearer not-needed", 200, ("Agent", CHAT)),
        ("certificate", "Authorization: Bearer sk-alice", 401, ("User", "unknown")),
        ("credential", None, 401, ("User", "unknown")),
        ("credential", "x-api-key: sk-alice", 200, ("User", "alice")),
        ("either", None, 200, ("Agent", CHAT)),
        ("either", "Authorization: Bearer sk-alice", 200, ("User", "alice")),
        ("either", "Authorization: Bearer not-needed", 401, ("User", "unknown")),
    ],
)
async def test_a_key_beside_a_certificate(
    tmp_path: Path, caller: Certificates, header: str | None, status: int, who: tuple[str, str]
) -> None:
    async with secured(tmp_path, caller=caller) as world:
        client = await world.connect()
        await client.send(request(headers=(header,) if header else ()))
        assert (await client.reply()).status == status
        assert principals(world.house) == {who}


async def test_where_certificates_are_optional_a_client_without_one_shows_a_key(
    tmp_path: Path,
) -> None:
    async with secured(tmp_path, client="optional") as world:
        client = await world.connect(None)
        await client.send(request(headers=("Authorization: Bearer sk-alice",)))
        assert (await client.reply()).status == 200
        await client.send(request())
        assert (await client.reply()).code == "unauthorized"
        assert principals(world.house) == {("User", "alice"), ("User", "unknown")}
        assert world.tls.server.metrics.handshakes == {("TLSv1.3", "no"): 1}
        assert await world.refused(make("alone", uris=(CHAT,))) == "self_signed"


# -- how long it is believed ----------------------------------------------------------------------


async def test_a_certificate_that_ends_on_an_open_connection_is_not_believed_any_more(
    tmp_path: Path,
) -> None:
    async with secured(tmp_path) as world:
        client = await world.connect()
        await client.send(request())
        assert (await client.reply()).status == 200
        world.ahead = 3600
        await client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.code) == (401, "certificate_refused")
        assert reply.headers["connection"] == "close"
        assert world.house.journal.records[-1].reasons == ("certificate.expired",)
        assert await client.is_closed()


async def test_a_connection_is_asked_to_leave_before_its_certificate_ends(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        client = await world.connect()
        await client.send(request())
        assert "connection" not in (await client.reply()).headers
        ends = CLIENT.certificate.not_valid_after_utc.timestamp()
        world.ahead = ends - time.time() - LEAVE_SECONDS + 5
        await client.send(request())
        reply = await client.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert await client.is_closed()
        new = await world.connect()  # still let in; each request says that it is the last
        await new.send(request())
        assert (await new.reply()).headers["connection"] == "close"


@pytest.mark.parametrize("idle", [True, False])
async def test_an_authority_that_is_taken_away_ends_the_connections_of_its_clients(
    tmp_path: Path, idle: bool
) -> None:
    answer = trio.Event()

    async def script(side: UpstreamSide) -> None:
        while await side.next() is not None:
            await answer.wait()
            await side.send(http_reply())

    async with secured(tmp_path, script) as world:
        client = await world.connect()
        if idle:
            answer.set()
        await client.send(request())
        if idle:
            assert (await client.reply()).status == 200
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.write_trust(OTHER)
        await world.tls.reload()
        answer.set()
        if not idle:  # what was begun is finished
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
        with trio.fail_after(5):
            assert await client.is_closed()
        assert await world.refused(CLIENT) == "unknown_authority"


async def test_an_authority_that_is_added_disturbs_nobody(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        client = await world.connect()
        world.write_trust(OTHER, ROOT)
        await world.tls.reload()
        for shown in (client, await world.connect(make("x", OTHER, uris=(CHAT,)))):
            await shown.send(request())
            reply = await shown.reply()
            assert reply.status == 200
            assert "connection" not in reply.headers


async def test_what_is_revoked_is_not_let_in_and_has_to_leave(tmp_path: Path) -> None:
    async with secured(tmp_path, crl=revoked(ROOT)) as world:
        client = await world.connect()
        await client.send(request())
        assert (await client.reply()).status == 200
        (tmp_path / "crl.pem").write_bytes(revoked(ROOT, CLIENT))
        await world.tls.reload()
        assert await client.is_closed()
        assert await world.refused(CLIENT) == "revoked"
        # Of this authority there is no list.
        assert await world.refused(BELOW) == "revocation_unknown"


# -- how connections begin and end ----------------------------------------------------------------


async def raw(world: Secured, data: bytes) -> bytes:
    """What a client without TLS gets for it."""
    async with await trio.open_tcp_stream("127.0.0.1", world.house.port) as stream:
        await stream.send_all(data)
        answer = b""
        while part := await stream.receive_some():
            answer += part
        return answer


async def test_plain_http_is_told_that_this_is_tls(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        head, _, body = (await raw(world, request())).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(body)["error"]["code"] == "tls_required"
        assert world.failures == {"plain_http": 1}
        assert world.house.gateway.metrics.requests == 0


@pytest.mark.parametrize("data", [b"\x00" * 100, b"\x16\x03\x01\x00\x05hello", b"\xff"])
async def test_garbage_is_hung_up_on(tmp_path: Path, data: bytes) -> None:
    async with secured(tmp_path) as world:
        answer = await raw(world, data)
        assert answer == b"" or answer[0] == 21  # an alert
        assert sum(world.failures.values()) == 1


async def test_one_who_goes_in_the_handshake_is_counted(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        stream = await trio.open_tcp_stream("127.0.0.1", world.house.port)
        await stream.send_all(b"\x16\x03")
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert world.failures == {"closed": 1}


def test_a_handshake_that_stalls_is_ended_and_counts_as_a_connection_until_then(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        limits = Limits(connections=2, handshake_seconds=5)
        async with secured(tmp_path, limits=limits) as world:
            stalled = [await trio.open_tcp_stream("127.0.0.1", world.house.port) for _ in range(2)]
            await stalled[1].send_all(b"\x16\x03\x01")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert world.house.gateway.metrics.connections == 2
            client = await world.connect()
            reply = await client.reply()  # told by TLS, as by HTTP
            assert (reply.status, reply.code) == (503, "too_many_connections")
            assert world.failures == {}
            clock.jump(6)
            for stream in stalled:
                assert await stream.receive_some() == b""
                await stream.aclose()
            assert world.failures == {"timeout": 2}
            await trio.testing.wait_all_tasks_blocked(0.01)
            after = await world.connect()
            await after.send(request())
            assert (await after.reply()).status == 200

    clock = trio.testing.MockClock()
    trio.run(scenario, clock=clock)


async def test_draining_ends_what_is_in_its_handshake(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        stream = await trio.open_tcp_stream("127.0.0.1", world.house.port)
        await stream.send_all(b"\x16\x03\x01")
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.house.gateway.stop_accepting()
        with trio.fail_after(2):
            await world.house.gateway.drained()
        await stream.aclose()


@pytest.mark.parametrize("cut", ["inside a head", "inside a body"])
async def test_a_request_that_is_cut_is_no_request(tmp_path: Path, cut: str) -> None:
    whole = request()
    part = whole[:20] if cut == "inside a head" else whole[:-5]
    async with secured(tmp_path) as world:
        client = await world.connect()
        await client.send(part)
        assert isinstance(client.stream, SecuredStream)
        await client.stream.tcp.send_eof()  # a FIN that anybody on the way can send
        with pytest.raises(Ended):
            await client.stream.receive_some()
        assert world.house.upstream.seen == []


async def test_every_end_between_two_replies_is_said(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        client = await world.connect()
        await client.send(request(close=True))
        assert (await client.reply()).status == 200
        assert await client.stream.receive_some() == b""  # close_notify; without: Ended
        idle = await world.connect()
        await idle.send(request())
        await idle.reply()
        world.house.gateway.stop_accepting()
        assert await idle.stream.receive_some() == b""


@pytest.mark.parametrize("broken", [False, True])
async def test_an_old_client_sees_by_tls_whether_its_stream_was_whole(
    tmp_path: Path, broken: bool
) -> None:
    """HTTP/1.0 has no chunks: the end of the connection is the end of the reply."""

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD + chunk(event("hello " * 200)))
        await trio.sleep(0.05)
        if not broken:
            await side.send(chunk(event("", finish="stop") + DONE) + LAST)

    async with secured(tmp_path, script) as world:
        client = await world.connect()
        body = json.dumps({**json.loads(BODY), "stream": True}).encode()
        await client.send(request(body).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"))
        got = b""
        try:
            while part := await client.stream.receive_some():
                got += part
        except Ended:
            assert broken
        else:
            assert not broken
        assert b"hello" in got
        assert got.endswith(DONE) != broken


# -- what goes through ----------------------------------------------------------------------------


async def test_large_bodies_go_both_ways_and_a_slow_reader_gets_all_of_it(tmp_path: Path) -> None:
    text = "word " * 1_000_000
    large = json.dumps(
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    ).encode()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    async with secured(tmp_path, answering(http_reply(large))) as world:
        client = await world.connect()
        assert isinstance(client.stream, SecuredStream)
        client.stream.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        await client.send(request(body))
        await trio.sleep(0.2)  # the gateway's send waits meanwhile
        reply = await client.reply()
        assert reply.json["choices"][0]["message"]["content"] == text
        (seen,) = world.house.upstream.seen
        assert json.loads(seen.body)["messages"][0]["content"] == text


async def test_a_request_that_comes_byte_by_byte(tmp_path: Path) -> None:
    async with secured(tmp_path) as world:
        client = await world.connect()
        assert isinstance(client.stream, SecuredStream)
        client.stream.object.write(request())
        for byte in client.stream.outgoing.read():
            await client.stream.tcp.send_all(bytes([byte]))
        assert (await client.reply()).status == 200


async def test_files_are_exchanged_under_load_and_no_request_fails(tmp_path: Path) -> None:
    done: list[int] = []
    stop = False

    async def ask(world: Secured, fresh: Callable[[], bool]) -> None:
        client = await world.connect()
        while not stop:
            await client.send(request())
            reply = await client.reply()
            assert reply.status == 200
            done.append(1)
            if fresh() or reply.headers.get("connection") == "close":
                await client.stream.aclose()
                client = await world.connect()

    async with secured(tmp_path) as world:
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(ask, world, lambda number=number: number % 2 == 0)
            for turn in range(30):
                await trio.sleep(0.01)
                if turn % 3 == 2:
                    (tmp_path / "gateway.pem").write_bytes(b"half a certif")
                    await world.tls.reload()
                    assert "gateway.pem" in world.tls.problem
                    GATEWAY.write(tmp_path, "gateway")
                else:
                    world.write_trust(ROOT, *([OTHER] if turn % 2 else []))
                    await world.tls.reload()
                    assert world.tls.problem == ""
            stop = True
        assert len(done) > 100
        assert (world.tls.loads, world.tls.failures) == (21, 10)
        assert world.failures == {}
