"""A client's end of a TLS connection for tests: what it sends and reads is whole records."""

from __future__ import annotations

import contextlib
import ssl

import trio


class Ended(trio.BrokenResourceError):
    """The connection ended, and the peer had not said so: what was read may be cut."""


class SecuredStream:
    """As much of a stream as tests use. One task reads and one sends.

    Attributes:
        tcp: what is below.
        object: the TLS library's own.
    """

    def __init__(self, tcp: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.tcp = tcp
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming, self.outgoing, server_hostname="gateway.example"
        )

    @property
    def socket(self) -> trio.socket.SocketType:
        return self.tcp.socket

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        self.tcp.setsockopt(level, option, value)

    async def handshake(self) -> None:
        while True:
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            else:
                return await self._flush()

    async def send_all(self, data: bytes) -> None:
        if data:
            self.object.write(data)
        await self._flush()

    async def receive_some(self) -> bytes:
        """Raises Ended: without a close_notify."""
        while True:
            try:
                return self.object.read(64 * 1024)
            except ssl.SSLWantReadError:
                await self._feed()

    async def send_eof(self) -> None:
        """Say that nothing follows, in TLS and in TCP."""
        with contextlib.suppress(ssl.SSLError):
            self.object.unwrap()
        with contextlib.suppress(trio.BrokenResourceError):
            await self._flush()
            await self.tcp.send_eof()

    async def aclose(self) -> None:
        await self.tcp.aclose()

    async def _flush(self) -> None:
        if data := self.outgoing.read():
            await self.tcp.send_all(data)

    async def _feed(self) -> None:
        data = await self.tcp.receive_some()
        if not data:
            raise Ended
        self.incoming.write(data)
