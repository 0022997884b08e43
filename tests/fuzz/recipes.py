"""Bytes to bodies: a fuzzer's input read as a recipe, so that it need not learn JSON first.

A recipe makes a body of its own, or takes a valid one of the route (`samples`) and changes it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, Final

from tests.fuzz.samples import EVENTS, REPLIES, REQUESTS

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
    *(f" {planted} " for planted in PLANTED),  # as words of their own, whatever stands beside them
    *("user", "assistant", "tool", "text", "hello ", "[DONE]", "a@b", "4111", " 1111", "sk-"),
    *("input_text", "output_text", "function", "tool_use", "tool_result", "thinking", "stop"),
    *("response.output_text.delta", "response.created", "response.completed", "message_start"),
    *("content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
    *("message_stop", "ping", "error", "text_delta", "input_json_delta", "thinking_delta"),
    *("chat.completion.chunk", "response.function_call_arguments.delta", "length", "\u200b"),
    *("\ud800", "\udc00", "é", "😀", "\x00", "m", "http://x", "data:image/png;base64,AA=="),
)


class Recipe:
    """Turns bytes into JSON values, so that the fuzzer need not learn JSON first.

    Args:
        keys, words: what keys and leaves are made of.
    """

    def __init__(
        self, data: bytes, *, keys: Sequence[Any] = _KEYS, words: Sequence[Any] = _WORDS
    ) -> None:
        self._data = data
        self._place = 0
        self._keys = keys
        self._words = words

    def take(self, size: int) -> bytes:
        """That many of the bytes that are left, or fewer."""
        taken = self._data[self._place : self._place + size]
        self._place += len(taken)
        return taken

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
                return self.number()
            case 3 | 4 | 5:
                return self.text()
            case 6:
                return [self.value(depth + 1) for _ in range(self.byte() % 5)]
            case _:
                return {self.key(): self.value(depth + 1) for _ in range(self.byte() % 8)}

    def number(self) -> int:
        return self.byte() - 100

    def key(self) -> Any:
        return self._keys[self.byte() % len(self._keys)]

    def changed(self, sample: Any) -> Any:
        """A copy of a sample with some values, keys or items changed."""
        value = copy.deepcopy(sample)
        for _ in range(self.byte() % 6):
            self._change(value)
        return value

    def _change(self, value: Any) -> None:
        """Go down by the recipe's bytes, and change what is there."""
        while isinstance(value, (dict, list)) and value:
            places = list(value) if isinstance(value, dict) else range(len(value))
            place = places[self.byte() % len(places)]
            how = self.byte()
            if how >= 96 and isinstance(value[place], (dict, list)) and value[place]:
                value = value[place]
                continue
            match how % 6:
                case 0:
                    value[place] = self.value(6)
                case 1 if isinstance(value, dict):
                    value[self.key()] = self.value(6)
                case 1 if isinstance(value, list):
                    value.append(copy.deepcopy(value[place]))
                case 2:
                    del value[place]
                case _:
                    value[place] = self.text()
            return

    def text(self) -> Any:
        count = self.byte() % 4
        return " ".join(self._words[self.byte() % len(self._words)] for _ in range(count))

    def exchanged(self, sample: bytes) -> bytes:
        """The same bytes with some of them exchanged, cut out or doubled."""
        made = bytearray(sample)
        for _ in range(self.byte() % 6):
            if not made:
                break
            place = int.from_bytes(self.take(2), "big") % len(made)
            match self.byte() % 8:
                case 0:
                    del made[place : place + self.byte()]
                case 1:
                    made[place:place] = made[place : place + self.byte()]
                case 2:
                    made[place:place] = self.take(self.byte() % 32)
                case 3:
                    made[place] ^= 1 << self.byte() % 8
                case _:
                    made[place] = self.byte()
        return bytes(made)


class SignedRecipe(Recipe):
    """Values as CBOR has them: texts and bytes, keys and numbers that RFC 8949 writes in any of
    its lengths.
    """

    _NUMBERS: Final = (0, 1, 23, 24, 255, 256, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
    _SIZES: Final = (0, 1, 8, 16, 20, 32, 33, 48, 64, 65, 128, 300)

    def number(self) -> int:
        kind = self.byte()
        value = self._NUMBERS[kind % len(self._NUMBERS)]
        return -1 - value if kind & 128 else value

    def text(self) -> Any:
        kind = self.byte()
        if kind & 1:
            return self._words[kind // 2 % len(self._words)]
        return bytes((self.byte(),)) * self._SIZES[kind // 2 % len(self._SIZES)]


def request(route: str, data: bytes) -> bytes:
    """A request's body: of the recipe's own, or a valid one of the route, changed."""
    return _one(REQUESTS.get(route, ()), Recipe(data))


def reply(route: str, data: bytes) -> bytes:
    """A reply's body."""
    return _one(REPLIES.get(route, ()), Recipe(data))


def _one(samples: tuple[Any, ...], recipe: Recipe) -> bytes:
    kind = recipe.byte()
    if samples and kind % 4:
        value = recipe.changed(samples[kind % len(samples)])
    else:
        value = recipe.value()
        if not isinstance(value, dict):
            value = {"model": "m", recipe.key(): value}
        while recipe.left and len(value) < 40:
            value[recipe.key()] = recipe.value(1)
    return json.dumps(value).encode()


def stream(route: str, data: bytes) -> bytes:
    """An event stream: the route's events in the recipe's order, some of them changed."""
    recipe = Recipe(data)
    samples = EVENTS.get(route) or EVENTS["chat.completions"]
    out = b""
    place = 0
    while recipe.left and len(out) < 32768:
        kind = recipe.byte()
        if kind < 8:
            out += (b": comment\n\n", b"data: [DONE]\n\n", b"id: 1\n\n", b"\n")[kind % 4]
            continue
        if kind < 24:
            out += b"data: " + json.dumps(recipe.value()).encode() + b"\n\n"
            continue
        place = recipe.byte() if kind < 96 else place + 1
        sample = samples[place % len(samples)]
        value = recipe.changed(sample) if kind % 2 else sample
        name = value.get("type") if isinstance(value, dict) else None
        if isinstance(name, str) and route in ("responses", "messages"):
            out += b"event: " + name.encode("utf-8", "replace").replace(b"\n", b"") + b"\n"
        out += b"data: " + json.dumps(value).encode() + b"\n\n"
    return out


def string(data: bytes) -> str:
    """Any text: mostly what detectors look for, else UTF-8 with lone surrogates."""
    recipe = Recipe(data)
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
