"""Issuers' keys are exchanged while the agent runs."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from enforcement.identity.jwks import KeySource
from enforcement.identity.tokens import KeySet, TokenError, read_keys
from tests.panics import Panic


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jumps only when nothing has moved for a while: loopback data is never overtaken."""
    return trio.testing.MockClock(autojump_threshold=0.02)


def document(kid: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return json.dumps({"keys": [{**json.loads(ECAlgorithm.to_jwk(key)), "kid": kid}]}).encode()


def has(source: KeySource, kid: str) -> bool:
    keys = source.keys()
    if keys is None:
        return False
    try:
        keys.find("ES256", kid)
    except TokenError:
        return False
    return True


class Server:
    """Serves one document; counts."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.status = b"200 OK"
        self.asked = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = await stream.receive_some()
                if not piece:
                    return
                data += piece
            self.asked += 1
            head = b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            await stream.send_all(head % (self.status, len(self.body)) + self.body)


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[tuple[KeySource, list[str]]]:
    problems: list[str] = []
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/keys"
        source = KeySource(
            "issuer",
            url,
            refresh=300,
            max_age=1000,
            told=lambda _issuer, problem: problems.append(problem),
        )
        await nursery.start(source.run)
        yield source, problems
        nursery.cancel_scope.cancel()


async def test_a_url_is_asked_again_from_time_to_time(autojump_clock: object) -> None:
    server = Server(document("a"))
    async with served(server) as (source, _):
        assert has(source, "a")
        server.body = document("b")
        await trio.sleep(299)
        assert has(source, "a")
        await trio.sleep(2)
        assert has(source, "b")
        assert not has(source, "a")


async def test_keys_are_not_fetched_from_where_an_answer_sends_us(autojump_clock: object) -> None:
    elsewhere = Server(document("b"))
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        nursery.start_soon(trio.serve_listeners, elsewhere.serve, [listener])
        location = b"http://127.0.0.1:%d/keys" % listener.socket.getsockname()[1]
        server = Server(document("a"))
        async with served(server) as (source, problems):
            server.status = b"302 Found\r\nlocation: " + location
            await trio.sleep(301)
            assert problems == ["status 302"]
            assert has(source, "a")
            assert not has(source, "b")
        assert elsewhere.asked == 0
        nursery.cancel_scope.cancel()


async def test_a_key_that_is_not_there_is_fetched_at_once_but_not_again_and_again(
    autojump_clock: object,
) -> None:
    server = Server(document("a"))
    async with served(server) as (source, _):
        server.body = document("b")
        for _ in range(50):
            source.want()
        await trio.sleep(11)
        assert has(source, "b")
        for _ in range(50):
            source.want()
            await trio.sleep(0.1)
        assert server.asked <= 3


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (b"500 Oops", b"{}", "status 500"),
        (b"302 Found", b"", "status 302"),
        (b"200 OK", b"<html>", "not a JSON object"),
        (b"200 OK", b" " * (1024 * 1024 + 1), "larger than"),
        (b"200 OK\r\ncontent-encoding: gzip", gzip.compress(bytes(10**7)), "compressed"),
        (b"200 OK", b'{"keys": [{"key_ops": 5}]}', "no key in it"),
        (b"200 OK", b'{"keys": [{"key_ops": null, "use": ["sig"]}]}', "no key in it"),
        (
            b"200 OK",
            b'{"keys": [{"kty": ["EC"], "crv": {}, "kid": [], "alg": {}}]}',
            "no key in it",
        ),
    ],
)
async def test_what_cannot_be_fetched_changes_nothing_until_the_keys_are_too_old(
    autojump_clock: object, status: bytes, body: bytes, words: str
) -> None:
    server = Server(document("a"))
    async with served(server) as (source, problems):
        server.status, server.body = status, body
        await trio.sleep(301)
        assert has(source, "a")
        assert words in problems[-1]
        await trio.sleep(1000)
        assert source.keys() is None


@pytest.mark.parametrize(
    "error", [TypeError("secret"), RecursionError(), MemoryError(), OSError(5, "x"), Panic("x")]
)
async def test_no_fault_of_a_reader_ends_the_source_or_the_keys(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def read(document: bytes) -> KeySet:
        if b'"b"' in document:
            raise error
        return read_keys(document)

    monkeypatch.setattr("enforcement.identity.jwks.read_keys", read)
    server = Server(document("a"))
    async with served(server) as (source, problems):
        server.body = document("b")
        await trio.sleep(301)
        assert has(source, "a")
        assert problems[-1] == type(error).__name__
        server.body = document("c")
        await trio.sleep(301)
        assert has(source, "c")


async def test_a_file_is_read_again_and_a_broken_one_keeps_the_keys(
    tmp_path: Path, autojump_clock: object
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(document("a"))
    source = KeySource("issuer", path)
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        path.write_bytes(b"{")
        await trio.sleep(6)
        assert has(source, "a")
        assert source.failures >= 1
        path.write_bytes(document("b"))
        await trio.sleep(6)
        assert has(source, "b")
        path.unlink()
        await trio.sleep(6)
        assert has(source, "b")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "url", ["http://example.org/keys", "file:///etc/passwd", "ftp://a", "https://u:p@a/", "x"]
)
def test_only_https_or_this_machine_is_asked(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        KeySource("issuer", url)
