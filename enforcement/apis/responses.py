"""OpenAI's Responses.

Refused: context that the server has stored (`previous_response_id`, `conversation`, `prompt`,
item references), because its texts are not seen here; replies that are fetched later
(`background`); and tools that the server runs itself, because their calls and results are not seen.
"""

from __future__ import annotations

from typing import Final

from enforcement.apis.chat import CHOICE_OF_TOOL
from enforcement.apis.common import HOSTED, NOT_TEXT, SAMPLING, STORED
from enforcement.bodies.leaves import (
    BLOB,
    COPY,
    DROPPED,
    FREE,
    JSON_TEXT,
    NAME,
    ROLE,
    SCALAR,
    TEXT,
    URL,
    Refused,
    Shape,
    piece,
)
from enforcement.bodies.shapes import Either, Many, Obj, Tagged, each

_TEXT_PART: Final = Obj(
    each(NAME, "type"), text=TEXT, annotations=FREE, logprobs=COPY, more=True
)  # fmt: skip
PART: Final = Tagged(
    {
        **each(_TEXT_PART, "input_text output_text text summary_text reasoning_text"),
        "refusal": Obj(each(NAME, "type"), refusal=TEXT),
        "input_image": Obj(
            each(NAME, "type detail file_id"), image_url=URL, media="image", more=True
        ),
        "input_audio": Obj(
            each(NAME, "type"), input_audio=Obj(each(NAME, "format"), data=BLOB), media="audio"
        ),
        "input_file": Obj(
            each(NAME, "type file_id detail"),
            filename=TEXT,
            file_data=BLOB,
            file_url=URL,
            media="file",
        ),
    },
    otherwise="content_not_supported",
)
_CONTENT: Final = Either(text=TEXT, many=Many(PART))
_MESSAGE: Final = Obj(each(NAME, "type id status phase"), role=ROLE, content=_CONTENT, more=True)
# What the model writes, and the client sends back in the next turn.
_WRITTEN: Final[dict[str, Shape]] = {
    "message": _MESSAGE,
    "function_call": Obj(
        each(NAME, "type id call_id name status namespace"), arguments=JSON_TEXT, more=True
    ),
    "custom_tool_call": Obj(
        each(NAME, "type id call_id name status namespace"), input=TEXT, more=True
    ),
    "reasoning": Obj(
        each(NAME, "type id status"),
        summary=Many(PART),
        content=Many(PART),
        encrypted_content=NOT_TEXT,
        more=True,
    ),
}
_GIVEN: Final = Obj(each(NAME, "type id call_id status"), output=_CONTENT, more=True)

ITEM: Final = Tagged(_WRITTEN, otherwise=HOSTED)
_INPUT_ITEM: Final = Tagged(
    {
        **_WRITTEN,
        "function_call_output": _GIVEN,
        "custom_tool_call_output": _GIVEN,
        "item_reference": STORED,
    },
    otherwise=HOSTED,
    untagged=_MESSAGE,
)
_TOOL: Final = Tagged(
    {
        "function": Obj(
            each(NAME, "type name"), description=TEXT, parameters=FREE, strict=SCALAR, more=True
        ),
        "custom": Obj(each(NAME, "type name"), description=TEXT, format=FREE, more=True),
    },
    otherwise=HOSTED,
)
_INPUT: Final = Either(text=TEXT, many=Many(_INPUT_ITEM))

# What requests say and replies repeat.
_SAID: Final[dict[str, Shape]] = {
    **each(NAME, "model service_tier truncation prompt_cache_retention"),
    **each(
        SCALAR,
        "temperature top_p top_k top_logprobs max_output_tokens max_tool_calls parallel_tool_calls"
        " store presence_penalty frequency_penalty",
    ),
    **each(TEXT, "user safety_identifier prompt_cache_key"),
    **each(FREE, "metadata reasoning text prompt_cache_options moderation access_programs"),
    "instructions": _INPUT,
    "tools": Many(_TOOL),
    "tool_choice": CHOICE_OF_TOOL,
}

RESPONSES_REQUEST: Final = Obj(
    SAMPLING,
    _SAID,
    each(
        STORED,
        "previous_response_id conversation prompt previous_input_messages context_management",
    ),
    background=Refused(
        "background_not_supported", "replies that are fetched later are not seen; refused"
    ),
    input=_INPUT,
    include=FREE,
    background_options=FREE,
    more=True,
)

RESPONSES_REPLY: Final = Obj(
    _SAID,
    each(NAME, "id object status previous_response_id"),
    each(SCALAR, "created_at completed_at background"),
    each(DROPPED, "conversation image kv_transfer_params ec_transfer_params"),
    each(
        FREE,
        "usage error incomplete_details input_messages output_messages prompt tool_usage billing"
        " prompt_cache_diagnostics content_filters input_transformations",
    ),
    output=Many(ITEM),
    more=True,
)

# -- the events of a streamed reply ---------------------------------------------------------------

_WHERE: Final = each(NAME, "type item_id output_index content_index summary_index sequence_number")


def _event(**fields: Shape) -> Obj:
    return Obj(_WHERE, each(DROPPED, "logprobs obfuscation"), fields, more=True)


def _both(stem: str, field: str, *, is_json: bool = False) -> dict[str, Obj]:
    """`….delta` and `….done` of one kind of text; `done` repeats it all, in `field`."""
    whole = JSON_TEXT if is_json else TEXT
    return {
        f"response.{stem}.delta": _event(delta=piece(stem, is_json=is_json)),
        f"response.{stem}.done": _event(name=NAME, **{field: whole}),
    }


EVENTS: Final[dict[str, Obj]] = {
    **{
        f"response.{state}": _event(response=RESPONSES_REPLY)
        for state in ("created", "queued", "in_progress", "completed", "incomplete", "failed")
    },
    **{f"response.output_item.{end}": _event(item=ITEM) for end in ("added", "done")},
    **{
        f"response.{part}.{end}": _event(part=PART)
        for part in ("content_part", "reasoning_part", "reasoning_summary_part")
        for end in ("added", "done")
    },
    **_both("output_text", "text"),
    **_both("refusal", "refusal"),
    **_both("reasoning_text", "text"),
    **_both("reasoning_summary_text", "text"),
    **_both("function_call_arguments", "arguments", is_json=True),
    **_both("custom_tool_call_input", "input"),
    "response.output_text.annotation.added": _event(annotation=FREE, annotation_index=SCALAR),
    "error": Obj(each(FREE, "type code message param error sequence_number"), more=True),
}
