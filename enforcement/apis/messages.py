"""Anthropic's Messages.

Refused: thinking that is encrypted (`redacted_thinking`), and tools and servers that the model
server itself calls (`mcp_servers`, hosted tools), because their texts are not seen here.
"""

from __future__ import annotations

from typing import Final

from enforcement.apis.common import CACHE_CONTROL, HOSTED, SAMPLING, STORED, USAGE
from enforcement.bodies.leaves import (
    BLOB,
    FREE,
    NAME,
    ROLE,
    SCALAR,
    TEXT,
    TEXTS,
    URL,
    Refused,
    Shape,
    piece,
)
from enforcement.bodies.shapes import Either, Many, Obj, Tagged, each


def _block(*groups: dict[str, Shape], media: str = "", **fields: Shape) -> Obj:
    """A block of a message, or a tool, with what all of them have."""
    return Obj(
        *groups, each(NAME, "type"), media=media, cache_control=CACHE_CONTROL, more=True, **fields
    )


_TEXT: Final = _block(text=TEXT, citations=FREE)


def _source(**more: Shape) -> Shape:
    return Tagged(
        {
            "base64": Obj(each(NAME, "type media_type"), data=BLOB),
            "url": Obj(each(NAME, "type"), url=URL),
            "file": Obj(each(NAME, "type file_id")),
            **more,
        },
        otherwise="content_not_supported",
    )


_IMAGE: Final = _block(source=_source(), media="image")
_DOCUMENT: Final = _block(
    each(TEXT, "title context"),
    source=_source(
        text=Obj(each(NAME, "type media_type"), data=TEXT),
        content=Obj(each(NAME, "type"), content=Either(text=TEXT, many=Many(_TEXT))),
    ),
    citations=FREE,
    media="file",
)
_FOUND: Final = _block(each(TEXT, "source title"), content=Many(_TEXT), citations=FREE)
_UNREADABLE: Final = "content_not_supported"
_SIMPLE: Final[dict[str, Shape]] = {
    "text": _TEXT,
    "image": _IMAGE,
    "document": _DOCUMENT,
    "search_result": _FOUND,
}
_SIMPLE_CONTENT: Final = Either(
    text=TEXT, many=Many(Tagged(_SIMPLE, otherwise=_UNREADABLE))
)  # fmt: skip
_WRITTEN: Final[dict[str, Shape]] = {
    "text": _TEXT,
    "thinking": Obj(each(NAME, "type"), each(TEXT, "thinking signature"), more=True),
    "tool_use": _block(each(NAME, "id name caller"), input=FREE),
}
BLOCK: Final = Tagged(_WRITTEN, otherwise=_UNREADABLE)
_GIVEN: Final = Tagged(
    {
        **_SIMPLE,
        **_WRITTEN,
        "tool_result": _block(each(NAME, "tool_use_id"), content=_SIMPLE_CONTENT, is_error=SCALAR),
    },
    otherwise=_UNREADABLE,
)
_TOOL_FIELDS: Final = _block(
    each(NAME, "name"),
    description=TEXT,
    input_schema=FREE,
    input_examples=FREE,
    strict=SCALAR,
)
_TOOL: Final = Tagged({"custom": _TOOL_FIELDS}, otherwise=HOSTED, untagged=_TOOL_FIELDS)

MESSAGES_REQUEST: Final = Obj(
    SAMPLING,
    messages=Many(Obj(role=ROLE, content=Either(text=TEXT, many=Many(_GIVEN)))),
    system=Either(text=TEXT, many=Many(_TEXT)),
    tools=Many(_TOOL),
    tool_choice=FREE,
    stop_sequences=TEXTS,
    thinking=FREE,
    output_config=FREE,
    output_format=FREE,
    chat_template_kwargs=FREE,
    mcp_servers=Refused(HOSTED, "servers that the model server calls are not seen; refused"),
    container=STORED,
    context_management=STORED,
    more=True,
)

MESSAGES_REPLY: Final = Obj(
    each(NAME, "id type role model stop_reason"),
    content=Many(BLOCK),
    stop_sequence=TEXT,
    usage=USAGE,
    context_management=FREE,
    container=FREE,
    more=True,
)

# -- the events of a streamed reply ---------------------------------------------------------------

_DELTA: Final = Tagged(
    {
        "text_delta": Obj(each(NAME, "type"), text=piece("text")),
        "input_json_delta": Obj(
            each(NAME, "type"), partial_json=piece("partial_json", is_json=True)
        ),
        "thinking_delta": Obj(each(NAME, "type"), thinking=piece("thinking"), more=True),
        "signature_delta": Obj(each(NAME, "type"), signature=TEXT),
        "citations_delta": Obj(each(NAME, "type"), citation=FREE),
    },
    otherwise=_UNREADABLE,
)
EVENTS: Final[dict[str, Obj]] = {
    "message_start": Obj(each(NAME, "type"), message=MESSAGES_REPLY, more=True),
    "content_block_start": Obj(each(NAME, "type index"), content_block=BLOCK, more=True),
    "content_block_delta": Obj(each(NAME, "type index"), delta=_DELTA, more=True),
    "content_block_stop": Obj(each(NAME, "type index"), more=True),
    "message_delta": Obj(
        each(NAME, "type"),
        delta=Obj(each(NAME, "stop_reason"), stop_sequence=TEXT, more=True),
        usage=USAGE,
        context_management=FREE,
        more=True,
    ),
    "message_stop": Obj(each(NAME, "type"), more=True),
    "ping": Obj(each(NAME, "type"), more=True),
    "error": Obj(each(NAME, "type request_id"), error=FREE, more=True),
}
