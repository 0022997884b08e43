"""Streamed replies of every API, with texts cut anywhere, and what a client reads of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from enforcement.bodies.json_escapes import unescape
from tests.leaks.bodies import around, dumps, filler, split
from tests.leaks.secrets import Secret

Event = tuple[str, dict[str, Any] | str]
Place = tuple[Any, ...]


@dataclass
class Script:
    """A stream before it is cut: events, and every text by the place that a client joins it at."""

    events: list[Event] = field(default_factory=list)
    texts: dict[Place, str] = field(default_factory=dict)


def halves(rng: Random, text: str, most: int = 8) -> list[str]:
    """A text in pieces; now and then a surrogate pair is cut in two."""
    if rng.random() < 0.3:
        data = text.encode("utf-16-le")
        text = "".join(chr(data[i] | data[i + 1] << 8) for i in range(0, len(data), 2))
    return split(rng, text, most)


def _text(rng: Random, secret: Secret | None, *, is_json: bool = False) -> str:
    text = filler(rng, 4)
    if secret is not None:
        text = filler(rng, rng.choice((1, 4, 80))) + " " + around(rng, secret.text)
        text += " " + filler(rng, rng.choice((1, 4, 80)))
    return dumps({"to": text}, rng, rng.choice((0, 0.3, 1))) if is_json else text


CHAT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal", "tool", "function", "text")


def chat(rng: Random, secret: Secret, *, completion: bool) -> Script:
    script = Script()
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 17, "model": "m"}
    count = rng.randint(1, 3)
    chosen = rng.randrange(count)
    queues: list[list[dict[str, Any]]] = []
    for index in range(count):
        known = ("text",) if completion else CHAT_FIELDS[:-1]
        fields = rng.sample(known, rng.randint(1, len(known)))
        planted = rng.choice(fields) if index == chosen else None
        queue: list[dict[str, Any]] = []
        if not completion:
            queue.append({"index": index, "delta": {"role": "assistant", "content": ""}})
        for name in fields:
            text = _text(
                rng, secret if name == planted else None, is_json=name in ("tool", "function")
            )
            script.texts[index, name] = text
            queue += [_choice(index, name, p, n) for n, p in enumerate(halves(rng, text))]
        end: dict[str, Any] = {"index": index, "delta": {}, "finish_reason": "stop"}
        if completion:
            end = {"index": index, "text": "", "finish_reason": "stop"}
        queue.append(end)
        for choice in queue:
            if rng.random() < 0.05:
                choice["logprobs"] = {"content": [{"token": secret.text, "logprob": -1}]}
                choice["token_ids"] = [4, 1]
        queues.append(queue)
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        event: dict[str, Any] = {**head, "choices": [queue.pop(0)]}
        if rng.random() < 0.2:
            event["usage"] = {"completion_tokens": 3}
        script.events.append(("", event))
    if rng.random() < 0.1:
        script.events.append(("", {"error": {"message": around(rng, secret.text), "code": 500}}))
    script.events.append(("", {**head, "choices": [], "usage": {"total_tokens": 77}}))
    script.events.append(("", "[DONE]"))
    return script


def _choice(index: int, name: str, piece: str, number: int) -> dict[str, Any]:
    if name == "text":
        return {"index": index, "text": piece, "finish_reason": None}
    if name == "function":
        return {"index": index, "delta": {"function_call": {"arguments": piece}}}
    if name == "tool":
        call: dict[str, Any] = {"index": 0, "function": {"arguments": piece}}
        if number == 0:
            call |= {"id": "call_1", "type": "function"}
            call["function"]["name"] = "send"
        return {"index": index, "delta": {"tool_calls": [call]}}
    return {"index": index, "delta": {name: piece}, "finish_reason": None}


def responses(rng: Random, secret: Secret) -> Script:
    script = Script()
    kinds = rng.sample(("message", "reasoning", "summary", "refusal", "function", "custom"), 3)
    planted = rng.choice(kinds)
    base = {"id": "resp_1", "object": "response", "model": "m"}
    add = script.events.append
    number = 0

    def say(name: str, **more: Any) -> None:
        nonlocal number
        add((name, {"type": name, "sequence_number": number, **more}))
        number += 1

    say("response.created", response={**base, "status": "in_progress", "output": []})
    output = []
    for place, kind in enumerate(kinds):
        is_json = kind == "function"
        text = _text(rng, secret if kind == planted else None, is_json=is_json)
        script.texts[place, kind] = text
        where = {"item_id": f"it_{place}", "output_index": place}
        stem, item, part, inner = _responses_names(kind)
        say("response.output_item.added", output_index=place, item={**item(""), "id": f"i{place}"})
        where |= inner
        if part is not None:
            name = "reasoning_summary_part" if kind == "summary" else "content_part"
            say(f"response.{name}.added", **where, part=part(""))
        for piece in halves(rng, text):
            more: dict[str, Any] = (
                {"logprobs": []} if kind == "message" and rng.random() < 0.5 else {}
            )
            say(f"response.{stem}.delta", **where, delta=piece, **more)
        whole = {"function": "arguments", "custom": "input", "refusal": "refusal"}
        say(f"response.{stem}.done", **where, **{whole.get(kind, "text"): text})
        if part is not None:
            name = "reasoning_summary_part" if kind == "summary" else "content_part"
            say(f"response.{name}.done", **where, part=part(text))
        say("response.output_item.done", output_index=place, item=item(text))
        output.append(item(text))
    say("response.completed", response={**base, "status": "completed", "output": output})
    return script


Make = Callable[[str], dict[str, Any]]


def _message(part: Make) -> Make:
    return lambda t: {"type": "message", "role": "assistant", "content": [part(t)] if t else []}


def _responses_names(kind: str) -> tuple[str, Make, Make | None, dict[str, int]]:
    """Name of the events, the item and the part that hold a text, and where a part stands."""
    part: Make
    match kind:
        case "message":
            part = lambda t: {"type": "output_text", "text": t, "annotations": []}  # noqa: E731
            return "output_text", _message(part), part, {"content_index": 0}
        case "refusal":
            part = lambda t: {"type": "refusal", "refusal": t}  # noqa: E731
            return "refusal", _message(part), part, {"content_index": 0}
        case "reasoning":
            part = lambda t: {"type": "reasoning_text", "text": t}  # noqa: E731
            return (
                "reasoning_text",
                lambda t: {"type": "reasoning", "summary": [], "content": [part(t)] if t else []},
                part,
                {"content_index": 0},
            )
        case "summary":
            part = lambda t: {"type": "summary_text", "text": t}  # noqa: E731
            return (
                "reasoning_summary_text",
                lambda t: {"type": "reasoning", "summary": [part(t)] if t else []},
                part,
                {"summary_index": 0},
            )
        case "function":
            return (
                "function_call_arguments",
                lambda t: {"type": "function_call", "call_id": "c", "name": "send", "arguments": t},
                None,
                {},
            )
    return (
        "custom_tool_call_input",
        lambda t: {"type": "custom_tool_call", "call_id": "c", "name": "run", "input": t},
        None,
        {},
    )


def messages(rng: Random, secret: Secret) -> Script:
    script = Script()
    add = script.events.append
    kinds = [rng.choice(("text", "thinking", "tool_use")) for _ in range(rng.randint(1, 3))]
    planted = rng.randrange(len(kinds))
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m"}
    add(("message_start", {"type": "message_start", "message": {**start, "usage": {}}}))
    names = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}
    deltas = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
    for index, kind in enumerate(kinds):
        text = _text(rng, secret if index == planted else None, is_json=kind == "tool_use")
        script.texts[index, names[kind]] = text
        block: dict[str, Any] = {"type": kind, names[kind]: ""}
        if kind == "tool_use":
            block = {"type": kind, "id": "toolu_1", "name": "send", "input": {}}
        add(_block("content_block_start", index, content_block=block))
        for piece in halves(rng, text):
            delta = {"type": deltas[kind], names[kind]: piece}
            add(_block("content_block_delta", index, delta=delta))
            if rng.random() < 0.03:
                add(("ping", {"type": "ping"}))
        if kind == "thinking":
            delta = {"type": "signature_delta", "signature": "QUJD"}
            add(_block("content_block_delta", index, delta=delta))
        add(_block("content_block_stop", index))
    if rng.random() < 0.1:
        error = {"type": "api_error", "message": around(rng, secret.text)}
        add(("error", {"type": "error", "error": error}))
        return script
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    if rng.random() < 0.2:
        stop = {"stop_reason": "stop_sequence", "stop_sequence": secret.text}
    add(("message_delta", {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 7}}))
    add(("message_stop", {"type": "message_stop"}))
    return script


def _block(name: str, index: int, **more: Any) -> Event:
    return name, {"type": name, "index": index, **more}


def wire(script: Script, rng: Random) -> bytes:
    """The stream's bytes."""
    escaped = rng.choice((0, 0, 0.2, 1))
    end = rng.choice(("\n", "\n", "\r\n"))
    out = []
    for name, value in script.events:
        if rng.random() < 0.05:
            out.append(f": alive{end}{end}")
        data = value if isinstance(value, str) else dumps(value, rng, escaped)
        out.append((f"event: {name}{end}" if name else "") + f"data: {data}{end}{end}")
    return "".join(out).encode()


