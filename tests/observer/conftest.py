"""A running Observer for one test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from observer.app import Running, serve
from observer.config import Address, Limits, ObserverConfig
from observer.hello import Trust
from tests.observer.fake_agent import FakeBoot
from tests.observer.fake_trust import FakeTrust

Serve = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def trust() -> FakeTrust:
    return FakeTrust()


@pytest.fixture
def boot(trust: FakeTrust) -> FakeBoot:
    """A running boot that is believed, with 10 records."""
    fresh = FakeBoot()
    trust.believe(fresh)
    fresh.decide(10)
    return fresh


@contextlib.asynccontextmanager
async def _no_pages(*_: object) -> AsyncIterator[Address]:
    yield Address(host="127.0.0.1", port=0)


@pytest.fixture
def observer(pages: Serve, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """The same without its HTTP side, whose orderly end takes a while."""
    monkeypatch.setattr("observer.app._http", _no_pages)
    return pages


@pytest.fixture
def pages(tmp_path: Path, trust: FakeTrust) -> Serve:
    """Starts an Observer on free ports over one database: `async with observer() as running`."""

    @contextlib.asynccontextmanager
    async def start(
        *, limits: Limits | None = None, by: Trust | None = trust, **changes: Any
    ) -> AsyncIterator[Running]:
        fields: dict[str, Any] = {
            "listen_grpc": Address(host="127.0.0.1", port=0),
            "listen_http": Address(host="127.0.0.1", port=0),
            "database": f"sqlite+aiosqlite:///{tmp_path}/observer.db",
            "limits": limits or Limits(),
        } | changes
        async with serve(ObserverConfig(**fields), trust=by) as running:
            yield running

    return start
