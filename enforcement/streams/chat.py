"""Chat completions and completions: unnamed events of choices, then `[DONE]`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from enforcement.apis.chat import CHUNK
from enforcement.bodies.reading import Reading
from enforcement.bodies.shapes import MAX_INDEX
from enforcement.content import sse
from enforcement.content.sse import Event, MalformedStreamError
from enforcement.streams.api import Channel, Part, Quick, parse_event, require_characters

DONE: Final = "[DONE]"
MAX_SAID: Final = 4096  # names in one stream
_HEAD: Final = ("id", "object", "created", "model", "system_fingerprint")


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str


class _Choice(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    index: int = 0
    logprobs: None = None
    finish_reason: None = None
    stop_reason: None = None
    token_ids: None = None
    prompt_token_ids: None = None


class _Chunk(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One event of the kind of which there are many: one choice goes on with its text."""

    choices: list[_Choice]
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    usage: None = None


_CHUNKS: Final = msgspec.json.Decoder(_Chunk)


class ChatStream:
    """One stream of choices."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._said: dict[tuple[int | str, ...], str] = {}

    def quick(self, event: Event) -> Quick | None:
        """See `StreamApi`. The head of an event must be that of one that was read."""
        if event.name or event.data is None:
            return None
        try:
            chunk = _CHUNKS.decode(event.data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        head = self._head
        if (
            len(chunk.choices) != 1
            or chunk.id != head.get("id")
            or chunk.model != head.get("model")
            or chunk.object != head.get("object")
            or chunk.created != head.get("created")
            or chunk.system_fingerprint != head.get("system_fingerprint")
        ):
            return None
        choice = chunk.choices[0]
        if not 0 <= choice.index < MAX_INDEX:
            return None
        if choice.text is None:
            if choice.delta is None:
                return None
            return Quick((choice.index, "content"), choice.delta.content)
        return Quick((choice.index, "text"), choice.text) if choice.delta is None else None

    def read(self, event: Event) -> Part:
        """See `StreamApi`."""
        if event.name:
            raise MalformedStreamError("an event that this API does not have")
        if event.data == DONE:
            return Part(value=None, reading=Reading(), ends=((),), last=True)
        assert event.data is not None
        value = parse_event(event.data)
        reading = Reading()
        CHUNK.read([value], 0, value, reading)
        require_characters(reading.texts)
        for holder, key in reading.copies:
            holder[key] = None
        choices = value.get("choices")
        if not choices:
            return Part(value=value, reading=reading)
        self._head = value
        ends: list[Channel] = []
        speaks = False
        for number, choice in enumerate(choices):
            index = choice.get("index", number)
            if choice.get("finish_reason") is not None:
                ends.append((index,))
                speaks = True
            delta = choice.get("delta")
            if delta and self._speaks(index, delta):
                speaks = True
        return Part(value=value, reading=reading, ends=tuple(ends), speaks=speaks)

    def _speaks(self, index: int, delta: dict[str, Any]) -> bool:
        """Whether a delta says more than text. Only once: servers repeat roles and names, and
        events without text would tell how many pieces the text behind them had.
        """
        said = self._name(delta, "role", (index, "role"))
        for number, call in enumerate(delta.get("tool_calls") or ()):
            place = (index, call.get("index", number))
            try:
                said |= self._name(call, "id", (*place, "id"))
            except MalformedStreamError:
                call["id"] = None  # some servers make a new one for each event
            for kind in ("function", "custom"):
                said |= self._name(call.get(kind), "name", (*place, kind))
        return said | self._name(delta.get("function_call"), "name", (index, "function_call"))

    def _name(self, holder: dict[str, Any] | None, key: str, what: tuple[int | str, ...]) -> bool:
        """Whether a name is said for the first time.

        Raises:
            MalformedStreamError: it is another than the first time. Clients join the two, and a
                name is not held back until its end.
        """
        value = holder.get(key) if holder else None
        if not value:
            return False
        before = self._said.get(what)
        if before is None and len(self._said) < MAX_SAID:
            self._said[what] = value
            return True
        if before != value:
            raise MalformedStreamError("a name in pieces, or too many names")
        return False

    def carry(self, channel: Channel, text: str) -> tuple[str, dict[str, Any]]:
        """See `StreamApi`."""
        index, *place = channel
        part: dict[str, Any] = {"index": index}
        match place:
            case ["text"]:
                part["text"] = text
            case ["function_call"]:
                part["delta"] = {"function_call": {"arguments": text}}
            case [call, "arguments"]:
                part["delta"] = {"tool_calls": [{"index": call, "function": {"arguments": text}}]}
            case [call, "input"]:
                part["delta"] = {"tool_calls": [{"index": call, "custom": {"input": text}}]}
            case [name]:
                part["delta"] = {name: text}
        part |= {"logprobs": None, "finish_reason": None}
        head: dict[str, Any] = {key: self._head[key] for key in _HEAD if key in self._head}
        return "", {**head, "choices": [part]}

    def encode(self, name: str, value: dict[str, Any] | None) -> bytes:
        """See `StreamApi`."""
        del name
        return b"data: [DONE]\n\n" if value is None else sse.encode(msgspec.json.encode(value))
