"""What every test shares: async tests run under trio, and the one way to find the test vectors."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import settings

from attestation.simulated.vendor import SimulatedVendor

_VECTORS = Path(__file__).resolve().parents[1] / ".." / "shared" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of test vectors; tests that need it skip, visibly, where there is none."""
    folder = Path(os.environ.get("LUCID_VECTORS", _VECTORS))
    if not folder.is_dir():
        pytest.skip(f"no test vectors at {folder} (set LUCID_VECTORS)")
    return folder.resolve()


# How long one example takes says more of a busy machine than of the code. `make bench` measures.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Every AMD VCEK and VLEK has serial number 0; that is how AMD issues them."""
    config.addinivalue_line(
        "filterwarnings",
        "ignore:Parsed a serial number which wasn't positive"
        ":cryptography.utils.CryptographyDeprecationWarning",
    )


@pytest.fixture(scope="session")
def simulated_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a simulated vendor's keys, made once; copy it, do not change it."""
    directory = tmp_path_factory.mktemp("simulated-state")
    SimulatedVendor.load_or_create(directory, now=datetime(2026, 1, 1, tzinfo=UTC))
    return directory


@pytest.fixture(scope="session")
def simulated_vendor(simulated_state: Path) -> SimulatedVendor:
    """One simulated vendor for the whole run; its certificates are valid from 2026 to 2045."""
    return SimulatedVendor.load_or_create(simulated_state, now=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A virtual clock: a test that asks for it never waits for real time."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Run `async def` tests under trio, on the virtual clock if the test asked for one."""
    function: Callable[..., Any] = pyfuncitem.obj
    if inspect.iscoroutinefunction(function):
        clock = cast("trio.abc.Clock | None", pyfuncitem.funcargs.get("autojump_clock"))

        @functools.wraps(function)
        def run(**kwargs: Any) -> None:
            trio.run(functools.partial(function, **kwargs), clock=clock)

        pyfuncitem.obj = run
    yield
