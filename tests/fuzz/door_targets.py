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

from enforcement.detectors import DETECTORS, hold_from, scan
from enforcement.http1 import HEAD_END, HttpError, RequestHead, RequestParser, check_partial
from enforcement.http1_chunks import ChunkReader
from enforcement.http1_reply import ReplyParser
from enforcement.limits import Limits
from enforcement.outcome import Outcome
from enforcement.redact import RedactionIncompleteError, mask
from enforcement.routes import ROUTES, Route
from enforcement.sse import MalformedStreamError, SseDecoder
from tests.enforcement.exchanges import exchange, when_found

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
    """Reads as `enforcement.client` does, without a socket."""
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
    assert b"\r\n" not in head.line
    assert not head.fields(edited=True, request_id=b"x").endswith(b"\r\n")
    return head.status, body, ""


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
    """Events are the same however their bytes are split."""
    if not data:
        return
    whole = read_events(pieces(data[1:], 0))
    assert read_events(pieces(data[1:], data[0] % 5 + 1)) == whole


def read_events(parts: list[bytes]) -> tuple[list[Any], bool] | None:
    decoder, events = SseDecoder(), []
    try:
        for part in parts:
            events += decoder.feed(part)
    except MalformedStreamError:
        return None
    return events, decoder.pending


# -- texts ----------------------------------------------------------------------------------------


def detectors(data: bytes) -> None:
    """Spans are in order and inside; what was masked is not found again; nothing settles early."""
    text = _string(data[1:])
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
            ruling = ruled.request(_body(data[2:]) if made else data[2:])
            assert (ruling.refusal is None) or (ruling.forward_body is None)
            if ruling.forward_body is not None:
                json.loads(ruling.forward_body)
        case 1:
            kind = "application/json" if data[1] % 16 < 12 else "text/plain; charset=utf-8"
            body = _body(data[2:]) if made else data[2:]
            ruling = ruled.response(status=200, content_type=kind, body=body)
            if ruling.refusal is None and ruling.forward_body:
                _clean(ruling.forward_body)
        case _:
            _stream(route, _events(data[2:]) if made else data[2:], data[1] // 4)


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
    for planted in PLANTED:
        assert planted.encode() not in body, planted


PLANTED: Final = ("zoe.quist@example.com", "4111 1111 1111 1111", "sk-aB3dE5fG7hJ9kL1mN2pQ4r")
# Names that the routes' bodies have, in both directions, and some that they have not.
_KEYS: Final = (
    *("model", "messages", "role", "content", "type", "text", "prompt", "suffix", "stream"),
    *("choices", "index", "delta", "message", "finish_reason", "logprobs", "top_logprobs", "usage"),
    *("tool_calls", "function", "name", "arguments", "id", "refusal", "reasoning_content", "echo"),
    *("input", "instructions", "output", "item", "item_id", "output_index", "content_index"),
    *("response", "part", "summary", "annotations", "sequence_number", "status", "error", "code"),
    *("system", "max_tokens", "content_block", "partial_json", "thinking", "signature", "source"),
    *("stop_reason", "stop_sequence", "input_tokens", "output_tokens", "data", "embedding"),
    *("image_url", "url", "input_audio", "file", "tools", "parameters", "metadata", "n", "token"),
    *("bytes", "token_ids", "prompt_token_ids", "stop", "user", "object", "created", "x-é", ""),
)
_WORDS: Final = (
    *PLANTED,
    *("user", "assistant", "tool", "text", "hello ", "[DONE]", "a@b", "4111", " 1111", "sk-"),
    *("input_text", "output_text", "function", "tool_use", "tool_result", "thinking", "stop"),
    *("response.output_text.delta", "response.created", "response.completed", "message_start"),
    *("content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
    *("message_stop", "ping", "error", "text_delta", "input_json_delta", "thinking_delta"),
    *("chat.completion.chunk", "response.function_call_arguments.delta", "length", "\u200b"),
    *("\ud800", "\udc00", "é", "😀", "\x00", "m", "http://x", "data:image/png;base64,AA=="),
)


class _Recipe:
    """Turns bytes into JSON values, so that the fuzzer need not learn JSON first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def byte(self) -> int:
        if self._place >= len(self._data):
            return 0
        self._place += 1
        return self._data[self._place - 1]

    @property
    def left(self) -> bool:
        return self._place < len(self._data)

    def value(self, depth: int = 0) -> Any:
        kind = self.byte()
        if depth > 12:
            kind = kind % 4
        match kind % 9:
            case 0:
                return None
            case 1:
                return bool(self.byte() & 1)
            case 2:
                return self.byte() - 100
            case 3 | 4 | 5:
                return self.text()
            case 6:
                return [self.value(depth + 1) for _ in range(self.byte() % 5)]
            case _:
                return {self.key(): self.value(depth + 1) for _ in range(self.byte() % 8)}

    def key(self) -> str:
        return _KEYS[self.byte() % len(_KEYS)]

    def text(self) -> str:
        count = self.byte() % 4
        return " ".join(_WORDS[self.byte() % len(_WORDS)] for _ in range(count))


def _body(data: bytes) -> bytes:
    recipe = _Recipe(data)
    value = recipe.value()
    if not isinstance(value, dict):
        value = {"model": "m", recipe.key(): value}
    while recipe.left and len(value) < 40:
        value[recipe.key()] = recipe.value(1)
    return json.dumps(value).encode()


def _events(data: bytes) -> bytes:
    recipe = _Recipe(data)
    out = b""
    while recipe.left and len(out) < 32768:
        kind = recipe.byte() % 16
        if kind == 0:
            out += b": comment\n\n"
        elif kind == 1:
            out += b"data: [DONE]\n\n"
        elif kind < 6:
            out += b"data: " + json.dumps(recipe.value()).encode() + b"\n\n"
        else:
            name = recipe.text() if kind < 9 else ""
            value: dict[str, Any] = {"type": name} if name else {}
            value["choices"] = [
                {"index": recipe.byte() % 3, "delta": {recipe.key(): recipe.text()}}
            ]
            if kind > 12:
                value = {"choices": [{"index": 0, "text": recipe.text()}]}
            line = b"event: " + name.encode("utf-8", "replace") + b"\n" if name else b""
            out += line + b"data: " + json.dumps(value).encode() + b"\n\n"
    return out


def _string(data: bytes) -> str:
    """Any text: mostly what detectors look for, else UTF-8 with lone surrogates."""
    recipe = _Recipe(data)
    out = []
    while recipe.left:
        kind = recipe.byte()
        if kind < 64:
            out.append(_BITS[kind % len(_BITS)])
        elif kind < 128:
            out.append(chr(kind))
        elif kind < 160:
            out.append(chr(recipe.byte() << 8 | recipe.byte()))
        else:
            out.append(str(kind % 10))
    return "".join(out)


_BITS: Final = (
    *PLANTED,
    *(" ", "-", ".", "@", "+1 ", "sk-", "token: ", "DE89 3704 0044 0532 0130 00", "123-45-6789"),
    *("415-555-2671", "-----BEGIN PRIVATE KEY-----", "\u200b", "１", "а", "=", "\n", "tel: ", "4"),
)

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "http_request": http_request,
    "http_reply": http_reply,
    "sse": sse,
    "detectors": detectors,
    **{route.name: partial(route_bodies, route) for route in ROUTES},
}
