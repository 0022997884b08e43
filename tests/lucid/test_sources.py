"""Passports from a URL: whoever answers there is hostile."""

from __future__ import annotations

import gzip
import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lucid import sources
from lucid.sources import MAX_SIZE, SourceError, read_source

BOMB = gzip.compress(bytes(64 * 1024 * 1024))


class Hostile(BaseHTTPRequestHandler):
    """What it does is in the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        match self.path:
            case "/plain":
                self._answer([b"passport"])
            case "/bomb":
                self._answer([BOMB], **{"Content-Encoding": "gzip"})
            case "/crumbs":
                self._answer(itertools.repeat(b"x", MAX_SIZE + 1))
            case "/endless":
                self._answer(itertools.repeat(bytes(65_536)))
            case "/redirect":
                self.send_response(302)
                self.send_header("Location", "/plain")
                self.send_header("Content-Length", "0")
                self.end_headers()

    def _answer(self, pieces: Any, **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the reader has had enough

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_there_is_read(url: str) -> None:
    assert read_source(f"{url}/plain") == b"passport"


def test_what_is_compressed_is_not_expanded(url: str) -> None:
    read_source(f"{url}/plain")
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="compressed"):
            read_source(f"{url}/bomb")
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_more_than_can_be_meant_is_not_read_to_its_end(url: str) -> None:
    with pytest.raises(SourceError, match="larger than"):
        read_source(f"{url}/endless")


def test_crumbs_end_with_the_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FETCH_SECONDS", 0.05)
    with pytest.raises(SourceError, match="no whole answer"):
        read_source(f"{url}/crumbs")


def test_nobody_is_sent_elsewhere(url: str) -> None:
    with pytest.raises(SourceError, match="302"):
        read_source(f"{url}/redirect")
