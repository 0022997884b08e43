"""`make bench-peers`: our gateway beside LiteLLM's proxy with its content filter, in one run.

Requests a second, CPU, time to first token, and leaks: which of the places that a reply can hold
text are guarded. Both mask e-mail addresses, card numbers and API keys, in both directions, by the
detectors that they bring. What leaks is decided on what the client could read: any secret, whole,
in the reply's bytes or in one of its texts put together, as a person reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import peers, speaker
from benchmarks.load import closed_loop
from benchmarks.peers import OTHER_CPU, PROXY_CPU, Peer, free_port, started, wait_for

ROOT: Final = Path(__file__).resolve().parents[1]
RESULT: Final = Path(__file__).with_name("RESULTS-PEERS.md")
LITELLM: Final = ROOT / ".venv-litellm" / "bin" / "litellm"
TOKEN: Final = "sk-bench"
HEADERS: Final = {"Authorization": f"Bearer {TOKEN}"}
LEAKED, HELD, REFUSED, BROKEN = "**leaks**", "held", "refused", "broken"

_LITELLM: Final = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
guardrails:
  - guardrail_name: filter
    litellm_params:
      guardrail: litellm_content_filter
      mode: [pre_call, post_call]
      default_on: true
      patterns:
        - {{pattern_type: prebuilt, pattern_name: email, action: MASK}}
        - {{pattern_type: prebuilt, pattern_name: visa, action: MASK}}
        - {{pattern_type: prebuilt, pattern_name: credit_card, action: MASK}}
        - {{pattern_type: regex, name: openai_key, pattern: "sk-[A-Za-z0-9]{{20,}}", action: MASK}}
general_settings: {{master_key: sk-bench}}
litellm_settings: {{callbacks: [], drop_params: false, num_retries: 0}}
"""
_BUNDLE: Final = """
@id("use")
permit (principal, action == Lucid::Action::"invoke", resource);

@id("mask")
@decision("redact")
@redact("email,card,api_key")
forbid (principal, action == Lucid::Action::"invoke", resource)
when { context.claims.pii_found || context.claims.secret_leaked };
"""


@contextlib.contextmanager
def litellm(directory: Path, upstream_port: int, name: str) -> Iterator[Peer]:
    """LiteLLM's proxy with its built-in content filter, one worker."""
    port = free_port()
    config = directory / f"litellm-{upstream_port}.yaml"
    config.write_text(_LITELLM.format(port=upstream_port))
    command = (str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "NO_DOCS": "True"}
    with started(PROXY_CPU, *command, env=quiet) as process:
        wait_for(port, process, 120)
        yield Peer(name, port, process.pid)


def bundle(directory: Path) -> Path:
    """A bundle that asks of us what the filter is asked to do: mask, in both directions."""
    folder = directory / "bundle"
    shutil.copytree(ROOT / "lucid" / "data" / "bundle", folder)
    for path in (folder / "policies").iterdir():
        path.unlink()
    (folder / "policies" / "mask.cedar").write_text(_BUNDLE)
    return folder


@contextlib.contextmanager
def talker() -> Iterator[int]:
    """The scripted model server; gives its port."""
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.speaker", str(port))
    with started(OTHER_CPU, *command) as process:
        wait_for(port, process)
        yield port


# -- leaks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret is put: a route, how it is asked, and the script of the stand-in."""

    name: str
    path: str
    script: str
    stream: bool = False
    make: Callable[[str], dict[str, Any]] | None = None  # the request, where it holds the secret


def _ask(path: str, words: str, *, stream: bool) -> dict[str, Any]:
    texts: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": words}]},
        "/v1/completions": {"prompt": words},
        "/v1/responses": {"input": words},
        "/v1/messages": {"max_tokens": 64, "messages": [{"role": "user", "content": words}]},
    }
    return {"model": "bench", **texts[path], **({"stream": True} if stream else {})}


_CHAT: Final = "/v1/chat/completions"
_TOOL: Final = {"type": "object", "properties": {"x": {"type": "string", "description": "D"}}}


def _in_tool(words: str) -> dict[str, Any]:
    function = {"name": "f", "description": words, "parameters": _TOOL}
    return _ask(_CHAT, "hello", stream=False) | {
        "tools": [{"type": "function", "function": function}]
    }


def _in_result(words: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": words},
    ]
    return {"model": "bench", "messages": messages}


