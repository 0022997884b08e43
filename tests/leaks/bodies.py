"""Bodies made from the routes' own tables, with a secret at a chosen place.

Every leaf of a table that can hold text gets its turn, so a field that is added to a table is
hunted through from then on.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator
from random import Random
from typing import Any

from enforcement.bodies import leaves
from enforcement.bodies.leaves import Refused, Shape
from enforcement.bodies.shapes import Either, Many, Obj, Tagged
from tests.leaks.secrets import Secret

WORDS = ("alpha", "bravo", "delta", "echo", "foxtrot", "golf", "hotel", "über", "東京", "naïve",
         "😀", "\U0001f9d1", "line")  # fmt: skip

Step = tuple[Shape, Any]  # a shape, and which of its parts the way goes through
Way = tuple[Step, ...]


def ways(shape: Shape) -> Iterator[Way]:
    """Every way from a shape to one of its leaves."""
    if isinstance(shape, Obj):
        for name, inner in shape.fields.items():
            yield from (((shape, name), *way) for way in ways(inner))
    elif isinstance(shape, Many):
        yield from (((shape, None), *way) for way in ways(shape.item))
    elif isinstance(shape, Tagged):
        for tag, inner in shape.shapes.items():
            yield from (((shape, tag), *way) for way in ways(inner))
    elif isinstance(shape, Either):
        for inner in shape.options:
            yield from (((shape, inner), *way) for way in ways(inner))
    elif not isinstance(shape, Refused) and shape is not leaves.BLOB:
        yield ((shape, None),)


def name_of(way: Way) -> str:
    """`messages[].content<text>.text`, for messages."""
    out = ""
    for shape, part in way:
        if isinstance(shape, Obj):
            out += f".{part}"
        elif isinstance(shape, Many):
            out += "[]"
        elif isinstance(shape, Tagged):
            out += f"<{part}>"
    return out.removeprefix(".")


def filler(rng: Random, most: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def around(rng: Random, secret: str) -> str:
    return f"{filler(rng)} {secret} {filler(rng)}"


def split(rng: Random, text: str, most: int = 6) -> list[str]:
    pieces, place = [], 0
    while place < len(text):
        size = rng.randint(1, most)
        pieces.append(text[place : place + size])
        place += size
    return pieces


class Maker:
    """Makes one body. `secret` stands where the way leads; everything else is harmless."""

    def __init__(self, rng: Random, secret: Secret) -> None:
        self.rng = rng
        self.secret = secret

    def along(self, way: Way) -> Any:
        (shape, part), *rest = way
        value: Any
        if isinstance(shape, Obj):
            value = self._others(shape, part)
            value[part] = self.along(tuple(rest))
            return value
        if isinstance(shape, Many):
            value = [self.harmless(shape.item) for _ in range(self.rng.randint(0, 1))]
            return [*value, self.along(tuple(rest))]
        if isinstance(shape, Tagged):
            value = self.along(tuple(rest))
            return {**value, "type": part} if rest and isinstance(rest[0][0], Obj) else value
        if isinstance(shape, Either):
            return self.along(tuple(rest))
        return self._planted(shape)

    def harmless(self, shape: Shape) -> Any:
        rng = self.rng
        if isinstance(shape, Obj):
            return self._others(shape, None)
        if isinstance(shape, Many):
            return [self.harmless(shape.item)]
        if isinstance(shape, Tagged):
            tag, inner = rng.choice(list(shape.shapes.items()))
            value = self.harmless(inner)
            return {**value, "type": tag} if isinstance(value, dict) else None
        if isinstance(shape, Either):
            return self.harmless(rng.choice(shape.options))
        if isinstance(shape, Refused) or shape is leaves.DROPPED:
            return None
        if shape in (leaves.TEXT, leaves.TEXTS):
            return filler(rng)
        if shape is leaves.NAME:
            return rng.choice(("auto", "model-7b", "call_1", "stop"))
        if shape is leaves.SCALAR:
            return rng.choice((0, 1, 2.5, True, False))
        if shape is leaves.BLOB:
            return "AAAA"
        if shape is leaves.URL:
            return "data:image/png;base64,AAAA"
        return {} if shape in (leaves.FREE, leaves.NUMBERS) else None

    def _others(self, shape: Obj, way: Any) -> dict[str, Any]:
        chosen = [n for n in shape.fields if n != way and self.rng.random() < 0.08]
        value = {name: self.harmless(shape.fields[name]) for name in chosen}
        value.pop("type", None)
        return value

    def _planted(self, shape: Shape) -> Any:
        rng, text = self.rng, self.secret.text
        if shape is leaves.TEXTS:
            return rng.choice((around(rng, text), [filler(rng), around(rng, text)]))
        if shape is leaves.JSON_TEXT:
            return dumps({"to": filler(rng), "what": around(rng, text)}, rng, 0.3)
        if shape in (leaves.NAME, leaves.DROPPED, leaves.VECTOR):
            return text
        if shape is leaves.SCALAR:
            return int(text) if text.isdigit() else 1
        if shape is leaves.NUMBERS:
            return {"total": int(text)} if text.isdigit() else {"total": 1}
        if shape is leaves.URL:
            return f"https://files.zz/{rng.randrange(99)}?who={text}"
        if shape is leaves.COPY:
            return self._copies()
        if shape is leaves.FREE:
            return self._free()
        return around(rng, text)

    def _free(self) -> Any:
        rng, text = self.rng, self.secret.text
        inner: Any = rng.choice((around(rng, text), [filler(rng), text], {text: 1}))
        if text.isdigit() and rng.random() < 0.5:
            inner = int(text)
        for _ in range(rng.randint(0, 3)):
            inner = rng.choice(([inner, filler(rng)], {"deep": inner, "n": 1}))
        return {"x": inner} if not isinstance(inner, dict) else inner

    def _copies(self) -> Any:
        """Log probabilities in one of the forms that servers have."""
        rng = self.rng
        tokens = split(rng, around(rng, self.secret.text))
        form = rng.choice(("chat", "completion", "bytes", "other"))
        if form == "completion":
            return {"tokens": tokens, "top_logprobs": [{token: -0.5} for token in tokens]}
        entries: list[dict[str, Any]]
        entries = [{"token": token, "logprob": -0.1, "bytes": None} for token in tokens]
        if form == "bytes":
            entries = [
                {"token": "x", "logprob": -0.1, "bytes": list(token.encode())} for token in tokens
            ]
        elif form == "other":
            entries = [
                {"token": "x", "logprob": -0.1, "top_logprobs": [{"token": "y"}, entry]}
                for entry in entries
            ]
        return {"content": entries}


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPABLE = string.ascii_letters + string.digits + "@.-_+ ()"


def dumps(value: Any, rng: Random, escaped: float) -> str:
    """JSON in which a share of the characters is escaped. Halves of surrogate pairs are kept."""
    text = json.dumps(value)
    if not escaped:
        return text
    chosen = [c for c in _ESCAPABLE if rng.random() < escaped]
    table = {ord(c): f"\\u{ord(c):04x}" for c in chosen}

    def rewrite(part: re.Match[str]) -> str:
        found = part.group()
        return found if found[0] == "\\" else found.translate(table)

    # The digits of `\u00e9` are not characters of the text.
    return _STRING.sub(lambda m: '"' + _ESCAPES_OR_PLAIN.sub(rewrite, m.group()[1:-1]) + '"', text)


_ESCAPES_OR_PLAIN = re.compile(r"\\u[0-9a-f]{4}|\\.|[^\\]+")


def encode(value: Any, rng: Random) -> bytes:
    """A body as some client or server would write it."""
    escaped = rng.choice((0, 0, 0.1, 0.5, 1))
    if not escaped:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
    return dumps(value, rng, escaped).encode()
