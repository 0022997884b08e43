"""Bodies as texts: read by the table of their route, edited in place, and written again.

What goes on is always encoded again from what was read, so that no second parser can read something
else. Per-token copies of text (`logprobs`) pass only with text that was not edited, and only if
nothing is found in them; token ids never pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from attestation.records import TextDigest
from enforcement.apis.common import ERROR
from enforcement.apis.routes import Route
from enforcement.bodies.leaves import TEXT, Shape
from enforcement.bodies.reading import BodyError, Reading, Text, is_plain_key
from enforcement.detectors import scan

__all__ = [
    "BodyError",
    "Reading",
    "Text",
    "digests",
    "drop_copies",
    "encode_json",
    "parse_json",
    "read_reply",
    "read_request",
    "write_reply",
]

MAX_DIGESTS: Final = 64  # texts named one by one in a record; the rest share one digest


def parse_json(body: bytes | str) -> Any:
    """Decode strictly: UTF-8, no NaN, bounded depth.

    Of duplicate keys the last counts, here and, because bodies are encoded again, upstream.

    Raises:
        BodyError: `invalid_json`.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BodyError("invalid_json", "the body is not valid JSON") from None


def encode_json(value: Any) -> bytes:
    """The body that goes on."""
    return msgspec.json.encode(value)


def read_request(route: Route, body: bytes) -> tuple[Any, Reading]:
    """A request's body and what is in it; no body (None) on a route that takes none.

    Raises:
        BodyError: `invalid_json`, `invalid_request`, `unknown_field`, `content_not_supported`, …:
            whatever the route's table does not name.
    """
    reading = Reading()
    if route.request is None:
        if body:
            raise BodyError("invalid_request", "this route takes no body")
        return None, reading
    value = parse_json(body)
    if type(value) is not dict:
        raise BodyError("invalid_request", "the body is not a JSON object")
    if route.needs and value.get(route.needs) is None:
        raise BodyError("invalid_request", f"{route.needs} is missing")
    if type(value.get("model", "")) is not str:
        raise BodyError("invalid_request", "model is not a string")
    if type(value.get("stream", False)) not in (bool, type(None)):
        raise BodyError("invalid_request", "stream is not true or false")
    route.request.read([value], 0, value, reading)
    return value, reading


def read_reply(
    route: Route, *, status: int, content_type: str, body: bytes
) -> tuple[list[Any], Reading]:
    """The reply in a list of one (empty: no body), so that a bare text has a holder.

    An error's body is read as a whole: every string in it is a text.

    Raises:
        BodyError: neither JSON nor text, or something that the route's table does not name.
    """
    reading = Reading()
    if not body:
        return [], reading
    holder: list[Any]
    shape: Shape | None
    if "json" in content_type:
        holder = [parse_json(body)]
        failed = status >= 400 or (type(holder[0]) is dict and holder[0].get("error") is not None)
        shape = ERROR if failed else route.reply
    elif content_type.startswith("text/"):
        shape = TEXT
        try:
            holder = [body.decode()]
        except UnicodeDecodeError:
            raise BodyError("invalid_reply", "the reply is not UTF-8") from None
    else:
        raise BodyError("invalid_reply", "the reply is neither JSON nor text")
    if shape is None:
        raise BodyError("invalid_reply", "this route has no replies")
    if holder[0] is not None:
        shape.read(holder, 0, holder[0], reading)
    return holder, reading


def write_reply(content_type: str, value: Any) -> bytes:
    """The reply that goes on."""
    return encode_json(value) if "json" in content_type else str(value).encode()


# -- copies of text -------------------------------------------------------------------------------


def drop_copies(reading: Reading, labels: frozenset[str], *, edited: bool) -> None:
    """Remove copies of text from a reply, in place: all where the text was edited, else those in
    which a detector finds something.
    """
    for holder, key in reading.copies:
        if edited or not copies_are_clean(holder[key], labels):
            holder[key] = None


def copies_are_clean(value: Any, labels: frozenset[str]) -> bool:
    """Whether nothing is found in the tokens, each rank of alternatives read as a text of its own,
    nor in the bytes that stand beside them.
    """
    columns: dict[tuple[str | int, ...], list[str]] = {}
    octets: dict[tuple[str | int, ...], bytearray] = {}
    try:
        for path, token in _tokens(value, (), in_sequence=False):
            if isinstance(token, str):
                columns.setdefault(path, []).append(token)
            else:
                octets.setdefault(path, bytearray()).extend(token)
    except (ValueError, TypeError):
        return False  # bytes that are none
    texts = ["".join(column) for column in columns.values()]
    texts += [column.decode(errors="replace") for column in octets.values()]
    return not any(scan(text, labels) for text in texts)


def _tokens(
    value: Any, path: tuple[str | int, ...], *, in_sequence: bool
) -> Iterator[tuple[tuple[str | int, ...], str | list[int]]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        if path and path[-1] == "bytes":
            yield path, value
            return
        for number, item in enumerate(value):
            yield from _tokens(item, (*path, number) if in_sequence else path, in_sequence=True)
    elif isinstance(value, dict):
        for number, (key, item) in enumerate(value.items()):
            if is_plain_key(key) and not isinstance(item, (int, float)):
                yield from _tokens(item, (*path, key), in_sequence=in_sequence)
            elif not (is_plain_key(key) and key in ("logprob", "rank")):
                yield (*path, number), key
                yield from _tokens(item, (*path, number), in_sequence=in_sequence)


# -- the record -----------------------------------------------------------------------------------


def digests(texts: list[str], salt: bytes) -> tuple[TextDigest, ...]:
    """Salted digests for the record; beyond MAX_DIGESTS - 1 the rest share one."""
    encoded = [text.encode() for text in texts]
    single = encoded if len(encoded) <= MAX_DIGESTS else encoded[: MAX_DIGESTS - 1]
    out = [
        TextDigest(sha256=hashlib.sha256(salt + data).digest(), size=len(data)) for data in single
    ]
    if len(single) < len(encoded):
        rest = encoded[len(single) :]
        joined = hashlib.sha256(salt)
        for data in rest:
            joined.update(hashlib.sha256(salt + data).digest())
        out.append(TextDigest(sha256=joined.digest(), size=sum(map(len, rest))))
    return tuple(out)
