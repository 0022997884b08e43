"""TLS at the door: greets each client, and can be given other certificates while it runs."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from enforcement.gateway import replies
from enforcement.http.limits import Limits
from enforcement.http.metrics import count
from enforcement.http.tls import TlsError, TlsSession
from enforcement.http.tls_wire import TlsWire
from enforcement.http.wire import Watch, WireError, WireTimeoutError
from enforcement.identity.peer import Chains, Peer, Trust

TELL_SECONDS: Final = 60.0  # the same kind of failure is told once in this time

Told = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What new connections are greeted with. One context for one reading of the files: sessions
    that OpenSSL would resume (TLS 1.2) end with it.
    """

    context: ssl.SSLContext
    trust: Trust = field(default_factory=Trust)


@dataclass(slots=True)
class TlsMetrics:
    """What is counted, since the start.

    Attributes:
        handshakes: that were finished, by (version, whether the client showed a certificate).
        failures: that were not, by (reason,).
    """

    handshakes: dict[tuple[str, ...], int] = field(default_factory=dict)
    failures: dict[tuple[str, ...], int] = field(default_factory=dict)


class TlsServer:
    """The certificates of the door, and what happened with them.

    Args:
        now: seconds since 1970.
        told: of a failed handshake, with its reason and how many of them there were since this
            reason was told last.

    Attributes:
        changed: called when there are other credentials; the door looks at its clients.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        now: Callable[[], float] = time.time,
        told: Told = lambda _reason, _times: None,
    ) -> None:
        self.credentials = credentials
        self.metrics = TlsMetrics()
        self.changed: Callable[[], None] = lambda: None
        self._chains = Chains()
        self._now = now
        self._told = told
        self._untold: dict[str, int] = {}
        self._told_at: dict[str, float] = {}

    def use(self, credentials: Credentials) -> None:
        """Greet clients with these from now on."""
        self.credentials = credentials
        self.changed()

    def wire(self, sock: socket.socket, watch: Watch, limits: Limits) -> TlsWire:
        """A new connection, before its handshake."""
        session = TlsSession(self.credentials.context)
        return TlsWire(sock, watch, session, send_seconds=limits.handshake_seconds)

    async def greet(self, wire: TlsWire, limits: Limits) -> Peer | None:
        """Do the handshake. None: the client shows no certificate, and need not.

        Raises:
            TlsError: it failed; the client was told.
            InterruptedWaitError: see Wire.
        """
        try:
            await wire.handshake(limits.handshake_seconds)
        except TlsError as error:
            if error.reason == "plain_http":
                wire.say_plainly(_SPEAK_TLS)
            self._failed(error.reason)
            raise
        except WireTimeoutError:
            self._failed("timeout")
            raise TlsError("timeout") from None
        except WireError:
            self._failed("closed")
            raise TlsError("closed") from None
        session = wire.session
        certificate = session.certificate()
        shown = "no" if certificate is None else "yes"
        count(self.metrics.handshakes, session.version, shown)
        if certificate is None:
            return None
        chain = self._chains.of(
            certificate, session.verified_chain(), resumable=session.version == "TLSv1.2"
        )
        return Peer(certificate, chain, trust=lambda: self.credentials.trust, now=self._now)

    def _failed(self, reason: str) -> None:
        count(self.metrics.failures, reason)
        self._untold[reason] = self._untold.get(reason, 0) + 1
        now = self._now()
        if not 0 <= now - self._told_at.get(reason, -TELL_SECONDS) < TELL_SECONDS:
            self._told_at[reason] = now
            self._told(reason, self._untold.pop(reason))


def _plain_reply() -> bytes:
    refusal = replies.refusal("tls_required", "this port speaks TLS: use https://", 400)
    return b"%b%b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        replies.status_line(400),
        replies.lines(refusal.headers),
        len(refusal.body),
        refusal.body,
    )


_SPEAK_TLS: Final = _plain_reply()