def _in_parts(words: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": words}]
    return {"model": "bench", "messages": [{"role": "user", "content": parts}]}


PLACES: Final = (
    Place("content", _CHAT, "content"),
    Place("content, streamed in pieces", _CHAT, "content", stream=True),
    Place("second choice", _CHAT, "choice"),
    Place("second choice, streamed", _CHAT, "choice", stream=True),
    Place("tool-call arguments", _CHAT, "tool"),
    Place("tool-call arguments, streamed", _CHAT, "tool", stream=True),
    Place("tool-call arguments with JSON escapes", _CHAT, "escaped"),
    Place("the same, streamed", _CHAT, "escaped", stream=True),
    Place("reasoning", _CHAT, "reasoning"),
    Place("reasoning, streamed", _CHAT, "reasoning", stream=True),
    Place("refusal", _CHAT, "refusal"),
    Place("refusal, streamed", _CHAT, "refusal", stream=True),
    Place("logprobs", _CHAT, "logprobs"),
    Place("logprobs, streamed", _CHAT, "logprobs", stream=True),
    Place("full-width digits", _CHAT, "wide"),
    Place("full-width digits, streamed", _CHAT, "wide", stream=True),
    Place("zero-width characters between", _CHAT, "hidden"),
    Place("zero-width characters, streamed", _CHAT, "hidden", stream=True),
    Place("completions", "/v1/completions", "content"),
    Place("completions, streamed", "/v1/completions", "content", stream=True),
    Place("responses", "/v1/responses", "content"),
    Place("responses, streamed", "/v1/responses", "content", stream=True),
    Place("the model server's error message", _CHAT, "error"),
    Place("prompt: a message", _CHAT, "", make=lambda w: _ask(_CHAT, w, stream=False)),
    Place("prompt: second part of a message", _CHAT, "", make=_in_parts),
    Place("prompt: a tool's result", _CHAT, "", make=_in_result),
    Place("prompt: a tool's description", _CHAT, "", make=_in_tool),
    Place(
        "prompt: completions",
        "/v1/completions",
        "",
        make=lambda w: _ask("/v1/completions", w, stream=False),
    ),
    Place(
        "prompt: responses",
        "/v1/responses",
        "",
        make=lambda w: _ask("/v1/responses", w, stream=False),
    ),
)


def visible(text: str) -> str:
    """As a person reads it: without what is invisible, full-width characters as plain ones."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join([c for c in plain if unicodedata.category(c) != "Cf"])


def readings(body: str) -> Iterator[str]:
    """The bytes as they are, and every text in them put together over all events, by its place."""
    yield body
    texts: dict[str, str] = {}
    events = re.findall(r"^data: ?(\{.*\})\s*$", body, re.MULTILINE) or [body]
    for event in events:
        with contextlib.suppress(ValueError):
            _gather(json.loads(event), "", texts)
    for text in texts.values():
        yield text
        with contextlib.suppress(ValueError):
            yield json.dumps(json.loads(text), ensure_ascii=False)


def _gather(value: Any, place: str, texts: dict[str, str]) -> None:
    if isinstance(value, dict):
        index = value.get("index", "")
        for key, item in value.items():
            _gather(item, f"{place}.{index}.{key}", texts)
    elif isinstance(value, list):
        for item in value:  # tokens of a list are read one after the other
            _gather(item, place, texts)
    elif isinstance(value, str):
        texts[place] = texts.get(place, "") + value


def leaks(body: str) -> list[str]:
    read = [visible(text) for text in readings(body)]
    return [secret for secret in speaker.SECRETS if any(secret in text for text in read)]


def probe(peer: Peer, place: Place, upstream_port: int) -> str:
    """What becomes of the secrets of one place."""
    seen = f"http://127.0.0.1:{upstream_port}/seen"
    httpx.get(seen)
    words = speaker.SPOKEN if place.make else f"script:{place.script} hello"
    body = place.make(words) if place.make else _ask(place.path, words, stream=place.stream)
    try:
        reply = httpx.post(
            f"http://127.0.0.1:{peer.port}{place.path}", json=body, headers=HEADERS, timeout=30
        )
    except httpx.HTTPError:
        return BROKEN
    asked = httpx.get(seen).json()
    told = "\n".join(asked) if place.make else reply.text
    if leaks(told):
        return LEAKED
    if reply.status_code == 200 and '"error"' not in reply.text:
        return HELD
    expected = place.script == "error" and asked
    return HELD if expected else REFUSED if reply.status_code in (400, 403, 501) else BROKEN


# -- speed ----------------------------------------------------------------------------------------


_SPEAKS: Final = re.compile(rb'"content": ?"[^"]')


def first_token(port: int, rounds: int) -> tuple[float, float]:
    """Milliseconds until the first text, and until the end, of a reply of 2 s."""
    first, whole = [], []
    body = json.dumps(_ask(_CHAT, "script:slow", stream=True)).encode()
    head = (
        f"POST {_CHAT} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(rounds):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            start, data, seen = time.perf_counter(), b"", 0.0
            sock.sendall(head.encode() + body)
            while not data.endswith(b"0\r\n\r\n"):
                data += sock.recv(65536) or b"0\r\n\r\n"
                if not seen and _SPEAKS.search(data):
                    seen = time.perf_counter() - start
            first.append(seen * 1e3)
            whole.append((time.perf_counter() - start) * 1e3)
    return statistics.median(first), statistics.median(whole)


def version() -> str:
    for path in (ROOT / ".venv-litellm").glob("lib/python*/site-packages/litellm-*.dist-info"):
        return path.name.removeprefix("litellm-").removesuffix(".dist-info")
    raise PackageNotFoundError("litellm")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement of speed")
    parser.add_argument("--leaks-only", action="store_true", help="no figures of speed")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {RESULT.name}")
    args = parser.parse_args()
    if not LITELLM.exists():
        print("LiteLLM is not installed here: make bench-peers does it", file=sys.stderr)
        return 3
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lucid-bench-")))
        directory.chmod(0o755)
        port = stack.enter_context(talker())
        observer_port = stack.enter_context(peers.observer(directory))
        policy = bundle(directory)
        theirs = stack.enter_context(
            litellm(directory, port, f"LiteLLM {version()}, content filter")
        )
        ours = stack.enter_context(peers.full_agent(directory, port, observer_port, bundle=policy))
        direct = Peer("directly", port, os.getpid())
        lines = ["| a secret in … | ours | LiteLLM |", "| --- | --- | --- |"]
        for place in PLACES:
            assert probe(direct, place, port) == LEAKED, place.name  # the probe can see it
            results = [probe(peer, place, port) for peer in (ours, theirs)]
            lines.append(f"| {place.name} | {' | '.join(results)} |")
        table = "\n".join(lines)
        print(table)
        speed = "" if args.leaks_only else figures(directory, [direct, ours, theirs], args.seconds)
        print(speed)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Beside LiteLLM {version()}, measured on {when}\n\nMade by `make bench-peers`. Both"
            " mask e-mail addresses, card numbers and API keys in both directions, LiteLLM by"
            " `litellm_content_filter` (`pre_call` and `post_call`, prebuilt patterns `email`,"
            " `visa`, `credit_card`, and a pattern for the key), ours by a policy over its built-in"
            " detectors with policy, journal and stream to the Observer on. *held*: masked, or not"
            " passed on; *refused*: the whole request or reply was.\n\n"
            f"{table}\n\n{speed}"
        )
    return 0


def figures(directory: Path, contenders: list[Peer], seconds: int) -> str:
    """Speed: requests through both to nginx, and streams of the scripted model server."""
    with contextlib.ExitStack() as stack:
        lines = [
            "| | first token of a stream, ms | whole stream of 2 s, ms |", "| --- | --- | --- |"
        ]  # fmt: skip
        for peer in contenders:
            first, whole = first_token(peer.port, 5)
            lines.append(f"| {peer.name} | {first:.1f} | {whole:.0f} |")
        fixed = stack.enter_context(peers.upstream(directory))
        fast = directory / "fast"
        fast.mkdir()
        busy = [
            stack.enter_context(litellm(fast, fixed.port, contenders[2].name)),
            stack.enter_context(
                peers.full_agent(
                    fast, fixed.port, stack.enter_context(peers.observer(fast)), bundle=bundle(fast)
                )
            ),
        ]
        lines += ["", "| | requests/s, 8 connections | CPU µs/request | errors |"]
        lines += ["| --- | --- | --- | --- |"]
        for peer in reversed(busy):
            for _ in range(20):  # a first request may load much
                httpx.post(
                    f"http://127.0.0.1:{peer.port}{_CHAT}",
                    json=_ask(_CHAT, "hello", stream=False),
                    headers=HEADERS,
                    timeout=60,
                )
            closed_loop(peer, connections=8, seconds=1, token=TOKEN)
            run = closed_loop(peer, connections=8, seconds=seconds, token=TOKEN)
            lines.append(
                f"| {peer.name} | {run.per_second:,.0f} | {run.cpu_us:,.0f} | {run.errors} |"
            )
        return (
            "One core for each. Our first token waits for the window: text is held until the next"
            f" {256 + 64} characters are known.\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
