"""OpenAI's chat completions and completions, with what vLLM and llama.cpp add to them."""

from __future__ import annotations

from typing import Final

from enforcement.apis.common import (
    HOSTED,
    INTERNALS,
    NOT_TEXT,
    PARTS,
    SAMPLING,
    USAGE,
)
from enforcement.bodies.leaves import (
    BLOB,
    COPY,
    FREE,
    JSON_TEXT,
    NAME,
    NUMBERS,
    ROLE,
    SCALAR,
    TEXT,
    TEXTS,
    Refused,
    piece,
)
from enforcement.bodies.shapes import Either, Many, Obj, Tagged, each

FUNCTION: Final = Obj(each(NAME, "name"), arguments=JSON_TEXT, more=True)
TOOL_CALL: Final = Obj(
    each(NAME, "id type index"),
    function=FUNCTION,
    custom=Obj(each(NAME, "name"), input=TEXT),
    more=True,
)
DEFINITION: Final = Obj(
    each(NAME, "name"), description=TEXT, parameters=FREE, strict=SCALAR, more=True
)
TOOL: Final = Tagged(
    {
        "function": Obj(each(NAME, "type"), function=DEFINITION, cache_control=FREE, more=True),
        "custom": Obj(
            each(NAME, "type"),
            custom=Obj(each(NAME, "name"), description=TEXT, format=FREE),
            more=True,
        ),
    },
    otherwise=HOSTED,
)
CHOICE_OF_TOOL: Final = Either(text=NAME, obj=FREE)

MESSAGE: Final = Obj(
    each(NAME, "tool_call_id"),
    each(TEXT, "name refusal reasoning reasoning_content thinking"),
    each(SCALAR, "prefix partial"),
    role=ROLE,
    content=Either(text=TEXT, many=PARTS),
    tool_calls=Many(TOOL_CALL),
    function_call=FUNCTION,
    annotations=FREE,
    audio=NOT_TEXT,
    more=True,
)

CHAT_REQUEST: Final = Obj(
    SAMPLING,
    each(NAME, "reasoning_effort verbosity"),
    each(SCALAR, "logprobs top_logprobs"),
    messages=Many(MESSAGE),
    tools=Many(TOOL),
    functions=Many(DEFINITION),
    tool_choice=CHOICE_OF_TOOL,
    function_call=CHOICE_OF_TOOL,
    prediction=Obj(each(NAME, "type"), content=Either(text=TEXT, many=PARTS)),
    modalities=TEXTS,
    audio=Obj(each(NAME, "voice format"), media="audio"),
    documents=FREE,
    chat_template_kwargs=FREE,
    reasoning=FREE,
    thinking_token_budget=SCALAR,
    moderation=FREE,
    web_search_options=Refused(HOSTED, "tools that the model server runs are refused"),
    more=True,
)

REPLY_HEAD: Final = {
    **each(NAME, "id object model system_fingerprint service_tier"),
    "created": SCALAR,
    "usage": USAGE,
    "timings": NUMBERS,
    **each(FREE, "metadata moderation"),
    **INTERNALS,
}
# `stop_reason` and `matched_stop` may be the stop text itself.
_CHOICE: Final = {
    **INTERNALS,
    **each(NAME, "index finish_reason stop_reason matched_stop"),
    "logprobs": COPY,
}

REPLY_MESSAGE: Final = Obj(
    each(TEXT, "refusal reasoning reasoning_content"),
    role=ROLE,
    content=Either(text=TEXT, many=PARTS),
    tool_calls=Many(TOOL_CALL),
    function_call=FUNCTION,
    annotations=FREE,
    audio=Obj(
        each(NAME, "id"), data=BLOB, transcript=TEXT, expires_at=SCALAR, media="audio"
    ),
    more=True,
)  # fmt: skip

CHAT_REPLY: Final = Obj(
    REPLY_HEAD,
    choices=Many(
        Obj(
            _CHOICE,
            message=REPLY_MESSAGE,
            text=TEXT,
            content_filter_results=FREE,
            more=True,
        )
    ),
    prompt_text=TEXT,
    prompt_filter_results=FREE,
    more=True,
)

# -- one event of a streamed reply ----------------------------------------------------------------

CHUNK: Final = Obj(
    REPLY_HEAD,
    choices=Many(
        Obj(
            _CHOICE,
            delta=Obj(
                INTERNALS,
                {"role": ROLE},
                {
                    name: piece(name)
                    for name in ("content", "refusal", "reasoning", "reasoning_content")
                },
                tool_calls=Many(
                    Obj(
                        each(NAME, "id type index"),
                        function=Obj(
                            each(NAME, "name"), arguments=piece("arguments", is_json=True)
                        ),
                        custom=Obj(each(NAME, "name"), input=piece("input")),
                        more=True,
                    ),
                    indexed=True,
                ),
                function_call=Obj(
                    each(NAME, "name"), arguments=piece("function_call", is_json=True)
                ),
                more=True,
            ),
            text=piece("text"),
            content_filter_results=FREE,
            more=True,
        ),
        indexed=True,
    ),
    prompt_text=TEXT,
    prompt_filter_results=FREE,
    error=FREE,
    more=True,
)

# -- completions ----------------------------------------------------------------------------------

COMPLETION_REQUEST: Final = Obj(
    SAMPLING,
    prompt=TEXTS,
    suffix=TEXT,
    logprobs=SCALAR,
    more=True,
)

COMPLETION_REPLY: Final = Obj(
    REPLY_HEAD,
    choices=Many(
        Obj(
            _CHOICE,
            text=TEXT,
            prompt_text=TEXT,
            more=True,
        )
    ),
    prompt_text=TEXT,
    more=True,
)
