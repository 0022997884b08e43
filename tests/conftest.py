"""What every test shares: async tests run under trio, and the one way to find the test vectors."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

_VECTORS = Path(__file__).resolve().parents[1] / ".." / "shared" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of test vectors; tests that need it skip, visibly, where there is none."""
    folder = Path(os.environ.get("LUCID_VECTORS", _VECTORS))
    if not folder.is_dir():
        pytest.skip(f"no test vectors at {folder} (set LUCID_VECTORS)")
    return folder.resolve()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A virtual clock: a test that asks for it never waits for real time."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Run `async def` tests under trio, on the virtual clock if the test asked for one."""
    function: Callable[..., Any] = pyfuncitem.obj
    if inspect.iscoroutinefunction(function):
        clock = pyfuncitem.funcargs.get("autojump_clock")

        @functools.wraps(function)
        def run(**kwargs: Any) -> None:
            trio.run(functools.partial(function, **kwargs), clock=clock)

        pyfuncitem.obj = run
    yield
