"""Error bodies in the shape of the API that was called.

OpenAI's shape is `{"error": {"message", "type", "code", "param"}}`; Anthropic's is
`{"type": "error", "error": {"type", "message"}}`. Both get the decision id beside the message, so
that a refusal seen by a client can be found in the journal. Messages name policies, codes and
ids; they never repeat text of the request or the reply.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from enforcement.apis.routes import StreamKind, Style
from enforcement.content import sse

Headers = tuple[tuple[bytes, bytes], ...]

# Anthropic's own error types by status; everything else is `api_error`.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What the client gets instead of a reply. `headers` include the content type."""

    status: int
    body: bytes
    headers: Headers = ()


def error_type(status: int) -> str:
    """OpenAI's `type` for an error that is not a policy's."""
    if status in {502, 504}:
        return "upstream_error"
    return "invalid_request_error" if status < 500 else "server_error"


def error_object(
    style: Style, *, status: int, kind: str, code: str, message: str, decision_id: str
) -> dict[str, object]:
    """The error as a JSON object. `kind` is OpenAI's `type` (`policy_denied`, …)."""
    if style == "anthropic":
        return {
            "type": "error",
            "error": {
                "type": _ANTHROPIC_TYPES.get(status, "api_error"),
                "message": message,
                "code": code,
                "decision_id": decision_id,
            },
        }
    return {
        "error": {
            "message": message,
            "type": kind,
            "code": code,
            "param": None,
            "decision_id": decision_id,
        }
    }


def error_body(
    style: Style, *, status: int, kind: str, code: str, message: str, decision_id: str
) -> bytes:
    """The error as a body."""
    return msgspec.json.encode(
        error_object(
            style, status=status, kind=kind, code=code, message=message, decision_id=decision_id
        )
    )


def error_events(
    style: Style,
    *,
    stream: StreamKind,
    status: int,
    kind: str,
    code: str,
    message: str,
    decision_id: str,
) -> bytes:
    """The error as the end of an event stream, in the API's own way: clients raise on it.

    Chat: an event with `error`, then `[DONE]`. Responses: the event `error`; beside the fields that
    the API gives it there is the `error` object on which OpenAI's clients raise. Messages: the
    event `error`, which ends the stream.
    """
    value = error_object(
        style, status=status, kind=kind, code=code, message=message, decision_id=decision_id
    )
    if stream == "messages":
        return sse.encode(msgspec.json.encode(value), "error")
    if stream == "responses":
        own = {"type": "error", "code": code, "message": message, "param": None}
        return sse.encode(msgspec.json.encode({**own, **value}), "error")
    return sse.encode(msgspec.json.encode(value)) + b"data: [DONE]\n\n"
