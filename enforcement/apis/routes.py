"""Which requests are known, and what is done with each: served, or refused with a clear error.

A route is found by the exact method and request target. Nothing is normalised: a trailing slash,
a doubled slash, percent-encoding or a path parameter makes an unknown route, because the model
server might read such a target differently from this table. A query string on a known route is
refused (`query_not_supported`): it could carry text that nothing here looks at.

The table names for each route what its requests and replies may hold, and with that where their
texts stand, and how its streams are read (`enforcement/streams`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from enforcement.apis.chat import CHAT_REPLY, CHAT_REQUEST, COMPLETION_REPLY, COMPLETION_REQUEST
from enforcement.apis.messages import MESSAGES_REPLY, MESSAGES_REQUEST
from enforcement.apis.responses import RESPONSES_REPLY, RESPONSES_REQUEST
from enforcement.apis.small import EMBEDDING_REPLY, EMBEDDING_REQUEST, MODELS_REPLY
from enforcement.bodies.leaves import Shape

Style = Literal["openai", "anthropic"]
StreamKind = Literal["chat", "responses", "messages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One known route.

    Attributes:
        name: for records and metrics: the path after `/v1/`, with dots (`chat.completions`).
        style: the shape of its error bodies.
        request: what its requests may hold; None: it takes no body.
        needs: the field without which a request on it is not one, or empty.
        reply: what its replies may hold; None: it is never forwarded.
        stream: how its streamed replies are read; None: it has none.
        refused: the error code with which every request on it is refused, or None.
    """

    name: str
    method: str
    path: str
    style: Style
    request: Shape | None = None
    needs: str = ""
    reply: Shape | None = None
    stream: StreamKind | None = None
    refused: str | None = None


def _style(path: str) -> Style:
    return "anthropic" if path.startswith("/v1/messages") else "openai"


def _on(
    target: str, request: Shape | None, needs: str, reply: Shape, stream: StreamKind | None = None
) -> Route:
    method, path = target.split()
    return Route(
        name=path.removeprefix("/v1/").replace("/", "."),
        method=method,
        path=path,
        style=_style(path),
        request=request,
        needs=needs,
        reply=reply,
        stream=stream,
    )


# The same rows, for people: docs/model-servers.md.
# fmt: off
ROUTES: Final = (
    #    route                        requests            needs       replies           streams
    _on("POST /v1/chat/completions", CHAT_REQUEST,       "messages", CHAT_REPLY,       "chat"),
    _on("POST /v1/completions",      COMPLETION_REQUEST, "prompt",   COMPLETION_REPLY, "chat"),
    _on("POST /v1/responses",        RESPONSES_REQUEST,  "input",    RESPONSES_REPLY,  "responses"),
    _on("POST /v1/messages",         MESSAGES_REQUEST,   "messages", MESSAGES_REPLY,   "messages"),
    _on("POST /v1/embeddings",       EMBEDDING_REQUEST,  "",         EMBEDDING_REPLY),
    _on("GET /v1/models",            None,               "",         MODELS_REPLY),
)
# fmt: on

_BY_TARGET: Final = {(route.method, route.path): route for route in ROUTES}
_WITH_QUERY: Final = {
    key: replace(route, refused="query_not_supported") for key, route in _BY_TARGET.items()
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
    """The stand-in for a request on no known route, in the error style that its client expects.

    Its path is the client's text and is not kept.
    """
    return Route(name="unknown", method="", path="", style=_style(target), refused="unknown_route")
