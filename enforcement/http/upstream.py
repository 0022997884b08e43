"""Connections to the model server: made when needed, kept while unused, never reused in doubt.

A request is sent once. Sending it again after a failure would be wrong even on a connection that
died before any byte of a reply: the model server may have begun the work, and a POST is not
idempotent. So the one case where a retry is sound is decided *before* anything is written: a
pooled connection that the model server has closed meanwhile (or on which it sent something unasked)
is seen by a look that takes nothing, and the next one, or a new one, is taken. What happens after
the first byte was written is told to the client as 502.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import trio

from enforcement.http.fields import HttpError
from enforcement.http.limits import Limits
from enforcement.http.metrics import GatewayMetrics
from enforcement.http.replies import ReplyParser
from enforcement.http.reply_head import ReplyHead
from enforcement.http.wire import Watch, Wire, WireError, WireTimeoutError


class UpstreamError(Exception):
    """The model server gave no usable reply.

    Attributes:
        code: `upstream_unreachable`, `upstream_timeout`, `upstream_closed`, `upstream_malformed`,
            `upstream_head_too_large`, `upstream_reply_too_large`, `upstream_encoding`.
        status: 502 or 504.
    """

    def __init__(self, code: str, message: str, *, status: int = 502) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the model server is: a name or IP address, and a port."""

    host: str
    port: int

    @classmethod
    def from_url(cls, url: str) -> Address:
        """Read `http://HOST:PORT`. TLS is not offered: the model server stands beside the agent.

        Raises:
            ValueError: not such a URL.
        """
        parts = urlsplit(url)
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
        if parts.scheme != "http" or not parts.hostname or not plain:
            raise ValueError(f"{url!r} is not http://HOST:PORT without a path")
        return cls(host=parts.hostname, port=parts.port or 80)

    @property
    def authority(self) -> bytes:
        """The value of Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == 80 else f"{host}:{self.port}").encode("ascii")


class UpstreamConnection:
    """One connection to the model server; one exchange at a time."""

    __slots__ = ("_begun", "_limits", "_parser", "_pool", "_unsent", "wire")

    def __init__(self, wire: Wire, pool: Pool, limits: Limits) -> None:
        self.wire = wire
        self._pool = pool
        self._limits = limits
        self._parser = ReplyParser(limits)
        self._begun = b""  # the part of the body that came with the head
        self._unsent: memoryview | None = None  # the part of the request that is still to be sent

    def tell(self, request: bytes) -> None:
        """Send one whole request, as far as that can be done without waiting. Then `hear`.

        A connection that breaks while the request is sent is not an error yet: an early reply may
        lie there to be read.
        """
        self._parser.begin()
        with contextlib.suppress(WireError):
            self._unsent = self.wire.send_now(request)

    async def hear(self) -> ReplyHead:
        """Send the rest of the request and wait for the head of the reply.

        Raises:
            UpstreamError: there is no usable reply.
            InterruptedWaitError: see Wire.
        """
        wire, parser = self.wire, self._parser
        if self._unsent is not None:
            rest, self._unsent = self._unsent, None
            try:
                await wire.send_rest(rest, self._limits.send_seconds)
            except WireError:
                pass
            except WireTimeoutError:
                raise _timeout("did not take the request") from None
            del rest  # some megabytes, perhaps, while the model thinks
        wire.deadline = wire.within(self._limits.first_byte_seconds)
        try:
            while parser.head is None:
                data = await wire.receive()
                if data:
                    self._begun = parser.feed(data)
                else:
                    parser.end()
        except (WireError, WireTimeoutError, HttpError) as error:
            raise _no_reply(error, "gave no reply") from None
        finally:
            wire.deadline = math.inf
        return parser.head

    def whole_now(self) -> bytes | None:
        """The body, if all of it came with the head; else None, and `whole` waits for it."""
        if not self._parser.complete or len(self._begun) > self._limits.reply_bytes:
            return None
        body, self._begun = self._begun, b""
        return body

    async def some(self) -> bytes | None:
        """The next piece of the body (never empty), or None at its end.

        Raises:
            UpstreamError: there is no usable reply.
            InterruptedWaitError: see Wire.
        """
        piece, self._begun = self._begun, b""
        if piece:
            return piece
        wire, parser = self.wire, self._parser
        try:
            while not parser.complete:
                wire.deadline = wire.within(self._limits.upstream_idle_seconds)
                data = await wire.receive()
                if not data:
                    parser.end()
                elif piece := parser.feed(data):
                    return piece
        except (WireError, WireTimeoutError, HttpError) as error:
            raise _no_reply(error, "stopped in the middle of its reply") from None
        finally:
            wire.deadline = math.inf
        return None

    async def whole(self, hold: Callable[[int], None]) -> bytes:
        """The rest of the body.

        Args:
            hold: told how many bytes are kept, where the body does not come in one piece.

        Raises:
            UpstreamError: also where it is larger than `reply_bytes`.
            HttpError: by `hold`, if the door holds too much already.
            InterruptedWaitError: see Wire.
        """
        head, limit = self._parser.head, self._limits.reply_bytes
        if head is not None and head.length is not None and head.length > limit:
            raise _too_large(limit)
        body = bytearray()
        while (piece := await self.some()) is not None:
            hold(len(piece))
            body += piece
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)

    def release(self) -> None:
        """The exchange is over: keep the connection if it can carry another, else close it."""
        head = self._parser.head
        if self._parser.complete and head is not None and head.reusable and self.wire.calm:
            self._pool.put(self)
        else:
            self.wire.close()


class Pool:
    """Connections to one model server."""

    def __init__(
        self, address: Address, limits: Limits, watch: Watch, metrics: GatewayMetrics
    ) -> None:
        self._address = address
        self._limits = limits
        self._watch = watch
        self._metrics = metrics
        self._idle: list[UpstreamConnection] = []
        self.authority = address.authority

    @property
    def idle(self) -> int:
        """Connections that wait to be used."""
        return len(self._idle)

    def take(self) -> UpstreamConnection | None:
        """The connection that was used last and is open now, or None: `connect` then."""
        while self._idle:
            connection = self._idle.pop()
            wire = connection.wire
            wire.unused, wire.deadline = False, math.inf
            if wire.quiet():
                return connection
            wire.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection.

        Raises:
            UpstreamError: the model server cannot be reached.
        """
        sock = await self._open()
        self._metrics.upstream_connections += 1
        connection = UpstreamConnection(Wire(sock, self._watch), self, self._limits)
        connection.wire.when_unused(lambda: self._forget(connection))
        return connection

    def put(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose reply was read to the end."""
        if len(self._idle) >= self._limits.idle_upstreams:
            connection.wire.close()
            return
        wire = connection.wire
        wire.deadline = wire.within(self._limits.pool_seconds)
        wire.unused = True
        self._idle.append(connection)

    def close(self) -> None:
        """Close what is unused."""
        while self._idle:
            self._idle.pop().wire.close()

    def _forget(self, connection: UpstreamConnection) -> None:
        self._idle.remove(connection)
        connection.wire.close()

    async def _open(self) -> socket.socket:
        last: OSError | None = None
        with trio.move_on_after(self._limits.connect_seconds) as scope:
            try:
                for family, address in await _resolve(self._address):
                    try:
                        return await _connect(family, address)
                    except OSError as error:
                        last = error
            except OSError as error:
                last = error
        if scope.cancelled_caught:
            raise _timeout("cannot be connected to")
        reason = last.strerror if last and last.strerror else "no address"
        raise UpstreamError("upstream_unreachable", f"the model server is unreachable: {reason}")


_CONNECTING: Final = (errno.EINPROGRESS, errno.EAGAIN)


async def _resolve(address: Address) -> list[tuple[int, tuple[str, int]]]:
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        found = await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        return [(family, (str(where[0]), int(where[1]))) for family, _, _, _, where in found]
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    return [(family, (address.host, address.port))]


async def _connect(family: int, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code in _CONNECTING:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:
        sock.close()
        raise
    if code:
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def _timeout(what: str) -> UpstreamError:
    return UpstreamError("upstream_timeout", f"the model server {what} in time", status=504)


def _no_reply(error: Exception, what: str) -> UpstreamError:
    if isinstance(error, WireTimeoutError):
        return _timeout(what)
    if isinstance(error, HttpError):
        code = error.code if error.code.startswith("upstream_") else "upstream_malformed"
        return UpstreamError(code, str(error))
    return UpstreamError("upstream_closed", "the model server closed the connection early")


def _too_large(limit: int) -> UpstreamError:
    return UpstreamError(
        "upstream_reply_too_large", f"the model server's reply is larger than {limit} bytes"
    )
