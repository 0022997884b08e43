"""Where certificates come from that the host does not supply: AMD's service, or a directory."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import trio

from agent.config import Config
from agent.platform import TeePlatform
from attestation.snp.endorse import Endorser

Complete = Callable[[bytes, bytes], Awaitable[bytes]]

PATIENCE: Final = 0.8  # of the time for one quote: the rest is for the quote itself (a guess)


@asynccontextmanager
async def endorsing(config: Config, platform: TeePlatform) -> AsyncIterator[Complete | None]:
    """What completes the host's certificate table while the block lasts; None: nothing does.

    A simulated TEE brings all of its own certificates, and nobody else has any.
    """
    kds = config.kds
    if platform.simulated or not (kds.fetch or kds.offline):
        yield None
        return
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        endorser = Endorser(
            nursery,
            client,
            platform.anchors.amd,
            cache=Path(config.agent.state_dir) / "kds",
            offline=Path(kds.offline) if kds.offline else None,
            patience=config.tee.quote_seconds * PATIENCE,
            rng=random.Random(os.urandom(16)),  # noqa: S311 - spreads retries, keeps no secret
        )
        yield endorser.complete
        nursery.cancel_scope.cancel()
