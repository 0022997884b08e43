"""Valid bodies of every route, for the fuzzer to change."""

from __future__ import annotations

from typing import Any, Final

_CALL: Final = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"to": "bob", "n": [1, "\\u00e9"]}'},
}
_SCHEMA: Final = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
_USAGE: Final = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
_LOGPROBS: Final = {
    "content": [{"token": "hi", "logprob": -0.1, "bytes": [104, 105], "top_logprobs": []}]
}

REQUESTS: Final[dict[str, tuple[Any, ...]]] = {
    "chat.completions": (
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "name": "al", "content": [{"type": "text", "text": "hello"}]},
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "done"},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": _SCHEMA},
                }
            ],
            "tool_choice": "auto",
            "stream": True,
            "stream_options": {"include_usage": True},
            "response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}},
            "stop": ["x"],
            "temperature": 0.5,
            "n": 2,
            "logprobs": True,
        },
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}],
                }
            ],
        },
    ),
    "completions": (
        {"model": "m", "prompt": "hello", "suffix": "end", "echo": True, "max_tokens": 9},
        {"model": "m", "prompt": ["one", "two"], "stop": "x", "logprobs": 2, "n": 2, "best_of": 2},
    ),
    "responses": (
        {
            "model": "m",
            "instructions": "be brief",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
                {
                    "type": "function_call",
                    "call_id": "c",
                    "name": "f",
                    "arguments": '{"to": "bob"}',
                },
                {"type": "function_call_output", "call_id": "c", "output": "done"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": _SCHEMA}],
            "text": {"format": {"type": "text"}},
            "metadata": {"who": "me"},
            "store": False,
        },
        {"model": "m", "input": "hello", "stream": True},
    ),
    "messages": (
        {
            "model": "m",
            "max_tokens": 9,
            "system": [{"type": "text", "text": "be brief"}],
            "messages": [
                {"role": "user", "content": "hello"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                        {"type": "tool_use", "id": "t1", "name": "f", "input": {"to": "bob"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "done"}],
                },
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": _SCHEMA}],
            "stop_sequences": ["x"],
            "metadata": {"user_id": "u"},
        },
    ),
    "embeddings": (
        {"model": "m", "input": ["one", "two"], "dimensions": 8, "encoding_format": "float"},
        {"model": "m", "input": "one", "user": "u"},
    ),
}

REPLIES: Final[dict[str, tuple[Any, ...]]] = {
    "chat.completions": (
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "hi",
                        "refusal": None,
                        "reasoning_content": "hm",
                        "tool_calls": [_CALL],
                    },
                    "finish_reason": "stop",
                    "logprobs": _LOGPROBS,
                },
                {"index": 1, "message": {"role": "assistant", "content": "ho"}},
            ],
            "usage": _USAGE,
        },
        {"error": {"message": "too long", "type": "invalid", "code": 400, "param": None}},
    ),
    "completions": (
        {
            "id": "x",
            "object": "text_completion",
            "choices": [{"index": 0, "text": "hi", "finish_reason": "length", "logprobs": None}],
            "usage": _USAGE,
        },
    ),
    "responses": (
        {
            "id": "r",
            "object": "response",
            "status": "completed",
            "output": [
                {
                    "type": "reasoning",
                    "id": "rs",
                    "summary": [{"type": "summary_text", "text": "hm"}],
                },
                {
                    "type": "message",
                    "id": "m",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "hi", "annotations": []}],
                },
                {
                    "type": "function_call",
                    "id": "f",
                    "call_id": "c",
                    "name": "f",
                    "arguments": '{"to": "bob"}',
                },
            ],
            "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        },
    ),
    "messages": (
        {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "text", "text": "hi"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"to": "bob"}},
            ],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 2},
        },
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
    ),
    "embeddings": (
        {
            "object": "list",
            "model": "m",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        },
    ),
    "models": ({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "us"}]},),
}


def _chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
    }


def _text(finish: str | None = None, text: str = "") -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def _item(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "item_id": "m", "output_index": 0, **more}


EVENTS: Final[dict[str, tuple[Any, ...]]] = {
    "chat.completions": (
        _chunk(role="assistant", content=""),
        _chunk(content="write to zoe.quist"),
        _chunk(content="@example.com "),
        _chunk(content="card 4111 1111"),
        _chunk(content=" 1111 1111 and so on"),
        _chunk(reasoning_content="hm 4111 1111 1111 1111 "),
        _chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]),
        _chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"to": "zoe.quist\\u0040exa'}}]),
        _chunk(tool_calls=[{"index": 0, "function": {"arguments": 'mple.com"}'}}]),
        _chunk("stop"),
        {"id": "x", "choices": [], "usage": _USAGE},
        {"error": {"message": "zoe.quist@example.com is busy", "code": 500}},
    ),
    "completions": (
        _text(text="write to zoe.quist"),
        _text(text="@example.com"),
        _text("length", " and"),
        {"id": "x", "choices": [], "usage": _USAGE},
    ),
    "responses": (
        {"type": "response.created", "response": {"id": "r", "output": []}, "sequence_number": 0},
        _item("output_item.added", item={"type": "message", "id": "m", "content": []}),
        _item("content_part.added", content_index=0, part={"type": "output_text", "text": ""}),
        _item("output_text.delta", content_index=0, delta="write to zoe.quist"),
        _item("output_text.delta", content_index=0, delta="@example.com "),
        _item("output_text.done", content_index=0, text="write to zoe.quist@example.com "),
        _item(
            "content_part.done",
            content_index=0,
            part={"type": "output_text", "text": "write to zoe.quist@example.com "},
        ),
        _item(
            "output_item.done",
            item={
                "type": "message",
                "id": "m",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "write to zoe.quist@example.com "}],
            },
        ),
        _item("function_call_arguments.delta", delta='{"to": "zoe.quist@example'),
        _item("function_call_arguments.delta", delta='.com"}'),
        _item("function_call_arguments.done", arguments='{"to": "zoe.quist@example.com"}'),
        _item("reasoning_summary_text.delta", summary_index=0, delta="hm"),
        {"type": "response.completed", "response": {"id": "r", "output": []}},
        {"type": "error", "code": "x", "message": "zoe.quist@example.com"},
    ),
    "messages": (
        {"type": "message_start", "message": {"id": "m", "type": "message", "content": []}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "write to zoe.quist"},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "@example.com"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"to": "zoe.quist@exa'},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": 'mple.com"}'},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": "hm"},
        },
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"o": 1}},
        {"type": "message_stop"},
        {"type": "ping"},
        {"type": "error", "error": {"type": "x", "message": "zoe.quist@example.com"}},
    ),
}
