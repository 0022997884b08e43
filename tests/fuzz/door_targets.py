"""What the fuzzer asks of the door: one function for each parser, each with the laws it must keep.

`tests.fuzz.door` runs them under coverage guidance; `tests.fuzz.test_replay` runs them over the
kept corpus in the default suite. A target returns for every input, or a law is broken.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import h11
import httptools

from enforcement.apis.routes import ROUTES, Route
from enforcement.content.redact import RedactionIncompleteError, mask
from enforcement.content.sse import MalformedStreamError, SseDecoder
from enforcement.detectors import DETECTORS, hold_from, scan
from enforcement.gateway.replies import status_line
from enforcement.http.chunks import ChunkReader
from enforcement.http.fields import HEAD_END, HttpError, check_partial
from enforcement.http.limits import Limits
from enforcement.http.replies import ReplyParser
from enforcement.http.reply_head import ReplyHead
from enforcement.http.request_head import RequestHead
from enforcement.http.requests import RequestParser
from enforcement.outcome import Outcome
from tests.enforcement import whatwg
from tests.enforcement.exchanges import exchange, when_found
from tests.fuzz import recipes

LIMITS: Final = Limits(head_bytes=4096, body_bytes=16384, chunks=64, header_count=20)

# A request as its reader understood it: method, target, body; then why reading stopped.
Understood = tuple[list[tuple[str, str, bytes]], str]


def pieces(data: bytes, step: int) -> list[bytes]:
    """The data cut into pieces of `step` bytes; 0: in one piece."""
    return [data[i : i + step] for i in range(0, len(data), step)] if step else [data]


# -- requests -------------------------------------------------------------------------------------


def http_request(data: bytes) -> None:
    """Requests on one connection: the same however they are split, and as h11 reads them."""
    if not data:
        return
    whole = read_requests(pieces(data[1:], 0))
    split = read_requests(pieces(data[1:], data[0] % 7 + 1))
    assert (split[0], bool(split[1])) == (whole[0], bool(whole[1]))
    agree_with_h11(data[1:], whole)


def read_requests(parts: list[bytes]) -> Understood:
    """Reads as `enforcement.gateway.client` does, without a socket."""
    reader = _Reader()
    try:
        for part in parts:
            reader.feed(part)
    except HttpError as error:
        return reader.found, error.code
    return reader.found, ""


class _Reader:
    def __init__(self) -> None:
        self.found: list[tuple[str, str, bytes]] = []
        self._parser = RequestParser(LIMITS)
        self._buffer = b""
        self._checked = 0
        self._request: RequestHead | None = None
        self._chunks: ChunkReader | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while (message := self._next()) is not None:
            self.found.append(message)

    def _next(self) -> tuple[str, str, bytes] | None:
        if self._request is None:
            end = self._buffer.find(HEAD_END) + 4
            if end == 3:
                if len(self._buffer) >= LIMITS.head_bytes:
                    raise HttpError("http_head_too_large", "", status=431)
                check_partial(self._buffer, self._checked)
                self._checked = len(self._buffer)
                return None
            if end > LIMITS.head_bytes:
                raise HttpError("http_head_too_large", "", status=431)
            self._request = self._parser.parse(self._buffer[:end])
            self._buffer, self._checked = self._buffer[end:], 0
            self._chunks = ChunkReader(LIMITS) if self._request.length is None else None
        body = self._body(self._request)
        if body is None:
            return None
        request, self._request = self._request, None
        goes_on(request, body)
        assert request.forward == b"" or request.forward.startswith(b"\r\n")
        assert not request.forward.endswith(b"\r\n")
        return request.method, request.target, body

    def _body(self, request: RequestHead) -> bytes | None:
        data = self._buffer
        if self._chunks is not None:
            if not data:
                return None
            rest = self._chunks.feed(data)
            self._parser.body(data[: len(data) - len(rest)], last=self._chunks.done)
            self._buffer = rest
            return bytes(self._chunks.body) if self._chunks.done else None
        length = request.length or 0
        if length > LIMITS.body_bytes:
            raise HttpError("body_too_large", "", status=413)
        if len(data) < length:
            return None
        if length:
            self._parser.body(data[:length], last=True)
        self._buffer = data[length:]
        return data[:length]


def agree_with_h11(data: bytes, ours: Understood) -> None:
    """A request that both accept has one meaning. h11 may refuse what we accept, and more."""
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    peer.receive_data(data)
    for method, target, body in ours[0]:
        try:
            event = peer.next_event()
            if not isinstance(event, h11.Request):
                return
            theirs = b""
            while isinstance(part := peer.next_event(), h11.Data):
                theirs += part.data
        except h11.RemoteProtocolError:
            return
        if not isinstance(part, h11.EndOfMessage):
            return
        assert (event.method, event.target) == (method.encode(), target.encode())
        assert theirs == body
        if not _next_cycle(peer):
            return


def goes_on(request: RequestHead, body: bytes) -> None:
    """What the model server is sent is one request for h11 and one for llhttp, with this body."""
    wire = request.sent_on(b"upstream:8000", body)
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    peer.receive_data(wire)
    head = peer.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method.decode(), head.target.decode()) == (request.method, request.target)
    names = [name for name, _ in head.headers]
    assert (b"host", b"upstream:8000") in head.headers
    assert names.count(b"host") == 1
    assert not _HOP_BY_HOP & set(names)
    theirs = b""
    while isinstance(part := peer.next_event(), h11.Data):
        theirs += part.data
    assert isinstance(part, h11.EndOfMessage)
    assert (theirs, peer.trailing_data[0]) == (body, b"")
    seen = Heard()
    httptools.HttpRequestParser(seen).feed_data(wire)
    assert (seen.messages, seen.body) == (1, body)


_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"}
    | {b"upgrade", b"expect", b"content-encoding", b"accept-encoding"}
)


class Heard:
    """What llhttp tells of a message."""

    def __init__(self) -> None:
        self.messages = 0
        self.body = b""

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.messages += 1


def _next_cycle(peer: h11.Connection) -> bool:
    """Answer, so that h11 reads on; False where it sees the connection end here."""
    peer.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    peer.send(h11.EndOfMessage())
    if peer.our_state is not h11.DONE or peer.their_state is not h11.DONE:
        return False
    peer.start_next_cycle()
    return True


# -- replies --------------------------------------------------------------------------------------


def http_reply(data: bytes) -> None:
    """A reply: the same however it is split, and as h11 reads it."""
    if not data:
        return
    whole = read_reply(pieces(data[1:], 0))
    split = read_reply(pieces(data[1:], data[0] % 7 + 1))
    assert (split[:2], bool(split[2])) == (whole[:2], bool(whole[2]))
    if not whole[2]:
        reply_agrees_with_h11(data[1:], *whole[:2])


def read_reply(parts: list[bytes]) -> tuple[int, bytes, str]:
    """Status (0: none), body, and the code it was refused with."""
    parser, body = ReplyParser(LIMITS), b""
    try:
        for part in parts:
            body += parser.feed(part)
        parser.end()
    except HttpError as error:
        return 0, b"", error.code
    head = parser.head
    assert head is not None
    assert parser.complete
    comes_back(head, body)
    return head.status, body, ""


def comes_back(head: ReplyHead, body: bytes) -> None:
    """What the client is given, as `Client.reply` writes it, is one reply for h11."""
    fields = head.fields(edited=True, request_id=b"x")
    line = status_line(head.status)
    wire = b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (line, fields, len(body), body)
    if head.status in (204, 304):
        wire = b"%b%b\r\n\r\n" % (line, fields)
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 16)
    peer.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(wire)
    event = peer.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == head.status
    names = [name for name, _ in event.headers]
    assert names.count(b"x-request-id") == 1
    assert not {b"connection", b"transfer-encoding", b"upgrade", b"keep-alive"} & set(names)
    theirs = b""
    while isinstance(part := peer.next_event(), h11.Data):
        theirs += part.data
    assert isinstance(part, h11.EndOfMessage)
    assert (theirs, peer.trailing_data[0]) == (body, b"")


def reply_agrees_with_h11(data: bytes, status: int, body: bytes) -> None:
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 16)
    peer.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(data)
    peer.receive_data(b"")
    theirs, seen = b"", 0
    try:
        while not isinstance(event := peer.next_event(), (h11.EndOfMessage, h11.ConnectionClosed)):
            if isinstance(event, h11.Response):
                seen = event.status_code
            elif isinstance(event, h11.Data):
                theirs += event.data
            elif event in (h11.NEED_DATA, h11.PAUSED):
                return
    except h11.RemoteProtocolError:
        return
    assert (seen, theirs) == (status, body)


# -- event streams --------------------------------------------------------------------------------


def sse(data: bytes) -> None:
    """Events are the same however their bytes are split, and as a browser reads them."""
    if not data:
        return
    whole = read_events(pieces(data[1:], 0))
    assert read_events(pieces(data[1:], data[0] % 5 + 1)) == whole
    if whole is not None and not data.endswith(b"\r"):  # whose LF may follow
        told = [(event.name or "message", event.data) for event in whole[0]]
        assert told == whatwg.events(data[1:])


def read_events(parts: list[bytes]) -> tuple[list[Any], bool] | None:
    decoder, events = SseDecoder(), []
    try:
        for part in parts:
            events += decoder.feed(part)
    except MalformedStreamError:
        return None
    return [event for event in events if event.data is not None], decoder.pending


# -- texts ----------------------------------------------------------------------------------------


def detectors(data: bytes) -> None:
    """Spans are in order and inside; what was masked is not found again; nothing settles early."""
    text = recipes.string(data[1:])
    spans = scan(text, DETECTORS)
    place = 0
    for span in spans:
        assert place <= span.start < span.end <= len(text)
        place = span.end
    with suppress(RedactionIncompleteError):
        assert not scan(mask(text, DETECTORS), DETECTORS)
    cut = len(text) * data[0] // 255 if data else 0
    settled = hold_from(text[:cut], DETECTORS)
    assert 0 <= settled <= cut
    assert not [s for s in spans if s.start < settled < s.end]


# -- routes ---------------------------------------------------------------------------------------

_LABELS: Final = frozenset({"email", "card", "api_key"})
POLICY: Final = when_found(Outcome.REDACT, *sorted(_LABELS))


def route_bodies(route: Route, data: bytes) -> None:
    """A request, a reply or a stream of one route is ruled on, whatever its bytes.

    Byte 0 chooses the phase, byte 1 how the rest is read: as it is, or as a recipe for a body.
    """
    if len(data) < 2:
        return
    made = data[1] % 4 != 0
    ruled, _ = exchange(POLICY, on=route)
    match data[0] % 3:
        case 0:
            ruling = ruled.request(recipes.request(route.name, data[2:]) if made else data[2:])
            assert (ruling.refusal is None) or (ruling.forward_body is None)
            if ruling.forward_body is not None:
                json.loads(ruling.forward_body)
        case 1:
            kind = "application/json" if data[1] % 16 < 12 else "text/plain; charset=utf-8"
            body = recipes.reply(route.name, data[2:]) if made else data[2:]
            ruling = ruled.response(status=200, content_type=kind, body=body)
            if ruling.refusal is None and ruling.forward_body:
                _clean(ruling.forward_body)
        case _:
            wire = recipes.stream(route.name, data[2:]) if made else data[2:]
            _stream(route, wire, data[1] // 4)


def _stream(route: Route, wire: bytes, step: int) -> None:
    ruled, _ = exchange(POLICY, on=route, hold_back=256)
    guard = ruled.stream(status=200)
    out = b""
    for piece in pieces(wire, step):
        out += guard.feed(piece)
        if guard.denied:
            break
    else:
        out += guard.finish()
    assert guard.record.phase == "response"
    if guard.refusal is None:
        _clean(out)


def _clean(body: bytes) -> None:
    """No planted secret got through whole."""
    for planted in recipes.PLANTED:
        assert planted.encode() not in body, planted


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "http_request": http_request,
    "http_reply": http_reply,
    "sse": sse,
    "detectors": detectors,
    **{route.name: partial(route_bodies, route) for route in ROUTES},
}
