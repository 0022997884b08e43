"""Messages that two parsers could read in two ways: refused, closed, never passed on."""

from __future__ import annotations

import pytest

from enforcement.http.chunks import ChunkReader
from enforcement.http.fields import HttpError
from enforcement.http.limits import Limits
from enforcement.http.requests import RequestParser
from tests.enforcement.gateway.doors import house, request

P = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
G = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"

# name: (bytes of a head, the code it is refused with)
HEADS: dict[str, tuple[bytes, str]] = {
    "length and coding": (
        P + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "http_length_and_encoding",
    ),
    "coding and length": (
        P + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        "http_length_and_encoding",
    ),
    "two lengths": (P + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n", "http_content_length"),
    "equal lengths": (P + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\n", "http_content_length"),
    "list of lengths": (P + b"Content-Length: 4, 4\r\n\r\n", "http_content_length"),
    "signed length": (P + b"Content-Length: +4\r\n\r\n", "http_content_length"),
    "negative length": (P + b"Content-Length: -1\r\n\r\n", "http_content_length"),
    "hexadecimal length": (P + b"Content-Length: 0x4\r\n\r\n", "http_content_length"),
    "length with a zero before": (P + b"Content-Length: 04\r\n\r\n", "http_content_length"),
    "length with a blank inside": (P + b"Content-Length: 1 0\r\n\r\n", "http_content_length"),
    "length with an underscore": (P + b"Content-Length: 1_0\r\n\r\n", "http_content_length"),
    "empty length": (P + b"Content-Length:\r\n\r\n", "http_content_length"),
    "length in other digits": (
        P + b"Content-Length: \xd9\xa4\r\n\r\n",
        "http_content_length",
    ),
    "endless length": (P + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", "http_content_length"),
    "identity coding": (P + b"Transfer-Encoding: identity\r\n\r\n", "http_transfer_encoding"),
    "gzip, chunked": (P + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "http_transfer_encoding"),
    "chunked, chunked": (
        P + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
        "http_transfer_encoding",
    ),
    "chunked twice": (
        P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "http_transfer_encoding",
    ),
    "xchunked": (P + b"Transfer-Encoding: xchunked\r\n\r\n", "http_transfer_encoding"),
    "chunked with a parameter": (
        P + b"Transfer-Encoding: chunked;q=1\r\n\r\n",
        "http_transfer_encoding",
    ),
    "quoted chunked": (P + b'Transfer-Encoding: "chunked"\r\n\r\n', "http_transfer_encoding"),
    "vertical tab before chunked": (
        P + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
        "http_control_character",
    ),
    "coding in HTTP/1.0": (
        b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "http_transfer_encoding",
    ),
    "blank before the colon": (P + b"Content-Length : 4\r\n\r\n", "http_header_name"),
    "tab before the colon": (P + b"Transfer-Encoding\t: chunked\r\n\r\n", "http_header_name"),
    "continued line": (P + b"X: a\r\n b\r\n\r\n", "http_obs_fold"),
    "continued first line": (
        b"POST /x HTTP/1.1\r\n Host: a\r\n\r\n",
        "http_obs_fold",
    ),
    "continued coding": (P + b"Transfer-Encoding:\r\n chunked\r\n\r\n", "http_obs_fold"),
    "bare line feed": (P + b"X: a\nContent-Length: 4\r\n\r\n", "http_line_ending"),
    "bare carriage return": (P + b"X: a\rContent-Length: 4\r\n\r\n", "http_line_ending"),
    "carriage return before CR LF": (P + b"X: a\r\r\n\r\n", "http_line_ending"),
    "only line feeds": (b"GET /v1/models HTTP/1.1\nHost: a\n\n", "http_line_ending"),
    "line feed in the request line": (b"GET /v1/models\nHTTP/1.1\r\n\r\n", "http_line_ending"),
    "NUL in a value": (P + b"X: a\x00b\r\n\r\n", "http_control_character"),
    "NUL in a name": (P + b"X\x00: a\r\n\r\n", "http_header_name"),
    "delete in a value": (P + b"X: \x7f\r\n\r\n", "http_control_character"),
    "underscored length": (P + b"Content_Length: 4\r\n\r\n", "http_header_name"),
    "underscored coding": (P + b"transfer_Encoding: chunked\r\n\r\n", "http_header_name"),
    "underscored length beside a length": (
        P + b"Content-Length: 2\r\nContent_length: 4\r\n\r\n{}",
        "http_header_name",
    ),
    "no colon": (P + b"Content-Length 4\r\n\r\n", "http_header"),
    "empty name": (P + b": 4\r\n\r\n", "http_header_name"),
    "name that is no token": (P + b"Content-Length\xa0: 4\r\n\r\n", "http_header_name"),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", "http_host"),
    "two hosts": (G + b"Host: b\r\n\r\n", "http_host"),
    "empty host": (b"GET /v1/models HTTP/1.1\r\nHost:\r\n\r\n", "http_host"),
    "host with a path": (b"GET /v1/models HTTP/1.1\r\nHost: a/b\r\n\r\n", "http_host"),
    "host with user": (b"GET /v1/models HTTP/1.1\r\nHost: u@a\r\n\r\n", "http_host"),
    "absolute form": (b"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "http_target"),
    "authority form": (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "http_target"),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "http_target"),
    "fragment": (b"GET /v1/models#x HTTP/1.1\r\nHost: a\r\n\r\n", "http_target"),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "http_method"),
    "CONNECT with a path": (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", "http_method"),
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "http_method"),
    "lower-case method": (b"get /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "http_request_line"),
    "method unknown to llhttp": (b"GOT /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "http_malformed"),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http_version"),
    "HTTP/1.2": (b"GET /v1/models HTTP/1.2\r\nHost: a\r\n\r\n", "http_version"),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", "http_request_line"),
    "blank in the target": (b"GET /v1/ models HTTP/1.1\r\nHost: a\r\n\r\n", "http_request_line"),
    "two blanks": (b"GET  /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "http_request_line"),
    "tab in the request line": (
        b"GET\t/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        "http_request_line",
    ),
    "blank behind the version": (
        b"GET /v1/models HTTP/1.1 \r\nHost: a\r\n\r\n",
        "http_request_line",
    ),
    "empty line first": (b"\r\n" + G + b"\r\n", "http_request_line"),
    "raw UTF-8 in the target": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "http_request_line"),
    "h2c upgrade": (
        G + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        "http_upgrade",
    ),
    "a body that says it is compressed": (
        G + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        "http_content_encoding",
    ),
    "two content types": (
        P + b"Content-Type: application/json\r\nContent-Type: text/x\r\n\r\n",
        "http_content_type",
    ),
    "content type that is none": (P + b"Content-Type: json\r\n\r\n", "http_content_type"),
    "two content types in one": (
        P + b"Content-Type: application/json, text/x\r\n\r\n",
        "http_content_type",
    ),
    "websocket upgrade": (G + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", "http_upgrade"),
    "another expectation": (P + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n", "http_expectation"),
    "connection names the length": (
        P + b"Connection: content-length\r\nContent-Length: 2\r\n\r\n",
        "http_connection",
    ),
    "connection names the credentials": (
        P + b"Connection: close, Authorization\r\n\r\n",
        "http_connection",
    ),
    "connection that is no list": (G + b"Connection: a b\r\n\r\n", "http_connection"),
}

CHUNKS: dict[str, tuple[bytes, str]] = {
    "size with a sign": (b"+2\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "size with 0x": (b"0x2\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "size with a blank before": (b" 2\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "size with a blank behind": (b"2 \r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "size with an underscore": (b"0_2\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "no size": (b"\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "size of nine digits": (b"000000002\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "size line with a bare line feed": (b"2\n{}\r\n0\r\n\r\n", "http_chunk"),
    "data longer than its size": (b"2\r\n{}x\r\n0\r\n\r\n", "http_chunk"),
    "data ended by a bare line feed": (b"2\r\n{}\n0\r\n\r\n", "http_chunk"),
    "data ended by a bare carriage return": (b"2\r\n{}\rx0\r\n\r\n", "http_chunk"),
    "line feed in an extension": (b"2;a\nb\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "NUL in an extension": (b"2;a\x00\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "endless extension": (b"2;" + b"a" * 200 + b"\r\n{}\r\n0\r\n\r\n", "http_chunk"),
    "endless size line": (b"2;" + b"a" * 200, "http_chunk"),
    "trailers": (b"2\r\n{}\r\n0\r\nX: y\r\n\r\n", "http_trailers"),
    "a length as trailer": (b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n", "http_trailers"),
    "last chunk ended by a bare line feed": (b"2\r\n{}\r\n0\r\n\n", "http_trailers"),
    "too large a chunk": (b"ffffffff\r\n", "body_too_large"),
}


@pytest.mark.parametrize("name", HEADS)
def test_an_ambiguous_head_is_refused(name: str) -> None:
    head, code = HEADS[name]
    end = head.find(b"\r\n\r\n") + 4
    with pytest.raises(HttpError) as refused:
        RequestParser(Limits()).parse(head[:end] if end > 3 else head)
    assert refused.value.code == code
    assert 400 <= refused.value.status < 600


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_ambiguous_chunked_body_is_refused(name: str, size: int) -> None:
    body, code = CHUNKS[name]
    reader = ChunkReader(Limits())

    def feed_all() -> None:
        for start in range(0, len(body), size):
            assert not reader.done
            reader.feed(body[start : start + size])

    with pytest.raises(HttpError) as refused:
        feed_all()
    assert refused.value.code == code


async def test_at_the_door_each_is_refused_closed_and_never_passed_on() -> None:
    async with house() as door:
        for name, (head, code) in HEADS.items():
            client = await door.connect()
            # What stands behind is what the attacker wants to have read as a request of its own.
            await client.send(head + request(target="/v1/completions"))
            reply = await client.reply()
            assert (name, reply.code) == (name, code)
            assert reply.headers["connection"] == "close"
            assert reply.json["error"]["decision_id"] is None
            await client.stream.send_eof()
            assert await client.is_closed(), name
        assert door.upstream.connections == 0
        assert door.journal.records == []
        assert sum(door.gateway.metrics.refusals.values()) == len(HEADS)


async def test_at_the_door_malformed_chunks_are_refused_and_closed() -> None:
    async with house() as door:
        for name, (body, code) in CHUNKS.items():
            client = await door.connect()
            await client.send(P + b"Transfer-Encoding: chunked\r\n\r\n" + body + request())
            reply = await client.reply()
            assert (name, reply.code) == (name, code)
            await client.stream.send_eof()
            assert await client.is_closed(), name
        assert door.upstream.connections == 0
