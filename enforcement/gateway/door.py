"""The door's life: listening sockets, a task for each connection, draining and closing."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Final

import trio

from attestation.panics import FaultsEndHere
from enforcement.admission import Admission
from enforcement.gateway import replies
from enforcement.gateway.client import Shared
from enforcement.gateway.connection import Connection, note_fault
from enforcement.gateway.pages import Page
from enforcement.gateway.tls_server import TlsServer
from enforcement.http.limits import Limits
from enforcement.http.metrics import GatewayMetrics, count
from enforcement.http.upstream import Address, Pool
from enforcement.http.wire import Watch

_LOG = logging.getLogger("lucid.gateway")
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TELL_SECONDS: Final = 60.0  # the log says that nobody can be accepted at most so often
_TURNED_AWAY: Final = 64  # connections over the limit that are told so at one moment


class Door:
    """A reverse proxy in front of one model server. `serve` is called once.

    Args:
        admission: who decides about requests. `Gateway` brings the policy; nothing else in this
            package makes a Door.
        pages: targets that are answered here, by exact path.
        watch: one that somebody else runs and closes; None: the door has its own.
        tls: what clients are greeted with; None: they speak plain HTTP.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        upstream: Address,
        admission: Admission,
        pages: dict[str, Page] | None = None,
        watch: Watch | None = None,
        tls: TlsServer | None = None,
    ) -> None:
        self.metrics = GatewayMetrics()
        self._pages = pages or {}
        self._own_watch = watch is None
        watch = watch or Watch()
        self._shared = Shared(
            limits=limits,
            metrics=self.metrics,
            admission=admission,
            pool=Pool(upstream, limits, watch, self.metrics),
            watch=watch,
            tls=tls,
        )
        if tls is not None:
            tls.changed = self._look_at_peers
        self._open: set[Connection] = set()
        self._turned_away = 0
        self._told_out = -_TELL_SECONDS
        self._accepting = trio.CancelScope()
        self._empty = trio.Event()

    async def serve(
        self,
        listen_sockets: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled. The listening sockets are closed here, at the latest at the end.

        Args:
            listen_sockets: bound and listening TCP sockets.
        """
        shared = self._shared
        try:
            async with trio.open_nursery() as nursery:
                if self._own_watch:
                    await nursery.start(shared.watch.run)
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for listener in listen_sockets:
                            listener.setblocking(False)
                            accepting.start_soon(self._accept, listener, nursery)
                        task_status.started()
                for listener in listen_sockets:
                    listener.close()
                await trio.sleep_forever()
        finally:
            for listener in listen_sockets:
                listener.close()
            shared.pool.close()
            if self._own_watch:
                shared.watch.close()

    def stop_accepting(self) -> None:
        """Begin to drain: no new connections, idle ones are closed, open exchanges go on."""
        self._shared.draining = True
        self._accepting.cancel()
        for connection in self._open:
            if connection.client.idle:
                connection.client.wire.interrupt()
        if not self._open:
            self._empty.set()

    def _look_at_peers(self) -> None:
        """Other certificates count now: a client whose own does not any more has to leave."""
        for connection in self._open:
            connection.client.look_at_peer()

    async def drained(self) -> None:
        """Wait, after `stop_accepting`, until the last connection is closed."""
        await self._empty.wait()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        limit = self._shared.limits.connections
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener)
                continue
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._out_of_resources(error)
                    await trio.sleep(0.1)  # others must close first
                await trio.lowlevel.checkpoint()  # one that comes again and again stops nobody
                continue
            sock.setblocking(False)
            self.metrics.accepted += 1
            if len(self._open) < limit:
                nursery.start_soon(self._run, sock)
                await trio.lowlevel.checkpoint()
            elif self._turned_away < _TURNED_AWAY:
                nursery.start_soon(self._turn_away, sock)
            else:
                sock.close()
                await trio.lowlevel.checkpoint()

    def _out_of_resources(self, error: OSError) -> None:
        count(self.metrics.refusals, "out_of_resources")
        now = trio.current_time()
        if now - self._told_out >= _TELL_SECONDS:
            self._told_out = now
            values = {"error": error.strerror, "connections": self.metrics.connections}
            _LOG.error("gateway.out_of_resources", extra={"values": values})

    async def _run(self, sock: socket.socket) -> None:
        with self._on_its_own(sock):
            await self._serve_one(sock)

    @contextlib.contextmanager
    def _on_its_own(self, sock: socket.socket) -> Iterator[None]:
        """Whatever one connection meets, also before it can be watched (a limit of the kernel) and
        while it is told of a fault, is its own end and nobody else's."""
        with FaultsEndHere(functools.partial(note_fault, self.metrics)), sock:
            yield

    async def _serve_one(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, self._shared, self._pages)
        self._open.add(connection)
        self.metrics.connections += 1
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            self.metrics.connections -= 1
            if self._shared.draining and not self._open:
                self._empty.set()

    async def _turn_away(self, sock: socket.socket) -> None:
        """One connection too many: it is told so, without its request being read."""
        count(self.metrics.refusals, "too_many_connections")
        self._turned_away += 1
        try:
            with self._on_its_own(sock):
                connection = Connection(sock, self._shared, self._pages)
                await connection.turn_away(
                    replies.refusal(
                        "too_many_connections",
                        "too many connections; try later",
                        503,
                        retry_after=1,
                    )
                )
        finally:
            self._turned_away -= 1
