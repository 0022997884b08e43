"""Which requests are known, and how they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from enforcement.apis.routes import ROUTES, Route, find_route, unknown_route

DOCUMENT = Path(__file__).parents[3] / "docs" / "model-servers.md"


def test_the_document_has_the_routes_of_the_code() -> None:
    table = DOCUMENT.read_text().partition("## Routes")[2].partition("\n\n")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()[2:]]
    assert [(row[1], row[2] != "none", row[4] == "yes") for row in cells] == [
        (f"`{route.method} {route.path}`", route.request is not None, route.stream is not None)
        for route in ROUTES
    ]


def test_names_are_stable() -> None:
    """Records and metrics carry them."""
    assert [route.name for route in ROUTES] == [
        "chat.completions",
        "completions",
        "responses",
        "messages",
        "embeddings",
        "models",
    ]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_is_found_by_its_exact_method_and_target_alone(route: Route) -> None:
    method, path = route.method, route.path
    assert find_route(method, path) is route
    for other, target in (
        (method.lower(), path),
        ("PUT", path),
        (method, f"{path}/"),
        (method, f"/{path}"),
        (method, path.replace("v1", "v%31")),
        (method, f"{path};a=1"),
        (method, f"{path}#a"),
        (method, path.upper()),
        (method, path.removeprefix("/v1")),
    ):
        assert find_route(other, target) is None, (other, target)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_query_is_refused_on_the_route_that_it_was_meant_for(route: Route) -> None:
    for query in ("?", "?a=b", "?a?b"):
        found = find_route(route.method, route.path + query)
        assert found is not None
        assert (found.name, found.refused) == (route.name, "query_not_supported")


@pytest.mark.parametrize(
    ("target", "style"),
    [
        ("/v1/messages/batches", "anthropic"),
        ("/v1/messages", "anthropic"),
        ("/v1/files", "openai"),
        ("/", "openai"),
    ],
)
def test_an_unknown_route_answers_in_the_style_of_its_api_and_keeps_nothing_of_its_path(
    target: str, style: str
) -> None:
    route = unknown_route(target)
    assert (route.style, route.refused) == (style, "unknown_route")
    assert (route.name, route.method, route.path) == ("unknown", "", "")
