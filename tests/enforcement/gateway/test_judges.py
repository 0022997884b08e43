"""What we take, h11 and llhttp read the same: on its way in, and as it goes on.

Fields that frame messages, and what imitates them, in every order. The laws are the fuzzer's
(`tests.fuzz.door_targets`); here they are asked of messages that are made to be misread.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.door_targets import http_reply, http_request

NAMES = st.sampled_from(
    [
        *(b"Host", b"Content-Length", b"content-length", b"Content_Length", b"Transfer-Encoding"),
        *(b"transfer_encoding", b"Connection", b"Expect", b"Content-Type", b"Upgrade", b"TE"),
        *(b"Trailer", b"X-A", b"Keep-Alive", b"Content-Encoding", b"Lucid-X", b"X-Request-Id"),
        *(b"Content-Length ", b" Content-Length", b"Transfer-Encoding\x0b", b"Alt-Svc", b"ETag"),
    ]
)
VALUES = st.sampled_from(
    [
        *(
            b"a",
            b"5",
            b"0",
            b"05",
            b"+5",
            b"5\t",
            b"5,5",
            b"5, 5",
            b"0x5",
            b"-1",
            b"1_0",
            b"9" * 20,
        ),
        *(b"chunked", b"Chunked", b"chunked ", b"identity", b"chunked, identity", b"gzip, chunked"),
        *(b"\x0bchunked", b"close", b"keep-alive", b"close, content-length", b"x-a", b"h2c", b""),
        *(b"100-continue", b"application/json", b"text/plain; charset=utf-7", b"\xff", b"a\rb"),
    ]
)
ODD = st.tuples(
    NAMES,
    st.sampled_from([b": ", b": ", b":", b":\t", b" : "]),
    VALUES,
    st.sampled_from([*[b"\r\n"] * 12, b"\n", b"\r\n "]),
).map(b"".join)
SOUND = st.sampled_from(
    [
        *(b"Content-Length: 5", b"Content-Length: 0", b"content-length:5\t", b"X-A: \xff"),
        *(b"Transfer-Encoding: chunked", b"TRANSFER-ENCODING:\tChunked ", b"Connection: x-a, te"),
        *(b"Connection: close", b"Keep-Alive: 5", b"Expect: 100-continue", b"TE: trailers"),
        *(b"Content-Encoding: identity", b"Accept-Encoding: gzip", b"Lucid-X: 1", b"Lucid_Y: 1"),
        *(b"Content-Type: text/plain; charset=utf-7", b"X-Request-Id: a b", b"Alt-Svc: h3", b"X:"),
    ]
).map(lambda line: line + b"\r\n")
FIELDS = SOUND | SOUND | SOUND | ODD
BODIES = st.sampled_from(
    [
        *(b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;x=y\r\nhello\r\n0\r\n\r\n"),
        *(b"5\nhello\n0\n\n", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", b"5\r\nhello0\r\n\r\n"),
        *(
            b"00000\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"helloGET /x HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
    ]
)
REQUESTS = st.sampled_from(
    [
        *(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n", b"GET /v1/models HTTP/1.1\r\n"),
        *(
            b"POST / HTTP/1.0\r\n",
            b"POST http://a/ HTTP/1.1\r\n",
            b"\r\nGET / HTTP/1.1\r\nHost: a\r\n",
        ),
    ]
)
REPLIES = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 200 \r\n",
            b"HTTP/1.1 204 No\r\n",
            b"HTTP/1.1 304 X\r\n",
        ),
        *(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 103 X\r\n",
            b"HTTP/1.1 200\r\n",
        ),
    ]
)


def messages(first: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    one = st.tuples(first, st.lists(FIELDS, max_size=4).map(b"".join), st.just(b"\r\n"), BODIES)
    return st.lists(one.map(b"".join), min_size=1, max_size=2).map(b"".join)


SPLIT = st.binary(min_size=1, max_size=1)  # into what pieces the wire bytes come


@given(SPLIT, messages(REQUESTS))
@settings(max_examples=150, deadline=None)
def test_a_request_that_is_taken_is_one_request_to_all(split: bytes, wire: bytes) -> None:
    http_request(split + wire)


@given(SPLIT, messages(REPLIES))
@settings(max_examples=150, deadline=None)
def test_a_reply_that_is_taken_is_one_reply_to_all(split: bytes, wire: bytes) -> None:
    http_reply(split + wire)
