"""A gateway on real loopback sockets: scripted upstream, scripted policy, fake journal."""

from __future__ import annotations

import functools
import json
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import trio.testing

from agent.config import TlsTable
from agent.gateway.tls_files import load
from attestation.records import DecisionRecord
from enforcement.gateway.gateway import GateState, Gateway, GatewayConfig
from enforcement.gateway.tls_server import Credentials, TlsServer
from enforcement.http.limits import Limits
from enforcement.identity.callers import UNKNOWN, Caller, Header, Shown, Stranger
from enforcement.outcome import Outcome
from enforcement.recorder import RecordError
from enforcement.snapshot import Snapshot
from tests.enforcement.bundles import SIMULATED
from tests.enforcement.exchanges import Bundle, Engine, Policy, Rules, always
from tests.enforcement.gateway.secured import SecuredStream
from tests.pki import Cert, make

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
REPLY = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}
).encode()


def request(
    body: bytes = CHAT,
    *,
    method: str = "POST",
    target: str = "/v1/chat/completions",
    headers: tuple[str, ...] = (),
    close: bool = False,
) -> bytes:
    """A whole request as wire bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


def http_reply(
    body: bytes = REPLY,
    *,
    status: str = "200 OK",
    headers: tuple[str, ...] = ("Content-Type: application/json",),
) -> bytes:
    """A whole reply of an upstream as wire bytes."""
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


def event(text: str, *, finish: str | None = None) -> bytes:
    """One event of a streamed chat completion."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Journal:
    """A recorder that remembers, and can be slow or broken."""

    def __init__(self, log: list[str]) -> None:
        self.records: list[DecisionRecord] = []
        self.log = log
        self.append_fails = False
        self.durable_fails = False
        self.hold: trio.Event | None = None

    def append(self, record: DecisionRecord) -> int:
        if self.append_fails:
            raise RecordError("the disk is full")
        self.records.append(record)
        self.log.append(f"append {record.phase} {record.outcome}")
        return len(self.records)

    async def durable(self, seq: int) -> None:
        await trio.lowlevel.checkpoint()
        if self.hold is not None:
            await self.hold.wait()
        if self.durable_fails:
            raise RecordError("the disk is full")
        self.log.append(f"durable {seq}")


@dataclass
class Seen:
    """One request as the upstream got it."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n")[0]

    def values(self, name: str) -> list[str]:
        fields = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return [v.strip().decode() for n, _, v in fields if n.lower().decode() == name]


class UpstreamSide:
    """What a scripted upstream does its part with. `None` from `next` is the gateway's end."""

    def __init__(self, stream: trio.SocketStream, upstream: Upstream) -> None:
        self.stream = stream
        self._upstream = upstream
        self._buffer = b""

    async def next(self) -> Seen | None:
        while b"\r\n\r\n" not in self._buffer:
            data = await self._receive()
            if not data:
                return None
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        seen = Seen(head, b"")
        length = int((seen.values("content-length") or ["0"])[0])
        while len(rest) < length:
            data = await self._receive()
            if not data:
                return None
            rest += data
        seen.body, self._buffer = rest[:length], rest[length:]
        self._upstream.seen.append(seen)
        self._upstream.log.append("upstream got a request")
        return seen

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def closed(self) -> None:
        """Wait until the gateway closes the connection."""
        while await self._receive():
            pass

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            return b""


Script = Callable[[UpstreamSide], Awaitable[None]]


def answering(*replies: bytes) -> Script:
    """Answers every request with the next reply; the last one again and again."""

    async def script(side: UpstreamSide) -> None:
        number = 0
        while await side.next() is not None:
            await side.send(replies[min(number, len(replies) - 1)])
            number += 1

    return script


def streaming_until(go_on: trio.Event, text: str) -> Script:
    """Streams one text, and ends when it may go on."""

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD + chunk(event(text)))
        await go_on.wait()
        await side.send(chunk(event("", finish="stop") + DONE) + LAST)

    return script


class Upstream:
    """A model server that follows a script on every connection."""

    def __init__(self, script: Script, log: list[str]) -> None:
        self.script = script
        self.log = log
        self.seen: list[Seen] = []
        self.connections = 0
        self.ended = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            async with stream:
                await self.script(UpstreamSide(stream, self))
        except trio.BrokenResourceError:
            pass
        finally:
            self.ended += 1
            self.log.append("upstream connection ended")


