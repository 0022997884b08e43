"""The built image and a podman to run it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.image.podman import IMAGE, Podman, skip_where_impossible


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    skip_where_impossible()
    with Podman() as podman:
        if podman.try_("image", "exists", IMAGE).returncode:
            pytest.fail(f"there is no image {IMAGE}; `make image` builds it")
        yield podman
