"""The codec alone: what is accepted, what is passed on, and that splitting changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.http.chunks import ChunkReader
from enforcement.http.fields import HttpError
from enforcement.http.limits import Limits
from enforcement.http.request_head import RequestHead
from enforcement.http.requests import RequestParser

LIMITS = Limits()


def parse(*lines: str, first: str = "POST /v1/chat/completions HTTP/1.1") -> RequestHead:
    return RequestParser(LIMITS).parse("\r\n".join([first, *lines, "", ""]).encode("latin-1"))


def forwarded(head: RequestHead) -> list[bytes]:
    assert head.forward == b"" or head.forward.startswith(b"\r\n")
    return head.forward.split(b"\r\n")[1:]


def test_fields_that_mean_nothing_to_the_door_are_passed_on_as_they_are() -> None:
    head = parse("Host: a", "Authorization: Bearer k", "X-Thing:  a\tb ", "Content-Length: 3")
    assert forwarded(head) == [b"Authorization: Bearer k", b"X-Thing:  a\tb "]
    assert head.length == 3
    assert (head.method, head.target) == ("POST", "/v1/chat/completions")


@pytest.mark.parametrize(
    "field",
    [
        "Host: b:80",
        "Accept-Encoding: gzip",
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "TE: trailers",
        "Trailer: X",
        "Range: bytes=0-1",
        "If-Range: x",
        "Expect: 100-continue",
        "Content-Length: 1",
        "Transfer-Encoding: chunked",
        "Lucid-Decision-Id: dec-1",
        "LUCID-warning: x",
        "X-Request-Id: has blanks",
        "X-Request-Id: " + "x" * 65,
    ],
)
def test_hop_by_hop_and_forged_fields_do_not_reach_the_upstream(field: str) -> None:
    lines = [field, "X: 1"] if field.startswith("Host") else ["Host: a", field, "X: 1"]
    assert forwarded(parse(*lines)) == [b"X: 1"]


@pytest.mark.parametrize(
    ("value", "goes_on"),
    [
        ("application/json", "application/json"),
        ("Application/JSON ", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json; charset=utf-7", "application/json"),
        ("text/plain;charset=utf-16", "text/plain"),
        ("multipart/form-data; boundary=x", "multipart/form-data"),
    ],
)
def test_no_charset_or_boundary_reaches_the_upstream(value: str, goes_on: str) -> None:
    """The body is encoded again, as UTF-8: it must not be read by another rule."""
    (field,) = forwarded(parse("Host: a", f"Content-Type: {value}"))
    name, _, passed = field.decode().partition(":")
    assert (name.lower(), passed.strip()) == ("content-type", goes_on)


def test_fields_named_by_connection_do_not_reach_the_upstream() -> None:
    head = parse("Host: a", "X-Hop: 1", "Connection: close, x-HOP", "X-End: 2")
    assert forwarded(head) == [b"X-End: 2"]
    assert head.close


@pytest.mark.parametrize(
    ("lines", "close"),
    [
        (("Host: a",), False),
        (("Host: a", "Connection: keep-alive"), False),
        (("Host: a", "Connection: CLOSE"), True),
        (("Host: a", "Connection: keep-alive, close"), True),
        (("Host: a", "Connection: x", "Connection: close"), True),
    ],
)
def test_the_connection_ends_when_the_client_says_so(lines: tuple[str, ...], close: bool) -> None:
    assert parse(*lines).close is close


def test_http_1_0_is_understood_without_host_and_ends_the_connection() -> None:
    head = parse("Connection: keep-alive", "Content-Length: 2", first="POST /x HTTP/1.0")
    assert head.http10
    assert head.close
    assert head.length == 2


@pytest.mark.parametrize(
    "host", ["a", "a.b:80", "127.0.0.1", "[::1]", "[::1]:8080", "model_server", "A-b.C"]
)
def test_usual_hosts_are_understood(host: str) -> None:
    assert parse(f"Host: {host}").length == 0


def test_names_and_codings_are_read_whatever_their_case() -> None:
    head = parse("hOST: a", "TRANSFER-encoding: Chunked")
    assert head.length is None


def test_headers_are_seen_in_lower_case_and_trimmed() -> None:
    head = parse("Host: a", "X-API-Key:  secret\t", "X-Empty:")
    assert head.headers == [(b"host", b"a"), (b"x-api-key", b"secret"), (b"x-empty", b"")]


def test_a_trace_id_is_taken_from_traceparent_and_passed_on() -> None:
    value = "00-" + "ab" * 16 + "-" + "01" * 8 + "-01"
    head = parse("Host: a", f"traceparent: {value}")
    assert head.trace_id == "ab" * 16
    assert forwarded(head) == [f"traceparent: {value}".encode()]


@pytest.mark.parametrize("value", ["", "00-xyz", "00-" + "0" * 31 + "-" + "0" * 16 + "-01"])
def test_a_malformed_traceparent_gives_no_trace_id(value: str) -> None:
    assert parse("Host: a", f"traceparent: {value}").trace_id is None


def test_a_request_id_keeps_its_case() -> None:
    assert parse("Host: a", "X-Request-Id: Ab-1.x_Z").request_id == b"Ab-1.x_Z"


def test_a_second_request_id_does_not_reach_the_upstream() -> None:
    head = parse("Host: a", "X-Request-Id: one", "X-Request-Id: two")
    assert forwarded(head) == [b"X-Request-Id: one"]


@pytest.mark.parametrize(
    ("lines", "first", "code"),
    [
        (("Host: a", *["X: 1"] * 100), "GET /x HTTP/1.1", "http_too_many_headers"),
        (("Host: a",), f"GET /{'x' * 8192} HTTP/1.1", "http_target_too_long"),
    ],
)
def test_heads_over_a_limit_are_refused(lines: tuple[str, ...], first: str, code: str) -> None:
    with pytest.raises(HttpError) as refused:
        parse(*lines, first=first)
    assert refused.value.code == code
    assert refused.value.status in (414, 431)


def test_one_parser_reads_many_requests() -> None:
    parser = RequestParser(LIMITS)
    for number in range(20):
        body = b"x" * number
        head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % number
        assert parser.parse(head).length == number
        if body:
            parser.body(body, last=True)


def test_a_body_that_llhttp_sees_end_elsewhere_is_refused() -> None:
    parser = RequestParser(LIMITS)
    parser.parse(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    with pytest.raises(HttpError) as refused:
        parser.body(b"1234", last=True)
    assert refused.value.code == "http_framing"


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="body_bytes"):
        Limits(body_bytes=0)
    with pytest.raises(ValueError, match="idle_seconds"):
        Limits(idle_seconds=float("inf"))


# -- chunks ---------------------------------------------------------------------------------------


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    rest=st.binary(max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_chunks_are_undone_however_they_are_split(
    pieces: list[bytes], cuts: list[int], rest: bytes
) -> None:
    wire = b"".join(b"%X;x=%d\r\n%b\r\n" % (len(p), i, p) for i, p in enumerate(pieces))
    wire += b"0\r\n\r\n" + rest
    reader, left, start = ChunkReader(LIMITS), b"", 0
    for cut in [*sorted(c for c in cuts if c < len(wire)), len(wire)]:
        left += wire[start:cut] if reader.done else reader.feed(wire[start:cut])
        start = cut
    assert reader.done
    assert bytes(reader.body) == b"".join(pieces)
    assert left == rest


def test_too_many_chunks_are_refused() -> None:
    reader = ChunkReader(Limits(chunks=3))
    reader.feed(b"1\r\na\r\n" * 3)
    with pytest.raises(HttpError) as refused:
        reader.feed(b"1\r\na\r\n")
    assert refused.value.code == "http_too_many_chunks"


def test_a_chunked_body_over_the_limit_is_refused_at_the_size_line() -> None:
    reader = ChunkReader(Limits(body_bytes=10))
    reader.feed(b"6\r\nabcdef\r\n")
    with pytest.raises(HttpError) as refused:
        reader.feed(b"5\r\n")
    assert refused.value.code == "body_too_large"


# -- what is never accepted -----------------------------------------------------------------------


@given(data=st.binary(max_size=60), place=st.integers(0, 120))
@settings(max_examples=150, deadline=None)
def test_no_bytes_inside_a_head_make_two_lengths_of_it(data: bytes, place: int) -> None:
    """Whatever is put into a head: it is refused, or what goes on has no framing field at all."""
    base = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Other: text here"
        b"\r\nY: 1\r\n\r\n"
    )
    head = base[:place] + data + base[place:]
    end = head.find(b"\r\n\r\n") + 4
    try:
        request = RequestParser(LIMITS).parse(head[:end])
    except HttpError:
        return
    names = {line.partition(b":")[0].strip().lower() for line in forwarded(request)}
    assert not names & {b"content-length", b"transfer-encoding", b"host", b"connection"}
    assert b"\n" not in request.forward.replace(b"\r\n", b"")
    assert b"\r" not in request.forward.replace(b"\r\n", b"")
    assert b"\r\n\r\n" not in request.forward