def cut(data: bytes, rng: Random) -> list[bytes]:
    """The bytes in pieces, as a network might bring them."""
    size = rng.choice((len(data), 1, 7, 60, 1400) if len(data) < 4_000 else (len(data), 50, 1400))
    pieces, place = [], 0
    while place < len(data):
        length = size if size == 1 else rng.randint(1, size)
        pieces.append(data[place : place + length])
        place += length
    return pieces


def read(data: bytes) -> dict[Place, str]:
    """What a client reads: the texts joined, by the same places as in a script."""
    out: dict[Place, str] = {}
    for block in data.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line.startswith("data: ")]
        if not lines or lines[0] == "data: [DONE]":
            continue
        value = json.loads(lines[0].removeprefix("data: "))
        for place, text in _pieces(value):
            out[place] = out.get(place, "") + text
    return {place: text for place, text in out.items() if text}


_KINDS = {
    "output_text": "message",
    "refusal": "refusal",
    "reasoning_text": "reasoning",
    "reasoning_summary_text": "summary",
    "function_call_arguments": "function",
    "custom_tool_call_input": "custom",
}


def _pieces(value: dict[str, Any]) -> list[tuple[Place, str]]:
    found: list[tuple[Place, str]] = []
    for choice in value.get("choices") or []:
        index = choice["index"]
        if choice.get("text"):
            found.append(((index, "text"), choice["text"]))
        for name, item in (choice.get("delta") or {}).items():
            if name == "tool_calls":
                found += [((index, "tool"), call["function"]["arguments"]) for call in item]
            elif name == "function_call":
                found.append(((index, "function"), item["arguments"]))
            elif name != "role" and isinstance(item, str):
                found.append(((index, name), item))
    kind = str(value.get("type"))
    if kind.endswith(".delta"):
        stem = kind.removeprefix("response.").removesuffix(".delta")
        found.append(((value["output_index"], _KINDS[stem]), value["delta"]))
    if kind == "content_block_delta":
        delta = value["delta"]
        for name in ("text", "thinking", "partial_json"):
            if name in delta:
                found.append(((value["index"], name), delta[name]))
    return found


JSON_PLACES = ("tool", "function", "partial_json")


def as_read(place: Place, text: str) -> str:
    """A script's text as a client would understand it."""
    return unescape(text) if place[-1] in JSON_PLACES else text
