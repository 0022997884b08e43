"""Every test that talks to a whole door does so over plain HTTP and over TLS."""

from __future__ import annotations

import pytest

from tests.enforcement.gateway import doors


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if hasattr(metafunc.module, "house") and not hasattr(metafunc.module, "ONE_TRANSPORT"):
        metafunc.fixturenames.append("over_tls")
        metafunc.parametrize("over_tls", [False, True], ids=["http", "https"], indirect=True)


@pytest.fixture
def over_tls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    over: bool = request.param
    monkeypatch.setattr(doors, "over_tls", over)
    return over