class ClientSide:
    """A client that reads replies one by one."""

    def __init__(self, stream: trio.SocketStream | SecuredStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bytes:
        """What comes next, as it comes; empty at the end."""
        try:
            data = bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            return b""
        self.buffer += data
        return data

    async def reply(self) -> Reply:
        """One whole reply (its framing followed strictly)."""
        while b"\r\n\r\n" not in self.buffer:
            assert await self.more(), f"the connection ended inside a head: {self.buffer!r}"
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        pairs = [line.split(b":", 1) for line in lines[1:]]
        headers = {n.decode().lower(): v.strip().decode("latin-1") for n, v in pairs}
        assert len(headers) == len(pairs), f"a header came twice: {head!r}"
        status = int(lines[0].split(b" ")[1])
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self._chunk():
                body += piece
        else:
            length = int(headers.get("content-length", "0"))
            while len(self.buffer) < length:
                assert await self.more(), "the connection ended inside a body"
            body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Reply(status, headers, body)

    async def _chunk(self) -> bytes:
        while b"\r\n" not in self.buffer:
            assert await self.more(), "the connection ended inside a chunked body"
        size_line, _, self.buffer = self.buffer.partition(b"\r\n")
        size = int(size_line, 16)
        while len(self.buffer) < size + 2:
            assert await self.more(), "the connection ended inside a chunk"
        data, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
        return data

    async def rest(self) -> bytes:
        """Everything until the gateway closes."""
        while await self.more():
            pass
        rest, self.buffer = self.buffer, b""
        return rest

    async def is_closed(self) -> bool:
        """Nothing more comes, and the gateway has closed."""
        return await self.rest() == b""

    def reset(self) -> None:
        """Go away without a goodbye: the gateway sees a reset."""
        linger = (1).to_bytes(4, "little") + bytes(4)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in OpenAI's shape, which is checked on the way."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "code", "param", "decision_id"}
        assert self.headers["content-type"] == "application/json"
        return str(error["code"])


@dataclass
class House:
    """A running gateway with everything around it."""

    gateway: Gateway
    upstream: Upstream
    journal: Journal
    engine: Engine
    port: int
    nursery: trio.Nursery
    log: list[str]
    tls: TlsServer | None = None
    clients: list[ClientSide] = field(default_factory=list)

    async def connect(self, shows: ssl.SSLContext | None = None) -> ClientSide:
        """A new connection. `shows`: the TLS side of this client, where it is not any."""
        stream: trio.SocketStream | SecuredStream
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if self.tls is not None:
            stream = SecuredStream(stream, shows or anybody())
            try:
                await stream.handshake()
            except BaseException:
                await stream.aclose()
                raise
        client = ClientSide(stream)
        self.clients.append(client)
        return client

    async def ask(self, data: bytes | None = None) -> Reply:
        """One request on its own connection."""
        client = await self.connect()
        await client.send(request() if data is None else data)
        reply = await client.reply()
        await client.stream.aclose()
        return reply

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(record.phase, record.outcome) for record in self.journal.records]


OPEN = GateState(open=True, code="", message="")

over_tls = False  # what a house speaks; see conftest


@functools.cache
def _gateway_certificate() -> Cert:
    return make("gateway", hosts=("gateway.example",))


@functools.cache
def server_context() -> ssl.SSLContext:
    """A gateway's side of TLS that asks for no client certificate."""
    with tempfile.TemporaryDirectory() as folder:
        _gateway_certificate().write(Path(folder), "gateway")
        table = TlsTable(certificate_file=f"{folder}/gateway.pem", key_file=f"{folder}/gateway.key")
        return load(table, now=time.time()).credentials.context


@functools.cache
def anybody() -> ssl.SSLContext:
    """A client without a certificate."""
    return ssl.create_default_context(cadata=_gateway_certificate().pem.decode())


@asynccontextmanager
async def house(
    script: Script | None = None,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    mode: str = "window",
    hold_back: int = 8,
    gate: Callable[[], GateState] = lambda: OPEN,
    principal: tuple[str, str] | None = ("User", "alice"),
    passport: Callable[[], bytes | None] = lambda: b"token",
    upstream_url: str | None = None,
    tls: TlsServer | None = None,
    identify: Callable[[Sequence[Header], Shown | None], Caller | Stranger] | None = None,
    also: Sequence[socket.socket] = (),
) -> AsyncIterator[House]:
    """A gateway that serves on loopback (and on sockets `also` given) until the block ends."""
    if tls is None and over_tls:
        tls = TlsServer(Credentials(context=server_context()))
    log: list[str] = []
    upstream = Upstream(script or answering(http_reply()), log)
    journal = Journal(log)
    engine = Engine(policy or always(Outcome.PROCEED))
    snapshot = Snapshot(
        engine=engine,
        bundle=Bundle(stream=Rules(mode, hold_back)),
        passport_id="pass-00",
        platform=SIMULATED,
        agent_id="test-agent",
    )
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, upstream.serve, listeners)
        upstream_port = listeners[0].socket.getsockname()[1]
        gateway = Gateway(
            config=GatewayConfig(
                upstream=upstream_url or f"http://127.0.0.1:{upstream_port}",
                limits=limits or Limits(),
            ),
            snapshot=lambda: snapshot,
            gate=gate,
            recorder=journal,
            identify=identify or (lambda *_: UNKNOWN if principal is None else Caller(principal)),
            passport=passport,
            tls=tls,
        )
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        port = listener.getsockname()[1]
        await nursery.start(gateway.serve, [*also, listener])
        running = House(gateway, upstream, journal, engine, port, nursery, log, tls)
        virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
        with trio.fail_after(5000 if virtual else 60):
            yield running
        for client in running.clients:
            await client.stream.aclose()
        nursery.cancel_scope.cancel()
