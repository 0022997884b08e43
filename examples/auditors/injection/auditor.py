#!/usr/bin/env python3
"""An auditor that looks for prompt injection by rules. Needs nothing but Python's standard library.

It gives two claims about the text of a request, and of a reply (tools and documents inject, too):

    injection_risk    score_normalized, 0 to 1: how much the text looks like an attempt to take over
    invisible_chars   boolean: characters that a person does not see and a model reads

Rules are patterns with a weight; the risk is the chance that at least one of them is right, if each
is right by its weight: 1 - (1 - w1)(1 - w2)... The text is folded first (compatibility forms,
look-alikes of the Latin alphabet, letters s p a c e d out, invisible characters removed), and what
looks like base64 is decoded and looked at as well. Rules catch what is known and cheap to write
down; who wants more puts a classifier beside this one and lets the policy take the higher risk.

    python auditor.py --listen 127.0.0.1:8085        or        --unix /run/lucid/injection.sock

`auditor_config` may hold `{"threshold": 0.2}`: rules below this weight are not asked.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import re
import socketserver
import sys
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

AUDITOR_ID: Final = "lucid-example-injection"
VERSION: Final = "1.0.0"
MAX_BODY: Final = 8 * 1024 * 1024  # bytes
MAX_TEXT: Final = 200_000  # characters: a second of work; longer texts are an error, so denied
MAX_SPANS: Final = 100
IDLE_SECONDS: Final = 60  # a kept connection may be silent this long

# Patterns are matched on folded text: lower case, single spaces. Every repetition is bounded, so a
# hostile text cannot make one slow.
_RULES: Final = (
    ("override", 0.85, r"\b(?:ignore|disregard|forget|override|bypass|skip)\b.{0,40}\b(?:previous"
     r"|prior|above|earlier|preceding|all|any|your|the)\b.{0,20}\b(?:instructions?|prompts?|rules?"
     r"|directions?|guidelines?|context|constraints?|training)\b"),
    ("override-de", 0.85, r"\b(?:ignoriere?|vergiss|missachte)\b.{0,40}\b(?:anweisung(?:en)?"
     r"|regeln?|vorgaben?|instruktion(?:en)?)\b"),
    ("override-fr", 0.85, r"\b(?:ignore[zr]?|oublie[zr]?)\b.{0,40}\b(?:instructions?|consignes?"
     r"|regles?)\b"),
    ("override-es", 0.85, r"\b(?:ignora|olvida|omite)\b.{0,40}\b(?:instrucciones|reglas"
     r"|indicaciones)\b"),
    ("reveal-prompt", 0.8, r"\b(?:reveal|show|print|repeat|output|display|leak|tell me|what (?:is|"
     r"are|was|were))\b.{0,40}\b(?:system|initial|hidden|secret|original|developer)\b.{0,10}"
     r"\b(?:prompts?|messages?|instructions?|rules)\b"),
    ("repeat-above", 0.6, r"\brepeat\b.{0,30}\b(?:words|text|everything|all)\b.{0,20}\babove\b"),
    ("new-identity", 0.6, r"\b(?:you are|you're|act as|pretend (?:to be|that you are)|roleplay as|"
     r"from now on,? you(?: are|'re| will)?)\b.{0,40}\b(?:unrestricted|unfiltered|uncensored|"
     r"jailbroken|evil|without (?:any )?(?:rules|restrictions|limits|filters?)|no longer bound|dan)"
     r"\b"),
    ("mode-switch", 0.7, r"\b(?:developer|debug|god|admin|sudo|jailbreak|dan|maintenance) mode\b"
     r".{0,20}\b(?:on|enabled?|activated?|now)\b|\b(?:enter|enable|activate|switch to)\b.{0,20}"
     r"\b(?:developer|debug|god|admin|sudo|jailbreak|dan) mode\b"),
    ("do-anything-now", 0.8, r"\bdo anything now\b"),
    ("no-refusal", 0.5, r"\b(?:never|do not|don't|must not|cannot) (?:refuse|decline|say no)\b"),
    ("chat-markup", 0.7, r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|"
     r"start_header_id)\|>|\[/?inst\]|<</?sys>>|<start_of_turn>"),
    ("fake-turn", 0.45, r"(?:^|\n) ?(?:#{1,4} ?)?(?:system|assistant|developer)(?: message)? ?:"),
    ("fake-end", 0.5, r"\b(?:end|start) of (?:the )?(?:system|user|prompt|instructions?|document|"
     r"context)\b.{0,20}(?:---|===|###|\])"),
    ("hidden-order", 0.6, r"\b(?:do not|don't|never) (?:tell|inform|mention|reveal)\b.{0,30}\b(?:to"
     r" |this to )?(?:the )?(?:user|human|anyone)\b"),
    ("exfiltrate-link", 0.75, r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{0,200}[?&][^)\s=]{1,40}="
     r"(?:\{|\$|%7b|<)"),
    ("exfiltrate", 0.6, r"\b(?:send|post|forward|upload|e-?mail|exfiltrate)\b.{0,40}"
     r"\b(?:conversation|chat history|system prompt|api keys?|credentials|passwords?|secrets?)\b"
     r".{0,30}\bto\b"),
    ("prompt-injection-tool", 0.5, r"\b(?:call|invoke|use|run|execute)\b.{0,20}\btools?\b.{0,60}"
     r"\b(?:without (?:asking|confirmation|permission)|silently)\b"),
)  # fmt: skip
RULES: Final = tuple((name, weight, re.compile(pattern)) for name, weight, pattern in _RULES)

# Not seen and yet read: zero-width and bidirectional controls, and the tag characters that spell
# ASCII invisibly. Joiners inside emoji and Indic scripts are common, so a single one is no sign.
_INVISIBLE: Final = re.compile(
    "[\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_JOINERS: Final = re.compile("[\u200c\u200d\ufeff\u00ad]")
_LOOKALIKES: Final = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u03bf\u03b1\u03b5\u03b9\u03c1\u03bd\u2018\u2019",
    "aeopcyxijsdoaeipv''",
)
_SPACED: Final = re.compile(r"\b(?:[a-z] ){4,40}[a-z]\b")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{24,4096}={0,2}")


class Folded:
    """A text in the form that rules are matched on, and where each of its characters came from."""

    def __init__(self, text: str) -> None:
        characters: list[str] = []
        self.places: list[int] = []
        for place, character in enumerate(text):
            if _INVISIBLE.match(character) or _JOINERS.match(character):
                continue
            for piece in unicodedata.normalize("NFKD", character).casefold().translate(_LOOKALIKES):
                if unicodedata.combining(piece):
                    continue
                blank = piece.isspace() and piece != "\n"
                if blank and characters and characters[-1] == " ":
                    continue
                characters.append(" " if blank else piece)
                self.places.append(place)
        self.text = "".join(characters)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in the text that came."""
        return self.places[start], self.places[end - 1] + 1


