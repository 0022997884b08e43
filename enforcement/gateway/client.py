"""The client's side of a connection: reads heads and bodies, writes replies."""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass

from enforcement.admission import Admission
from enforcement.content.apierror import Refusal
from enforcement.gateway import replies
from enforcement.gateway.tls_server import TlsServer
from enforcement.http.chunks import ChunkReader, body_too_large
from enforcement.http.fields import HEAD_END, Block, HttpError, check_partial
from enforcement.http.limits import Limits
from enforcement.http.metrics import GatewayMetrics
from enforcement.http.request_head import RequestHead
from enforcement.http.requests import RequestParser
from enforcement.http.tls import TlsError
from enforcement.http.tls_wire import TlsWire
from enforcement.http.upstream import Pool
from enforcement.http.wire import InterruptedWaitError, Watch, Wire, WireError, WireTimeoutError
from enforcement.identity.peer import Peer


@dataclass(slots=True)
class Shared:
    """What all connections of one door share.

    Attributes:
        tls: what clients are greeted with; None: they speak plain HTTP.
        draining: no new requests; every reply says that it is the connection's last.
    """

    limits: Limits
    metrics: GatewayMetrics
    admission: Admission
    pool: Pool
    watch: Watch
    tls: TlsServer | None = None
    draining: bool = False


