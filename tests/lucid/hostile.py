"""A server on loopback or on a Unix socket that answers as its path says."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

LARGE = 64 * 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(LARGE))


class Hostile(BaseHTTPRequestHandler):
    """What it does is in the path, behind whatever stands before `~`."""

    protocol_version = "HTTP/1.1"
    stopped = threading.Event()  # what drips ends with the server

    def address_string(self) -> str:
        return "hostile"

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        with contextlib.suppress(OSError):
            behaviour = self.server.behaviour or self.path  # type: ignore[attr-defined]
            for piece in self._raw(behaviour):
                self.wfile.write(piece)
            for piece in self._pieces(behaviour):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.close_connection = True

    do_POST = do_GET  # noqa: N815

    def _raw(self, behaviour: str) -> Iterable[bytes]:
        """What is sent as it is."""
        match behaviour:
            case "/redirect":
                return [b"HTTP/1.1 302 X\r\nlocation: /plain\r\ncontent-length: 0\r\n\r\n"]
            case "/head":
                return self._slowly(itertools.chain([OK, b"x: "], itertools.repeat(b"x")))
            case "/silent":
                self.stopped.wait(30)
                return []
            case "/break-off":
                return [OK, b"content-length: 9\r\n\r\n{"]
            case "/no-http":
                return [b"SSH-2.0-nonsense\r\n\r\n"]
            case "/bomb":
                return [OK, b"content-encoding: gzip\r\n", CHUNKED]
        return [OK, CHUNKED]

    def _pieces(self, behaviour: str) -> Iterable[bytes]:
        """A body in chunks; the last one is empty."""
        return {
            "/plain": [b"passport", b""],
            "/bomb": [BOMB, b""],
            "/crumbs": self._slowly(itertools.repeat(b"x")),
            "/endless": itertools.repeat(bytes(65_536)),
            "/number": [b'{"a": ' + b"9" * 5000 + b"}", b""],
            "/deep": [b"[" * 500_000, b""],
            "/nothing": [b""],
        }.get(behaviour, [])

    def _slowly(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            if self.stopped.wait(0.02):
                return

    def log_message(self, *_args: object) -> None:
        pass


class OnSocket(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def hostile(path: Path | None = None, behaviour: str = "") -> Iterator[str]:
    """Serve until the block ends; gives where: a URL, or the socket's path.

    Args:
        path: of a Unix socket; None: a port on loopback.
        behaviour: the path that is answered for, whichever is asked; empty: the asked one.
    """
    if path is None:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
        server.daemon_threads = True
        where = f"http://127.0.0.1:{server.server_port}"
    else:
        server, where = OnSocket(str(path), Hostile), str(path)
    server.behaviour = behaviour
    Hostile.stopped.clear()
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield where
        Hostile.stopped.set()
        server.shutdown()
        thread.join()