def matches(text: str, threshold: float) -> Iterator[tuple[str, float, int, int]]:
    """Every rule that matches, with its place in the text."""
    folded = Folded(text)
    for name, weight, pattern in RULES:
        if weight < threshold:
            continue
        found = pattern.search(folded.text)
        if found:
            yield name, weight, *folded.span(*found.span())
    for spaced in _SPACED.finditer(folded.text):
        inner = spaced.group().replace(" ", "")
        if re.search(r"ignore|instruction|system|prompt|jailbreak", inner):
            yield "spaced-out", 0.6, *folded.span(*spaced.span())
            break


def decoded(text: str) -> Iterator[tuple[str, int, int]]:
    """What base64 in a text says, where it is text; at most a few."""
    for found in list(_BASE64.finditer(text))[:8]:
        data = found.group().replace("-", "+").replace("_", "/").rstrip("=")
        try:
            plain = base64.b64decode(data + "=" * (-len(data) % 4), validate=True).decode()
        except (binascii.Error, ValueError):
            continue
        yield plain, *found.span()


def audit(text: str, part: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims about one text."""
    threshold = config.get("threshold", 0.0)
    threshold = float(threshold) if isinstance(threshold, (int, float)) else 0.0
    found: dict[str, tuple[float, int, int]] = {
        name: (weight, start, end) for name, weight, start, end in matches(text, threshold)
    }
    for plain, start, end in decoded(text):
        for name, weight, _, _ in matches(plain, threshold):
            found[f"base64-{name}"] = (weight, start, end)
    hidden = _INVISIBLE.findall(text)
    invisible = bool(hidden) or len(_JOINERS.findall(text)) > max(len(text) // 20, 8)
    calm = 1.0
    for weight, _, _ in found.values():
        calm *= 1 - weight
    if invisible:
        calm *= 0.7
    now = datetime.now(UTC).isoformat()
    spans = [
        {"part": part, "start": start, "end": end, "label": "injection"}
        for _, start, end in list(found.values())[:MAX_SPANS]
    ]
    provenance = {"rules": len(RULES), "matched": len(found), "threshold": threshold}
    if found:
        provenance["strongest"] = max(found, key=lambda name: found[name][0])
    return [
        {
            "name": "injection_risk",
            "type": "score_normalized",
            "value": round(1 - calm, 4),
            "timestamp": now,
            "metadata": {"spans": spans},
            "provenance": provenance,
        },
        {
            "name": "invisible_chars",
            "type": "boolean",
            "value": invisible,
            "timestamp": now,
            "provenance": {"count": len(hidden)},
        },
    ]


def answer(body: bytes) -> dict[str, Any]:
    """The answer to `POST /claims`. Errors are told in band, as the contract says."""
    try:
        question = json.loads(body)
        phase, data = question["phase"], question["data"]
        part = "output" if phase == "response" else "input"
        text = data[part]
        config = question.get("lucid_context", {}).get("auditor_config", {})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = config = None
    if not isinstance(text, str) or not isinstance(config, dict):
        return _error("INVALID_REQUEST", "not a question of the contract 2.0")
    if phase not in ("request", "response"):
        return _error("UNSUPPORTED_PHASE", "only request and response are looked at")
    if len(text) > MAX_TEXT:
        return _error("TEXT_TOO_LONG", f"more than {MAX_TEXT} characters")
    return {"status": "success", "claims": audit(text, part, config)}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"code": code, "message": message}}


HEALTH: Final = {"status": "healthy", "auditor_id": AUDITOR_ID, "version": VERSION, "ready": True}
VOCABULARY: Final = {
    "auditor_id": AUDITOR_ID,
    "version": VERSION,
    "claims": [
        {"name": "injection_risk", "type": "score_normalized", "phases": ["request", "response"]},
        {"name": "invisible_chars", "type": "boolean", "phases": ["request", "response"]},
    ],
    "labels": ["injection"],
}


class Handler(BaseHTTPRequestHandler):
    """The three routes of the contract."""

    protocol_version = "HTTP/1.1"  # connections are kept
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = 65_536  # head and body leave together

    def do_GET(self) -> None:
        page = {"/health": HEALTH, "/vocabulary": VOCABULARY}.get(self.path)
        self._send(200 if page else 404, page or _error("NOT_FOUND", "unknown path"))

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send(413, _error("TOO_LARGE", "a body needs a length within the limit"))
            return
        body = self.rfile.read(int(length))
        if self.path != "/claims":
            self._send(404, _error("NOT_FOUND", "unknown path"))
            return
        self._send(200, answer(body))

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        """A Unix socket's client has no address."""
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Quiet: requests are not logged, least of all what is in them."""


class UnixHandler(Handler):
    disable_nagle_algorithm = False  # a Unix socket has no such option


class TcpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Looks for prompt injection by rules.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--listen", default="127.0.0.1:8080", metavar="ADDRESS:PORT")
    where.add_argument("--unix", type=Path, metavar="PATH", help="serve on a Unix socket")
    arguments = parser.parse_args()
    server: socketserver.BaseServer
    if arguments.unix is not None:
        arguments.unix.unlink(missing_ok=True)
        server = UnixServer(str(arguments.unix), UnixHandler)
        print(f"listening on {arguments.unix}", flush=True)
    else:
        host, _, port = arguments.listen.rpartition(":")
        server = TcpServer((host.strip("[]"), int(port)), Handler)
        print("listening on {}:{}".format(*server.server_address[:2]), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
