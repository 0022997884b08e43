"""Which requests are known, and what is done with each: served, or refused with a clear error.

A route is found by the exact method and request target. Nothing is normalised: a trailing slash,
a doubled slash, percent-encoding or a path parameter makes an unknown route, because the model
server might read such a target differently from this table. A query string on a known route is
refused (`query_not_supported`): it could carry text that nothing here looks at.

The table names for each route what its requests and replies may hold, and with that where their
texts stand (`enforcement/apis`), and how its streams are read (`enforcement/streams`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from enforcement.apis.chat import CHAT_REPLY, CHAT_REQUEST, COMPLETION_REPLY, COMPLETION_REQUEST
from enforcement.apis.messages import MESSAGES_REPLY, MESSAGES_REQUEST
from enforcement.apis.responses import RESPONSES_REPLY, RESPONSES_REQUEST
from enforcement.apis.small import EMBEDDING_REPLY, EMBEDDING_REQUEST, MODELS_REPLY
from enforcement.content.shapes import Shape

Style = Literal["openai", "anthropic"]
StreamKind = Literal["chat", "responses", "messages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One known route.

    Attributes:
        name: stable name for records and metrics, e.g. `chat.completions`.
        style: the shape of its error bodies.
        request: what its requests may hold; None: it takes no body.
        needs: fields without which a request on it is not one.
        reply: what its replies may hold; None: it is never forwarded.
        stream: how its streamed replies are read; None: it has none.
        refused: the error code with which every request on it is refused, or None.
    """

    name: str
    method: str
    path: str
    style: Style = "openai"
    request: Shape | None = None
    needs: tuple[str, ...] = ()
    reply: Shape | None = None
    stream: StreamKind | None = None
    refused: str | None = None


ROUTES: Final = (
    Route(
        name="chat.completions",
        method="POST",
        path="/v1/chat/completions",
        request=CHAT_REQUEST,
        needs=("messages",),
        reply=CHAT_REPLY,
        stream="chat",
    ),
    Route(
        name="completions",
        method="POST",
        path="/v1/completions",
        request=COMPLETION_REQUEST,
        needs=("prompt",),
        reply=COMPLETION_REPLY,
        stream="chat",
    ),
    Route(
        name="responses",
        method="POST",
        path="/v1/responses",
        request=RESPONSES_REQUEST,
        needs=("input",),
        reply=RESPONSES_REPLY,
        stream="responses",
    ),
    Route(
        name="messages",
        method="POST",
        path="/v1/messages",
        style="anthropic",
        request=MESSAGES_REQUEST,
        needs=("messages",),
        reply=MESSAGES_REPLY,
        stream="messages",
    ),
    Route(
        name="embeddings",
        method="POST",
        path="/v1/embeddings",
        request=EMBEDDING_REQUEST,
        reply=EMBEDDING_REPLY,
    ),
    Route(name="models", method="GET", path="/v1/models", reply=MODELS_REPLY),
)

# What a request on no known route is recorded as. Its path is the client's text and is not kept.
UNKNOWN: Final = Route(name="unknown", method="", path="", refused="unknown_route")
UNKNOWN_ANTHROPIC: Final = replace(UNKNOWN, style="anthropic")

_BY_TARGET: Final = {(route.method, route.path): route for route in ROUTES}
_WITH_QUERY: Final = {
    key: route if route.refused else replace(route, refused="query_not_supported")
    for key, route in _BY_TARGET.items()
}


def find_route(method: str, target: str) -> Route | None:
    """The route of a request, or None where there is none (the door then records the refusal).

    Args:
        method: as sent; methods are case-sensitive (RFC 9110 section 9.1).
        target: the request target in origin form, with its query if it has one.
    """
    route = _BY_TARGET.get((method, target))
    if route is None and "?" in target:
        return _WITH_QUERY.get((method, target.partition("?")[0]))
    return route


def unknown_route(target: str) -> Route:
    """The stand-in for a request on no known route, in the error style that its client expects."""
    return UNKNOWN_ANTHROPIC if target.startswith("/v1/messages") else UNKNOWN
