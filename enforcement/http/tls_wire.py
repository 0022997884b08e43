"""A wire that speaks TLS: the same calls as `Wire`, text at this end, records at the other."""

from __future__ import annotations

import contextlib
import math
import socket

from enforcement.http.tls import TlsError, TlsSession
from enforcement.http.wire import Watch, Wire, WireError

PIECE = 64 * 1024  # bytes of text that are encrypted before the kernel has taken the ones before


class TlsWire(Wire):
    """One connected, non-blocking TCP socket with TLS on it. `handshake` comes first.

    Args:
        send_seconds: how long the peer may take no byte of what TLS itself has to say.
    """

    __slots__ = ("_send_seconds", "_unsent", "session")

    def __init__(
        self, sock: socket.socket, watch: Watch, session: TlsSession, *, send_seconds: float
    ) -> None:
        super().__init__(sock, watch, ready=True)
        self.session = session
        self._send_seconds = send_seconds
        self._unsent = memoryview(b"")  # records that the kernel has not taken

    async def handshake(self, seconds: float) -> None:
        """Agree on keys, and verify the peer's certificate where one is asked for.

        Raises:
            TlsError: it failed; the peer was told why, as far as TLS does.
            WireTimeoutError, WireError, InterruptedWaitError: see Wire.
        """
        session = self.session
        self.deadline = self.within(seconds)
        try:
            while not session.handshake():
                await self._flush()
                session.feed(await super().receive())
            await self._flush()
        except TlsError:
            self._last_words(session.outgoing())
            raise
        finally:
            self.deadline = math.inf

    def say_plainly(self, data: bytes) -> None:
        """Answer a client that does not speak TLS; as much as can be sent without waiting."""
        self._last_words(data)

    async def receive(self) -> bytes:
        """Wait (until `deadline`) and read what there is; empty where the peer said its end.

        After `half_close` the bytes are records still: they are only read away.

        Raises:
            WireTimeoutError, WireError, InterruptedWaitError: see Wire. An end that the peer did
                not say is a WireError: somebody else may have cut the connection.
        """
        session = self.session
        if not session.open:
            return await super().receive()
        try:
            while (text := session.read()) is None:
                await self._flush()  # the answer to a change of keys
                session.feed(await super().receive())
        except TlsError as error:
            session.open = False
            self._last_words(session.outgoing())
            raise WireError(f"TLS: {error.reason}") from None
        return text

    def send_now(self, data: bytes | memoryview) -> memoryview | None:
        """Send what can be sent without waiting; returns the rest of the text.

        An empty rest, too, is for `send_rest`: records of it have not been taken yet.

        Raises:
            WireError: see Wire.
        """
        text = memoryview(data)
        while text:
            piece, text = text[:PIECE], text[PIECE:]
            unsent = self._encrypt(piece)
            if unsent is not None:
                self._unsent = unsent
                return text
        return None

    async def send_rest(self, rest: memoryview, seconds: float) -> None:
        """Send what `send_now` left.

        Raises:
            WireTimeoutError, WireError, InterruptedWaitError: see Wire.
        """
        left: memoryview | None = rest
        while left is not None:
            unsent, self._unsent = self._unsent, memoryview(b"")
            await super().send_rest(unsent, seconds)
            left = self.send_now(left)

    def half_close(self) -> None:
        """Tell the peer that nothing more comes, unless what was sent is `broken`."""
        if not self.broken:
            self.session.finish()
            self._last_words(self.session.outgoing())
        self.session.open = False
        super().half_close()

    def _encrypt(self, text: memoryview) -> memoryview | None:
        try:
            self.session.write(text)
        except TlsError as error:
            raise WireError(f"TLS: {error.reason}") from None
        return super().send_now(self.session.outgoing())

    def _last_words(self, data: bytes) -> None:
        """An alert, which the peer may or may not read."""
        if data:
            with contextlib.suppress(WireError):
                super().send_now(data)

    async def _flush(self) -> None:
        data = self.session.outgoing()
        if data:
            rest = super().send_now(data)
            if rest is not None:
                await super().send_rest(rest, self._send_seconds)
