"""How each API streams: its events read by their table, and events made for text that was held."""

from __future__ import annotations

from enforcement.apis.routes import StreamKind
from enforcement.streams.api import Channel, NoStream, Part, StreamApi
from enforcement.streams.chat import ChatStream
from enforcement.streams.messages import MessagesStream
from enforcement.streams.responses import ResponsesStream

__all__ = ["Channel", "Part", "StreamApi", "open_stream"]

_KINDS: dict[StreamKind, type[ChatStream | ResponsesStream | MessagesStream]] = {
    "chat": ChatStream,
    "responses": ResponsesStream,
    "messages": MessagesStream,
}


def open_stream(kind: StreamKind | None) -> StreamApi:
    """A reader for one stream; None: of a route that has none, so every event is refused."""
    return NoStream() if kind is None else _KINDS[kind]()