class Client:
    """One client connection.

    Attributes:
        idle: waits for the first byte of a request; nothing is lost if it is closed now.
        closing: the reply that was sent last said that the connection ends.
        started: bytes of the present reply were sent; it can no longer be replaced by an error.
        peer: the certificate that the client has shown; None: none.
    """

    __slots__ = (
        "_buffer",
        "_fresh",
        "_held",
        "_parser",
        "_request",
        "_shared",
        "closing",
        "idle",
        "peer",
        "started",
        "wire",
    )

    def __init__(self, sock: socket.socket, shared: Shared) -> None:
        self.wire: Wire = (
            Wire(sock, shared.watch, ready=True)
            if shared.tls is None
            else shared.tls.wire(sock, shared.watch, shared.limits)
        )
        self._shared = shared
        self._parser = RequestParser(shared.limits)
        self._buffer = b""
        self._fresh = True
        self._held = 0
        self._request: RequestHead | None = None
        self.idle = False
        self.closing = False
        self.started = False
        self.peer: Peer | None = None

    # -- the client's certificate -----------------------------------------------------------------

    async def greet(self) -> bool:
        """Do TLS' handshake, where there is one; False: it failed, and was counted.

        Raises:
            InterruptedWaitError: see Wire.
        """
        tls, wire = self._shared.tls, self.wire
        if tls is None:
            return True
        assert isinstance(wire, TlsWire)
        self.idle = True
        try:
            self.peer = await tls.greet(wire, self._shared.limits)
        except TlsError:
            return False
        finally:
            self.idle = False
        return True

    def look_at_peer(self) -> None:
        """Where the client's certificate does not count any more, or soon will not: the connection
        ends with its next reply, or now if it is idle. The client makes a new one with the
        certificate that it has by then.
        """
        if self.peer is not None and not self.peer.seconds_left():
            self.closing = True
            if self.idle:
                self.wire.interrupt()

    # -- reading ----------------------------------------------------------------------------------

    async def next_request(self) -> RequestHead | None:
        """The head of the next request; None where the connection ends between two requests.

        Raises:
            HttpError: it is refused, or did not come in time.
            WireError, InterruptedWaitError: the connection is gone.
        """
        self.started = False
        self._request = None
        wire, limits, buffer = self.wire, self._shared.limits, self._buffer
        if not buffer:
            if self._shared.draining:
                return None
            self.idle = True
            try:
                wire.deadline = wire.within(
                    limits.head_seconds
                    if self._fresh
                    else limits.idle_seconds
                    if self.peer is None
                    else min(limits.idle_seconds, self.peer.seconds_left())
                )
                buffer = await wire.receive()
            except (WireTimeoutError, WireError, InterruptedWaitError):
                return None
            finally:
                self.idle = False
                wire.deadline = math.inf
            if not buffer:
                return None
            self._fresh = False
        end = buffer.find(HEAD_END)
        if end < 0:
            buffer, end = await self._rest_of_head(buffer)
        end += 4
        if end > limits.head_bytes:
            raise _head_too_large(limits)
        if end == len(buffer):
            self._buffer = b""
            head = buffer
        else:
            self._buffer = buffer[end:]
            head = buffer[:end]
        self._request = request = self._parser.parse(head)
        return request

    async def _rest_of_head(self, buffer: bytes) -> tuple[bytes, int]:
        """What was received, and where the head's empty line begins in it."""
        wire, limits = self.wire, self._shared.limits
        wire.deadline = wire.within(limits.head_seconds)
        seen = 0
        while (end := buffer.find(HEAD_END, max(seen - 3, 0))) < 0:
            if len(buffer) >= limits.head_bytes:
                raise _head_too_large(limits)
            check_partial(buffer, seen)
            seen = len(buffer)
            try:
                data = await wire.receive()
            except WireTimeoutError:
                raise HttpError(
                    "http_head_timeout", "the request's head did not come in time", status=408
                ) from None
            if not data:
                raise HttpError("http_head_cut", "the connection ended inside a head")
            buffer += data
        wire.deadline = math.inf
        return buffer, end

    def body_now(self, request: RequestHead) -> bytes | None:
        """The request's body, if it came with the head and nothing behind it; None: see `body`.

        Raises:
            HttpError: the body does not end where its length says.
        """
        length, buffer = request.length, self._buffer
        if length == 0:
            return b""
        if length != len(buffer) or length > self._shared.limits.body_bytes:
            return None
        self._buffer = b""
        self._parser.body(buffer, last=True)
        self._shared.metrics.request_bytes += length
        return buffer

    async def body(self, request: RequestHead) -> bytes:
        """The request's body, whole.

        Raises:
            HttpError: too large, malformed, or did not come in time.
            WireError, InterruptedWaitError: the connection is gone.
        """
        length, buffer = request.length, self._buffer
        if length is None:
            body = await self._chunked_body(request)
        elif length > self._shared.limits.body_bytes:
            raise body_too_large(self._shared.limits)
        else:
            if length > len(buffer):
                buffer = await self._long_body(request, length)
            body = buffer[:length]
            self._buffer = buffer[length:]
            self._parser.body(body, last=True)
        self._shared.metrics.request_bytes += len(body)
        return body

    async def _long_body(self, request: RequestHead, length: int) -> bytes:
        """At least `length` octets: the body, and what was read beyond it."""
        parts = bytearray(self._buffer)
        self.hold(len(parts))
        await self._expected(request)
        self.wire.deadline = self.wire.within(self._shared.limits.body_seconds)
        while len(parts) < length:
            data = await self._more_body()
            self.hold(len(data))
            parts += data
        self.wire.deadline = math.inf
        return bytes(parts)

    async def _chunked_body(self, request: RequestHead) -> bytes:
        reader = ChunkReader(self._shared.limits)
        wire, data = self.wire, self._buffer
        wire.deadline = wire.within(self._shared.limits.body_seconds)
        if not data:
            await self._expected(request)
            data = await self._more_body()
        while True:
            rest = reader.feed(data)
            self._parser.body(
                memoryview(data)[: len(data) - len(rest)] if rest else data, last=reader.done
            )
            if reader.done:
                break
            self.hold(len(data))
            data = await self._more_body()
        wire.deadline = math.inf
        self._buffer = rest
        return bytes(reader.body)

    async def _expected(self, request: RequestHead) -> None:
        if request.expect and not request.http10 and not self._buffer:
            rest = self.wire.send_now(replies.CONTINUE)
            if rest is not None:
                await self.wire.send_rest(rest, self._shared.limits.send_seconds)

    async def _more_body(self) -> bytes:
        try:
            data = await self.wire.receive()
        except WireTimeoutError:
            raise HttpError(
                "http_body_timeout", "the request's body did not come in time", status=408
            ) from None
        if not data:
            raise HttpError("http_body_cut", "the connection ended inside a body")
        return data

    def hold(self, size: int) -> None:
        """Count bytes of bodies that are kept in memory, until `let_go`.

        Raises:
            HttpError: all connections together hold too much.
        """
        metrics = self._shared.metrics
        if metrics.buffered_bytes + size > self._shared.limits.buffered_bytes:
            raise HttpError("overloaded", "too many large bodies at once; try later", status=503)
        metrics.buffered_bytes += size
        self._held += size

    def let_go(self) -> None:
        """The exchange is over."""
        if self._held:
            self._shared.metrics.buffered_bytes -= self._held
            self._held = 0

    # -- writing ----------------------------------------------------------------------------------

    async def reply(self, line: bytes, fields: Block, body: bytes | None) -> None:
        """Send a whole reply.

        Args:
            line: the status line, without its CR LF.
            body: None for a reply that has none by its status (204, 304).

        Raises:
            WireError, WireTimeoutError, InterruptedWaitError: see Wire.
        """
        request = self._request
        close = b""
        if self.closing or request is None or request.close or self._shared.draining:
            self.closing = True
            close = b"\r\nconnection: close"
        if body is None:
            data = b"%b%b%b\r\n\r\n" % (line, fields, close)
        elif request is None or request.method != "HEAD":
            data = b"%b%b\r\ncontent-length: %d%b\r\n\r\n%b" % (
                line,
                fields,
                len(body),
                close,
                body,
            )
        else:
            data = b"%b%b\r\ncontent-length: %d%b\r\n\r\n" % (line, fields, len(body), close)
        await self.send(data)

    async def refuse(self, refusal: Refusal, *, close: bool = False) -> None:
        """Send a refusal; `close` where the rest of the request is not read."""
        self.closing = self.closing or close
        await self.reply(
            replies.status_line(refusal.status), replies.lines(refusal.headers), refusal.body
        )

    def stream_head(self, line: bytes, fields: Block) -> bytes:
        """The head of a reply whose length is not known; send it with the first piece."""
        request = self._request
        assert request is not None
        self.closing = self.closing or request.close or self._shared.draining
        return b"%b%b%b%b\r\n\r\n" % (
            line,
            fields,
            b"" if request.http10 else b"\r\ntransfer-encoding: chunked",
            b"\r\nconnection: close" if self.closing else b"",
        )

    def piece(self, data: bytes, *, last: bool = False) -> bytes:
        """A piece of a streamed reply as this client reads it."""
        if self._request is not None and self._request.http10:
            return data
        return replies.chunk(data) + (replies.LAST_CHUNK if last else b"")

    async def send(self, data: bytes) -> None:
        """Send wire bytes of the present reply."""
        self.started = True
        self._shared.metrics.reply_bytes += len(data)
        rest = self.wire.send_now(data)
        if rest is not None:
            await self.wire.send_rest(rest, self._shared.limits.send_seconds)

    async def linger(self) -> None:
        """Close after a refusal so that the client can read it.

        To close a socket with unread bytes resets the connection, which may destroy the refusal
        before the client has read it. So: end our side, read away what comes for a short time.
        """
        wire, limits = self.wire, self._shared.limits
        wire.half_close()
        wire.deadline = wire.within(limits.linger_seconds)
        left = limits.body_bytes
        try:
            while left > 0 and (data := await wire.receive()):
                left -= len(data)
        except (WireError, WireTimeoutError, InterruptedWaitError):
            pass


def _head_too_large(limits: Limits) -> HttpError:
    return HttpError(
        "http_head_too_large", f"the head is larger than {limits.head_bytes} bytes", status=431
    )
