"""Replies of a model server: the same strictness as for clients."""

from __future__ import annotations

import pytest

from enforcement.http.fields import HttpError
from enforcement.http.limits import Limits
from enforcement.http.replies import ReplyParser
from enforcement.http.reply_head import ReplyHead

OK = b"HTTP/1.1 200 OK\r\n"


def read(wire: bytes, *, size: int = 1 << 20, end: bool = False) -> tuple[ReplyParser, bytes]:
    parser, body = ReplyParser(Limits()), b""
    for start in range(0, len(wire), size):
        body += parser.feed(wire[start : start + size])
    if end:
        parser.end()
    return parser, body


def head_of(parser: ReplyParser) -> ReplyHead:
    assert parser.head is not None
    return parser.head


GOOD: dict[str, tuple[bytes, bytes, bool]] = {
    "length": (OK + b"Content-Length: 2\r\n\r\n{}", b"{}", False),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", b"", False),
    "chunks": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x\r\n}\r\n0\r\n\r\n",
        b"{}",
        False,
    ),
    "trailers are dropped": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
        b"{}",
        False,
    ),
    "until the end": (OK + b"\r\n{}", b"{}", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n{}", b"{}", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", False),
    "not modified, with a length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        b"",
        False,
    ),
    "interim replies before": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\n{}",
        b"{}",
        False,
    ),
    "no reason": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}", b"{}", False),
}

BAD: dict[str, bytes] = {
    "length and coding": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "equal lengths": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of lengths": OK + b"Content-Length: 2, 2\r\n\r\n{}",
    "signed length": OK + b"Content-Length: +2\r\n\r\n{}",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a second reply behind": OK
    + b"Content-Length: 2\r\n\r\n{}"
    + OK
    + b"Content-Length: 0\r\n\r\n",
    "a second reply behind chunks": OK
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + OK
    + b"Content-Length: 0\r\n\r\n",
    "rubbish behind": OK + b"Content-Length: 2\r\n\r\n{}rubbish",
    "an empty line behind": OK + b"Content-Length: 2\r\n\r\n{}\r\n",
    "an empty line behind chunks": OK
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n\r\n",
    "a line feed behind trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n\n",
    "a line feed behind": OK + b"Content-Length: 0\r\n\r\n\n",
    "an empty line behind no body": b"HTTP/1.1 204 No Content\r\n\r\n\r\n",
    "a body where there is none": b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "a bare carriage return": OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "a continued line": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "a blank before the colon": OK + b"Content-Length : 2\r\n\r\n{}",
    "NUL": OK + b"X: \x00\r\nContent-Length: 2\r\n\r\n{}",
    "another version": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no version": b"200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status over 599": b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "interim replies without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
    "a chunk size with a sign": OK + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n",
    "two content types": OK
    + b"Content-Type: text/plain\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n",
    "a content type that is none, with a charset": OK
    + b"Content-Type: text/x charset=utf-7\r\nContent-Length: 0\r\n\r\n",
    "connection names the length": OK
    + b"Connection: content-length\r\nContent-Length: 2\r\n\r\n{}",
    "an endless head": OK + b"X: " + b"a" * 33_000,
    "too many fields": OK + b"X: 1\r\n" * 101 + b"\r\n",
}


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("name", GOOD)
def test_a_sound_reply_is_read_however_it_is_split(name: str, size: int) -> None:
    wire, body, until_end = GOOD[name]
    parser, found = read(wire, size=size, end=until_end)
    assert found == body
    assert parser.complete
    assert head_of(parser).reusable is not until_end


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", BAD)
def test_an_ambiguous_reply_is_refused_however_it_is_split(name: str, size: int) -> None:
    with pytest.raises(HttpError):
        read(BAD[name], size=size)


def test_a_reply_cut_short_is_refused() -> None:
    for wire in (
        OK,
        OK + b"Content-Length: 3\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ):
        with pytest.raises(HttpError) as refused:
            read(wire, end=True)
        assert refused.value.code == "upstream_closed"


def test_one_parser_reads_many_replies() -> None:
    parser = ReplyParser(Limits())
    for number in range(10):
        parser.begin()
        assert parser.feed(OK + b"Content-Length: %d\r\n\r\n" % number + b"x" * number) == (
            b"x" * number
        )
        assert parser.complete
        parser.begin()
        assert parser.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n") == b"a"
        assert parser.complete


def test_hop_by_hop_framing_and_forged_fields_do_not_reach_the_client() -> None:
    parser, _ = read(
        OK + b"Server: x\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n"
        b"Lucid-Decision-Id: forged\r\nAlt-Svc: h3\r\nAccept-Ranges: bytes\r\nUpgrade: h2c\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )
    block = head_of(parser).fields(edited=False, request_id=None)
    assert block == b"\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b"


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        ("application/json;charset=UTF-8", "application/json;charset=UTF-8"),
        ('text/plain; charset="utf-8"', 'text/plain; charset="utf-8"'),
        ("multipart/x; boundary=a", "multipart/x; boundary=a"),
        ("application/json; charset=utf-16", "application/json; charset=utf-8"),
        ("text/html; charset=UTF-7", "text/html; charset=utf-8"),
        ("text/html; charset=utf-8; charset=utf-7", "text/html; charset=utf-8"),
        ("text/html; a=charset=utf-8; charset = utf-7", "text/html; charset=utf-8"),
        ("text/event-stream ;charset=utf-16le", "text/event-stream; charset=utf-8"),
    ],
)
def test_the_client_reads_a_reply_in_the_charset_in_which_it_was_decided(
    value: str, passes: str
) -> None:
    parser, _ = read(OK + f"Content-Type: {value}\r\nContent-Length: 0\r\n\r\n".encode())
    block = head_of(parser).fields(edited=True, request_id=None).decode()
    assert block.partition(": ")[2].lower() == passes.lower()
    assert head_of(parser).content_type == value


def test_digests_of_a_body_go_when_it_is_edited() -> None:
    parser, _ = read(OK + b'ETag: "x"\r\nContent-MD5: y\r\nX: 1\r\nContent-Length: 0\r\n\r\n')
    assert head_of(parser).fields(edited=True, request_id=None) == b"\r\nX: 1"
    assert b"ETag" in head_of(parser).fields(edited=False, request_id=None)


def test_the_client_gets_its_own_request_id_back() -> None:
    parser, _ = read(OK + b"X-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n")
    head = head_of(parser)
    assert head.fields(edited=False, request_id=b"mine") == b"\r\nx-request-id: mine"
    assert head.fields(edited=False, request_id=None) == b"\r\nX-Request-Id: theirs"


@pytest.mark.parametrize(
    ("value", "stream"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("text/event-stream ;x", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_event_streams_are_told_by_their_media_type(value: str, stream: bool) -> None:
    parser, _ = read(OK + f"Content-Type: {value}\r\nContent-Length: 0\r\n\r\n".encode())
    assert head_of(parser).is_event_stream is stream
