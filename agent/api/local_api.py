"""The local API: HTTP/1.1 on a Unix socket, for operators, probes and neighbours in the pod.

Not a hot path, so h11 does the protocol. The socket is mode 0660 in a directory of ours; besides,
the peer's credentials are checked (root, the agent's user, or a member by primary group of the
socket's group): a socket that was given to somebody by mistake still does not answer everybody.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import h11
import trio

from agent import logs, unix_socket
from agent.errors import ExitCode, FatalError
from agent.life.supervise import Faults
from attestation.panics import FaultsEndHere

MAX_BODY: Final = 16 * 1024  # bytes: a challenge is small
# Bytes that some routes may receive instead; a policy bundle has up to 8 MiB.
MAX_BODIES: Final = {
    "/v1/policy": 9 * 1024 * 1024,
    "/v1/policy/shadow": 9 * 1024 * 1024,
    "/access/v1/evaluation": 1024 * 1024,  # with the text that is to be looked at
    "/access/v1/evaluations": 1024 * 1024,
}
MAX_CONNECTIONS: Final = 64
NOBODY: Final = 65_534
REQUEST_SECONDS: Final = 10.0  # to receive a request; answering may take longer (a quote)
SEND_SECONDS: Final = 10.0  # to send an answer
ACCEPT_SECONDS: Final = 0.1  # between two tries to accept where the system has nothing left for it
TELL_SECONDS: Final = 60.0  # the log says so at most so often
_LOG = logs.get("api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: `path` without the query. `uid`: the user at the other end, by the kernel.

    `headers`: by name in lower case; of several of one name, the last.
    """

    method: str
    path: str
    body: bytes
    query: str = ""
    uid: int = -1
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def with_header(self, name: str, value: str) -> Response:
        """The same with one header more."""
        return replace(self, headers=(*self.headers, (name, value)))

    @classmethod
    def json(cls, value: object, *, status: int = 200) -> Response:
        """A JSON answer, indented: people read it with curl."""
        return cls(status=status, body=json.dumps(value, indent=2).encode() + b"\n")

    @classmethod
    def error(cls, status: int, code: str, message: str) -> Response:
        """The error shape of this API: `{"error": {"code", "message"}}`."""
        return cls.json({"error": {"code": code, "message": message}}, status=status)


Handler = Callable[[Request], Awaitable[Response]]


def bind(path: Path) -> trio.SocketListener:
    """Bind the socket, mode 0660, replacing a dead one.

    Raises:
        FatalError: another agent answers on it, or the path cannot be used.
    """
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _remove_dead(path)
        sock = trio.socket.from_stdlib_socket(unix_socket.bind(path, 0o660))
    except OSError as error:
        raise FatalError(
            ExitCode.STATE,
            f"the local API cannot listen on {path}: {error.strerror or error}",
            remedy="set api.socket to a path (at most 100 bytes) in a writable directory",
        ) from None
    sock.listen(MAX_CONNECTIONS)
    return trio.SocketListener(sock)


def _remove_dead(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "something that is not a socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
        else:
            raise OSError(0, "another agent answers there")


async def serve(
    listener: trio.SocketListener,
    handler: Handler,
    *,
    faults: Faults | None = None,
    anybody: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled. One connection's failure is its own.

    Args:
        faults: counts what an answer must not end the daemon with; None: it ends the caller.
        anybody: the listener is TCP: answer whoever asks, as user NOBODY. For `api.Probes` only.
    """
    places = _Places()

    def note(error: BaseException) -> None:
        if isinstance(error, trio.BrokenResourceError | trio.TooSlowError | h11.ProtocolError):
            return  # the peer is gone, silent or not speaking HTTP; there is nobody to tell
        if faults is None:
            raise error
        faults.note("api", error)

    async def connection(stream: trio.SocketStream) -> None:
        if not places.take():
            await stream.aclose()
            return
        try:
            with FaultsEndHere(note):  # an answer that fails must not end the daemon
                uid, gid = (NOBODY, NOBODY) if anybody else _peer(stream.socket)
                if anybody or uid in (0, os.geteuid()) or gid == os.getegid():
                    await _talk(stream, handler, uid, places)
        finally:
            places.leave()
            await trio.aclose_forcefully(stream)

    told = -TELL_SECONDS
    async with listener, trio.open_nursery() as nursery:
        task_status.started()
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:  # no descriptor is free: others must close first
                if trio.current_time() - told >= TELL_SECONDS:
                    told = trio.current_time()
                    _LOG.error("api.out_of_resources", error=error.strerror)
                await trio.sleep(ACCEPT_SECONDS)
            else:
                nursery.start_soon(connection, stream)


class _Places:
    """As many connections as there may be; who holds one and asks nothing gives way to a newcomer,
    so that a probe is answered though somebody took all.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._silent: dict[trio.CancelScope, None] = {}  # the longest first

    def take(self) -> bool:
        """A place for a newcomer; False: everybody is being answered."""
        if self._taken >= MAX_CONNECTIONS:
            longest = next(iter(self._silent), None)
            if longest is None:
                return False
            del self._silent[longest]
            longest.cancel()
        self._taken += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._taken -= 1

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """While a request is waited for. Raises TooSlowError: it took too long, or gave way."""
        with trio.fail_after(REQUEST_SECONDS) as scope:
            self._silent[scope] = None
            try:
                yield
            finally:
                self._silent.pop(scope, None)


def _peer(sock: trio.socket.SocketType) -> tuple[int, int]:
    """Who is at the other end: user and primary group."""
    size = struct.calcsize("3i")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, uid, gid = struct.unpack("3i", raw)
    return uid, gid


async def _talk(stream: trio.SocketStream, handler: Handler, uid: int, places: _Places) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        with places.receiving():
            request = await _receive(stream, connection)
        if request is None:
            return
        response = await _answer(request, handler, uid)
        head_only = request.method == "HEAD"
        head = h11.Response(
            status_code=response.status,
            headers=[
                ("content-type", response.content_type),
                ("content-length", str(len(response.body))),
                ("cache-control", "no-store"),
                *response.headers,
            ],
        )
        parts = [connection.send(head)]
        if not head_only:
            parts.append(connection.send(h11.Data(data=response.body)))
        parts.append(connection.send(h11.EndOfMessage()))
        with trio.fail_after(SEND_SECONDS):  # who reads nothing does not keep its place
            await stream.send_all(b"".join(part for part in parts if part))
        if connection.our_state is h11.MUST_CLOSE or connection.their_state is h11.MUST_CLOSE:
            return
        connection.start_next_cycle()


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    limit = MAX_BODY
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65_536))
        elif isinstance(event, h11.Request):
            head = event
            limit = MAX_BODIES.get(head.target.decode("ascii"), MAX_BODY)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit:
                raise h11.RemoteProtocolError("body too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            path, _, query = head.target.decode("ascii").partition("?")
            method = head.method.decode("ascii")
            headers = {
                name.decode("ascii"): value.decode("latin-1") for name, value in head.headers
            }
            return Request(method=method, path=path, body=bytes(body), query=query, headers=headers)
        else:
            return None


async def _answer(request: Request, handler: Handler, uid: int) -> Response:
    method = "GET" if request.method == "HEAD" else request.method
    return await handler(replace(request, method=method, uid=uid))
