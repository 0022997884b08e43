"""What a guard needs of an API's stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from enforcement.bodies.reading import BodyError, Reading, Text
from enforcement.bodies.shapes import MAX_INDEX
from enforcement.content.sse import Event, MalformedStreamError

Channel = tuple[int | str, ...]  # which text: indexes of choice, call or block, and its name


@dataclass(slots=True, kw_only=True)
class Part:
    """One event that was read.

    Attributes:
        value: its JSON; None: an end marker that has none.
        ends: beginnings of the channels whose text ends here; their rest leaves before the event.
        speaks: it has something to say even when no text may leave with it.
        begins: it begins something new, so what waited before it was not the end of the reply.
        alive: it only keeps the connection alive, and waits for nothing.
        last: nothing may follow.
    """

    value: dict[str, Any] | None
    reading: Reading
    name: str = ""
    ends: tuple[Channel, ...] = ()
    speaks: bool = True
    begins: bool = False
    alive: bool = False
    last: bool = False


class Quick(NamedTuple):
    """An event that does nothing but carry more of one text; `carry` makes it again."""

    channel: Channel
    text: str


class StreamApi(Protocol):
    """One stream of one API. Keeps what it must know of earlier events."""

    def quick(self, event: Event) -> Quick | None:
        """The event, if it is one of the many that only go on with a text; None: `read` it.

        An event is only quick if it holds nothing that `read` would see besides.
        """

    def read(self, event: Event) -> Part:
        """Read one event.

        Raises:
            MalformedStreamError, BodyError: the API has no such event.
        """

    def carry(self, channel: Channel, text: str) -> tuple[str, dict[str, Any]]:
        """An event (name, value) that carries more text of a channel."""

    def encode(self, name: str, value: dict[str, Any] | None) -> bytes:
        """An event as wire bytes. Called in the order in which events leave."""


class NoStream:
    """The stream of a route that has none."""

    def quick(self, event: Event) -> Quick | None:
        """See `StreamApi`."""
        return None

    def read(self, event: Event) -> Part:
        """See `StreamApi`."""
        raise MalformedStreamError("this route has no streams")

    def carry(self, channel: Channel, text: str) -> tuple[str, dict[str, Any]]:
        """See `StreamApi`. Never called: nothing was read."""
        raise MalformedStreamError("this route has no streams")

    def encode(self, name: str, value: dict[str, Any] | None) -> bytes:
        """See `StreamApi`. Never called: nothing was read."""
        raise MalformedStreamError("this route has no streams")


def parse_event(data: str) -> dict[str, Any]:
    """The JSON object of an event. Halves of surrogate pairs are kept: a pair may be split.

    Raises:
        MalformedStreamError: not a JSON object.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # msgspec takes no lone surrogate; Python's own parser does.
        if "\\u" not in data:
            raise MalformedStreamError("an event is not JSON") from None
        try:
            value = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise MalformedStreamError("an event is not JSON") from None
    if type(value) is not dict:
        raise MalformedStreamError("an event is not a JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def require_characters(texts: list[Text]) -> None:
    """Put U+FFFD for halves of surrogate pairs in texts that do not go on."""
    for text in texts:
        if not text.value.isascii():
            plain = text.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            if plain != text.value:
                text.replace(plain)


def index_of(value: dict[str, Any], key: str) -> int:
    """An index that an event must have, or 0 where it has none.

    Raises:
        BodyError: it is none.
    """
    index = value.get(key, 0)
    if type(index) is not int or not 0 <= index < MAX_INDEX:
        raise BodyError("invalid_reply", f"{key} is not an index")
    return index
