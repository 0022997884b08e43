"""A model server's stand-in that says what it is told to: for leaks and times to first token.

    python -m benchmarks.speaker PORT

A request names a script (`script:NAME`) in any of its texts. The scripts put secrets in every place
that a reply of the route has, whole or cut into pieces. What requests carried is told by
`GET /seen`, so that a guard of prompts can be judged too. One thread a connection.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

MAIL: Final = "zoe.quist@example.com"
CARD: Final = "4539 1488 0343 6467"
KEY: Final = "sk-" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY"
SECRETS: Final = (MAIL, CARD, KEY)
SPOKEN: Final = f"Write to {MAIL} or pay with {CARD}; the key is {KEY}. That is all I know of it."
PIECE: Final = 4  # characters of a chunk, about a token
WORDS: Final = ("of", "course", "there", "is", "nothing", "to", "be", "hidden", "in", "this")
TOKENS: Final = 200  # of the script `slow`, one every TICK
TICK: Final = 0.01


def pieces(text: str) -> list[str]:
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


def _logprobs(text: str) -> dict[str, Any]:
    tokens = [
        {"token": piece, "logprob": -0.1, "bytes": list(piece.encode()), "top_logprobs": []}
        for piece in pieces(text)
    ]
    return {"content": tokens}


def _call(arguments: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}


_ARGUMENTS: Final = json.dumps({"text": SPOKEN})
_ESCAPED: Final = (
    _ARGUMENTS.replace("4", "\\u0034").replace("@", "\\u0040").replace("sk-", "s\\u006b-")
)
_WIDE: Final = SPOKEN.translate({ord(c): chr(ord(c) + 0xFEE0) for c in "0123456789@"})
_HIDDEN: Final = "\u200b".join(SPOKEN)


def chat(script: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "fine"}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    choices = [choice]
    match script:
        case "content":
            message["content"] = SPOKEN
        case "wide":
            message["content"] = _WIDE
        case "hidden":
            message["content"] = _HIDDEN
        case "choice":
            other = {"role": "assistant", "content": SPOKEN}
            choices.append({"index": 1, "message": other, "finish_reason": "stop"})
        case "tool":
            message["tool_calls"] = [_call(_ARGUMENTS)]
        case "escaped":
            message["tool_calls"] = [_call(_ESCAPED)]
        case "reasoning":
            message["reasoning_content"] = SPOKEN
        case "refusal":
            message["refusal"] = SPOKEN
        case "logprobs":
            choice["logprobs"] = _logprobs(SPOKEN)
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "bench"}
    return {**head, "choices": choices, "usage": usage}


def chat_stream(script: str) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], index: int = 0, **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": None, **more}
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
        return {**head, "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    fields = {"content": SPOKEN, "wide": _WIDE, "hidden": _HIDDEN}
    if script in fields:
        for piece in pieces(fields[script]):
            yield chunk({"content": piece})
    elif script in ("reasoning", "refusal"):
        name = "reasoning_content" if script == "reasoning" else script
        for piece in pieces(SPOKEN):
            yield chunk({name: piece})
    elif script in ("tool", "escaped"):
        yield chunk({"tool_calls": [{"index": 0, **_call("")}]})
        for piece in pieces(_ARGUMENTS if script == "tool" else _ESCAPED):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    elif script == "choice":
        for piece in pieces(SPOKEN):
            yield chunk({"content": piece}, 1)
            yield chunk({"content": "fine"})
    elif script == "logprobs":
        for piece in pieces(SPOKEN):
            yield chunk({"content": "a"}, logprobs=_logprobs(piece))
    yield {**chunk({}), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def completion(script: str) -> dict[str, Any]:
    text = {"content": SPOKEN, "wide": _WIDE, "hidden": _HIDDEN}.get(script, "fine")
    choices = [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}]
    return {
        "id": "x",
        "object": "text_completion",
        "created": 1,
        "model": "bench",
        "choices": choices,
    }


def completion_stream(script: str) -> Iterator[dict[str, Any]]:
    for piece in pieces(completion(script)["choices"][0]["text"]):
        choice = {"index": 0, "text": piece, "finish_reason": None, "logprobs": None}
        yield {
            "id": "x",
            "object": "text_completion",
            "created": 1,
            "model": "bench",
            "choices": [choice],
        }
    yield {
        "id": "x",
        "model": "bench",
        "choices": [{"index": 0, "text": "", "finish_reason": "stop"}],
    }


def _response(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": status, "content": [part]}
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    head = {"id": "r", "object": "response", "created_at": 1, "model": "bench", "status": status}
    common = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage}
    return {**head, **common, "output": [item]}


def response_stream(script: str) -> Iterator[dict[str, Any]]:
    text = SPOKEN if script == "content" else "fine"
    at = {"item_id": "m", "output_index": 0, "content_index": 0}
    whole = _response(text)
    item = whole["output"][0]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {
            "type": "response.content_part.added",
            **at,
            "part": {"type": "output_text", "text": "", "annotations": []},
        },
        *({"type": "response.output_text.delta", **at, "delta": piece} for piece in pieces(text)),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": item["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


class Speaker(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    seen: Final[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/seen":
            self._json(200, list(self.seen))
            self.seen.clear()
        else:
            self._json(200, {"object": "list", "data": [{"id": "bench", "object": "model"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.seen.append(body)
        request = json.loads(body)
        script = (re.search(r"script:([a-z]+)", body) or ["", "plain"])[1]
        route = self.path.rpartition("/v1/")[2]
        if script == "error":
            self._json(
                400, {"error": {"message": f"cannot: {SPOKEN}", "type": "invalid", "code": 400}}
            )
        elif not request.get("stream"):
            replies = {"chat/completions": chat, "completions": completion}
            if route == "responses":
                self._json(200, _response(SPOKEN if script == "content" else "fine"))
            else:
                self._json(200, replies[route](script))
        elif script == "slow":
            self._stream(self._slow(), pause=TICK)
        else:
            streams = {"chat/completions": chat_stream, "completions": completion_stream}
            self._stream(
                (streams.get(route) or response_stream)(script), named=route == "responses"
            )

    @staticmethod
    def _slow() -> Iterator[dict[str, Any]]:
        for number in range(TOKENS):
            delta = {"content": WORDS[number % len(WORDS)] + " "}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "bench",
                "choices": [choice],
            }

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(
        self, events: Iterator[dict[str, Any]], *, named: bool = False, pause: float = 0
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if named else ""
            self._chunk(f"{name}data: {json.dumps(event)}\n\n".encode())
            if pause:
                time.sleep(pause)
        if not named:
            self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Speaker).serve_forever()
