"""What one connection of the HTTP side may cost: time, size and a place.

uvicorn bounds the size of a head and the silence between two requests. It does not bound how long
a request may take to come, how long an answer may wait for a peer that does not read, nor how many
connections there are: that is added to its protocol here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from observer.config import Limits
from observer.metrics import Metrics
from observer.peers import Full, Places, peer

_REASONS: Final = {
    "address": b"there are too many connections from this address (of a proxy? See --proxy)\n",
    "all": b"the Observer has as many connections as it takes\n",
}
_COMING: Final = (h11.IDLE, h11.SEND_BODY)  # states of a peer that has not said all yet


class BoundedHttp(H11Protocol):
    """One connection.

    Args:
        places: who is connected.
        others: what uvicorn gives its protocols.
    """

    def __init__(self, *, places: Places, limits: Limits, metrics: Metrics, **others: Any) -> None:
        super().__init__(**others)
        self._places = places
        self._limits = limits
        self._metrics = metrics
        self._peer: str | None = None  # None: it has no place
        self._late: asyncio.TimerHandle | None = None
        self._unsent: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        name = transport.get_extra_info("peername")
        host = peer(name[0] if isinstance(name, tuple) else "")
        try:
            self._places.take(host)
        except Full as full:
            self._metrics.http_refused.labels(full.why).inc()
            text = _REASONS[full.why]
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)
            )
            transport.close()
            return
        self._peer = host
        # Every byte that waits counts, so that `pause_writing` says when it began to wait.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer is None:
            return
        self._places.leave(self._peer)
        self._peer = None
        for timer in (self._late, self._unsent):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            return  # sent away
        super().data_received(data)
        self._watch_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.loop.call_later(self._limits.http_unsent, self._cut, "unsent")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unsent is not None:
            self._unsent.cancel()

    def _watch_request(self) -> None:
        """One limit from the first byte of a request (or the beginning of the connection) to its
        last, however steadily they come."""
        if self.conn.their_state not in _COMING:
            if self._late is not None:
                self._late.cancel()
                self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(self._limits.http_request, self._cut, "request")

    def _cut(self, why: str) -> None:
        self._metrics.http_cut.labels(why).inc()
        self.transport.abort()
