"""Anthropic's Messages: named events; content comes in blocks, one after another."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from enforcement.apis.messages import EVENTS
from enforcement.bodies.reading import Reading
from enforcement.bodies.shapes import MAX_INDEX
from enforcement.content import sse
from enforcement.content.sse import Event, MalformedStreamError
from enforcement.streams.api import Channel, Part, Quick, index_of, parse_event, require_characters

_DELTAS: Final = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "partial_json": "input_json_delta",
}


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: str
    type: Literal["text_delta"]


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One event of the kind of which there are many: a text goes on."""

    delta: _Delta
    index: int
    type: Literal["content_block_delta"]


_EVENTS: Final = msgspec.json.Decoder(_Event)
_GROWING: Final = ("text", "thinking", "input")  # what deltas go on with


class MessagesStream:
    """One message."""

    def __init__(self) -> None:
        self._filled: set[int] = set()  # blocks that came with text when they began

    def quick(self, event: Event) -> Quick | None:
        """See `StreamApi`."""
        if event.name != "content_block_delta" or event.data is None:
            return None
        try:
            value = _EVENTS.decode(event.data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        if not 0 <= value.index < MAX_INDEX or value.index in self._filled:
            return None
        return Quick((value.index, "text"), value.delta.text)

    def read(self, event: Event) -> Part:
        """See `StreamApi`."""
        assert event.data is not None
        value = parse_event(event.data)
        name = value.get("type")
        shape = EVENTS.get(name) if type(name) is str else None
        if shape is None or event.name not in ("", name):
            raise MalformedStreamError("an event that this API does not have")
        assert type(name) is str
        reading = Reading()
        index = index_of(value, "index")
        reading.place = (index,)
        shape.read([value], 0, value, reading)
        require_characters(reading.texts)
        part = Part(value=value, reading=reading, name=name)
        if name == "content_block_delta":
            self._go_on(part, value.get("delta"), index)
        elif name == "content_block_start":
            part.begins = True
            self._begin(index, value.get("content_block"))
        elif name == "message_start":
            for number, block in enumerate((value.get("message") or {}).get("content") or ()):
                self._begin(number, block)
        elif name == "content_block_stop":
            part.ends = ((index,),)
        elif name == "ping":
            part.alive = True
        else:
            part.ends = ((),)
            part.last = name != "message_delta"
        return part

    def _go_on(self, part: Part, delta: Any, index: int) -> None:
        part.speaks = not part.reading.streamed
        if not isinstance(delta, dict):
            raise MalformedStreamError("a delta event without a delta")
        if delta.get("type") == "signature_delta":  # signs the thinking before it
            part.ends = ((index, "thinking"),)
        elif part.reading.streamed and index in self._filled:
            raise MalformedStreamError("more text of a block that came with text")

    def _begin(self, index: int, block: dict[str, Any] | None) -> None:
        """Clients append the deltas of a block to what is in it when it begins."""
        if block and index < MAX_INDEX and any(block.get(key) for key in _GROWING):
            self._filled.add(index)

    def carry(self, channel: Channel, text: str) -> tuple[str, dict[str, Any]]:
        """See `StreamApi`."""
        index, field = channel
        delta = {"type": _DELTAS[str(field)], field: text}
        return "content_block_delta", {
            "type": "content_block_delta",
            "index": index,
            "delta": delta,
        }

    def encode(self, name: str, value: dict[str, Any] | None) -> bytes:
        """See `StreamApi`."""
        return sse.encode(msgspec.json.encode(value), name)
