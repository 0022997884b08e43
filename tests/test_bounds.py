"""No test can hang: each command that a test runs to its end has a bound in time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WAITING = {"subprocess.run", "subprocess.check_call", "subprocess.check_output", "subprocess.call"}


def unbounded(source: str) -> Iterator[int]:
    """The lines of calls that wait for a command without a `timeout`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WAITING:
            named = {keyword.arg for keyword in node.keywords}
            yield from {node.lineno} if "timeout" not in named else ()


@pytest.mark.parametrize("call", sorted(WAITING))
def test_a_call_without_a_bound_is_found(call: str) -> None:
    assert list(unbounded(f"{call}(['true'], timeout=5)\n{call}(['true'], check=True)")) == [2]


def test_every_command_that_a_test_runs_is_bounded() -> None:
    found = {
        f"{path.relative_to(TESTS)}:{line}"
        for path in TESTS.rglob("*.py")
        for line in unbounded(path.read_text())
    }
    assert found == set()
