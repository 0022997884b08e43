"""OpenAI's Responses: named, numbered events; `….done` events repeat the text of their deltas.

The repeated texts are read as texts of their own. Events are numbered again, because fewer or more
leave than came.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from enforcement.apis.responses import EVENTS
from enforcement.bodies.reading import Reading
from enforcement.bodies.shapes import MAX_INDEX
from enforcement.content import sse
from enforcement.content.sse import Event, MalformedStreamError
from enforcement.streams.api import Channel, Part, Quick, index_of, parse_event, require_characters

_ENDS: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "error"}
)  # fmt: skip


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One event of the kind of which there are many: a text goes on."""

    delta: str
    item_id: str
    output_index: int
    sequence_number: int
    type: Literal["response.output_text.delta"]
    content_index: int = 0
    logprobs: list[Any] | None = None  # never passes
    obfuscation: str | None = None  # never passes


_EVENTS: Final = msgspec.json.Decoder(_Event)


class ResponsesStream:
    """One response."""

    def __init__(self) -> None:
        self._like: dict[Channel, dict[str, Any]] = {}  # a delta event of each text
        self._filled: set[int] = set()  # outputs that came with text when they were added
        self._number = 0

    def quick(self, event: Event) -> Quick | None:
        """See `StreamApi`. The text must be one of which an event was read."""
        if event.name != "response.output_text.delta" or event.data is None:
            return None
        try:
            value = _EVENTS.decode(event.data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        channel = (value.output_index, value.content_index, "output_text")
        like = self._like.get(channel)
        if like is None or like.get("item_id") != value.item_id:
            return None
        return None if value.output_index in self._filled else Quick(channel, value.delta)

    def read(self, event: Event) -> Part:
        """See `StreamApi`."""
        assert event.data is not None
        if (
            event.data == "[DONE]" and not event.name
        ):  # some servers send it, though the API has none
            return Part(value=None, reading=Reading(), ends=((),), last=True)
        value = parse_event(event.data)
        name = value.get("type")
        shape = EVENTS.get(name) if type(name) is str else None
        if shape is None or event.name not in ("", name):
            raise MalformedStreamError("an event that this API does not have")
        assert type(name) is str
        reading = Reading()
        output = index_of(value, "output_index")
        # A text stands in a content part or in a part of a summary.
        inner = index_of(value, "content_index" if "content_index" in value else "summary_index")
        reading.place = (output, inner)
        shape.read([value], 0, value, reading)
        require_characters(reading.texts)
        for holder, key in reading.copies:
            holder[key] = None
        part = Part(value=value, reading=reading, name=name)
        if reading.streamed:
            part.speaks = False
            if output in self._filled:
                raise MalformedStreamError("more text of an output that came whole")
            if any(text.key == "item_id" for text in reading.texts):
                # It goes into later events too (`carry`), where nobody would mask it.
                raise MalformedStreamError("an item_id that is no identifier")
            self._remember(reading.streamed[0].channel, value)
        elif name.endswith(".added"):
            part.begins = True
            if reading.texts and len(self._filled) < MAX_INDEX:
                self._filled.add(output)
        else:
            part.ends = _ends(name, output, inner)
        return part

    def _remember(self, channel: Channel, value: dict[str, Any]) -> None:
        if channel not in self._like and len(self._like) < MAX_INDEX:
            self._like[channel] = {
                key: item
                for key, item in value.items()
                if key.endswith("_index") or key in ("type", "item_id")
            }

    def carry(self, channel: Channel, text: str) -> tuple[str, dict[str, Any]]:
        """See `StreamApi`."""
        value = {**self._like[channel], "delta": text, "sequence_number": 0}
        if value["type"] == "response.output_text.delta":
            value["logprobs"] = []
        return value["type"], value

    def encode(self, name: str, value: dict[str, Any] | None) -> bytes:
        """See `StreamApi`."""
        if value is None:
            return b"data: [DONE]\n\n"
        if "sequence_number" in value:
            value["sequence_number"] = self._number
            self._number += 1
        return sse.encode(msgspec.json.encode(value), name)


def _ends(name: str, output: int, inner: int) -> tuple[Channel, ...]:
    """The texts that end with an event."""
    if name in _ENDS:
        return ((),)
    if name == "response.output_item.done":
        return ((output,),)
    if name.endswith("part.done"):
        return ((output, inner),)
    if name.endswith(".done"):
        return ((output, inner, name.removeprefix("response.").removesuffix(".done")),)
    return ()
