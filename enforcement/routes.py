"""Which requests are known, and what is done with each: served, or refused with a clear error.

A route is found by the exact method and request target. Nothing is normalised: a trailing slash,
a doubled slash, percent-encoding or a path parameter makes an unknown route, because the model
server might read such a target differently from this table. A query string on a known route is
refused (`query_not_supported`): it could carry text that nothing here looks at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

Style = Literal["openai", "anthropic"]
Kind = Literal["chat", "completion", "models", "unsupported", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One known route.

    Attributes:
        name: stable name for records and metrics, e.g. `chat.completions`.
        style: the shape of its error bodies.
        kind: how texts are found in its bodies; `unsupported` and `unknown` are never forwarded.
        refused: the error code with which every request on it is refused, or None.
    """

    name: str
    method: str
    path: str
    style: Style = "openai"
    kind: Kind
    refused: str | None = None


_REFUSED: Final = "route_not_supported"

ROUTES: Final = (
    Route(name="chat.completions", method="POST", path="/v1/chat/completions", kind="chat"),
    Route(name="completions", method="POST", path="/v1/completions", kind="completion"),
    Route(name="models", method="GET", path="/v1/models", kind="models"),
    # Known, but their texts have no table yet: refused, never forwarded unseen.
    Route(
        name="responses", method="POST", path="/v1/responses", kind="unsupported", refused=_REFUSED
    ),
    Route(
        name="messages",
        method="POST",
        path="/v1/messages",
        style="anthropic",
        kind="unsupported",
        refused=_REFUSED,
    ),
    Route(
        name="embeddings",
        method="POST",
        path="/v1/embeddings",
        kind="unsupported",
        refused=_REFUSED,
    ),
)

# What a request on no known route is recorded as. Its path is the client's text and is not kept.
UNKNOWN: Final = Route(name="unknown", method="", path="", kind="unknown", refused="unknown_route")
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
