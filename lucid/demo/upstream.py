"""A small OpenAI-compatible model server with fixed answers. For the demo only; no model inside.

`python -m lucid.demo.upstream PORT` runs it alone, until SIGTERM: beside an agent in a container.

A prompt that contains `contact` is answered with an e-mail address and a payment card number (a
test number), a few characters to a chunk when streamed, as real tokenizers do. Everything else gets
a plain sentence.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

MODEL: Final = "demo-model"
CONTACT: Final = "Write to alice@example.com; her card is 4111 1111 1111 1111. Anything else?"
PLAIN: Final = "Confidential computing protects data while it is being used."
MAX_BODY: Final = 1024 * 1024  # bytes
_CHUNK: Final = 4  # characters


def answer_to(body: dict[str, Any]) -> str:
    """The fixed answer to a chat request."""
    prompt = json.dumps(body.get("messages", ""), ensure_ascii=False)
    return CONTACT if "contact" in prompt.lower() else PLAIN


def _chunks(text: str) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for start in range(0, len(text), _CHUNK):
        yield {"content": text[start : start + _CHUNK]}
    yield {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "lucid-demo-upstream"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._json(404, {"error": {"message": "not found", "type": "invalid_request_error"}})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if self.path != "/v1/chat/completions" or not 0 < length <= MAX_BODY:
            self._json(404, {"error": {"message": "not found", "type": "invalid_request_error"}})
            return
        body = json.loads(self.rfile.read(length))
        text = answer_to(body)
        base = {"id": "chatcmpl-demo", "created": 0, "model": MODEL}
        if body.get("stream"):
            self._stream(base | {"object": "chat.completion.chunk"}, text)
            return
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._json(200, base | {"object": "chat.completion", "choices": [choice], "usage": usage})

    def _stream(self, base: dict[str, Any], text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for delta in _chunks(text):
            finish = None if delta else "stop"
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self._event(json.dumps(base | {"choices": [choice]}))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the demo prints what matters."""


class DemoUpstream:
    """The server on loopback (port 0: a free one), in a thread that ends with the `with` block."""

    def __init__(self, port: int = 0) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="demo-upstream")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


if __name__ == "__main__":
    with DemoUpstream(int(sys.argv[1])):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
