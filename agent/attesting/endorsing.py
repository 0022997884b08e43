"""Where that comes from which proves a quote and which the host does not supply."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent.attesting.attester import Complete
from agent.attesting.platform import TeePlatform
from agent.config import Config
from attestation.errors import UncheckableError
from attestation.evidence import Format
from attestation.simulated.tdx import SimulatedIntel
from attestation.snp.endorse import Endorser
from attestation.tdx.abi import Quote
from attestation.tdx.pcs import PcsClient
from attestation.tdx.pcs_judge import Machine

if TYPE_CHECKING:
    import httpx

PATIENCE: Final = 0.8  # of `quote_seconds`; the rest is for verifying what came (a guess)
_REQUESTS: Final = 4  # of the PCS client, one after another


@asynccontextmanager
async def endorsing(config: Config, platform: TeePlatform) -> AsyncIterator[Complete | None]:
    """What completes what the host supplied, while the block lasts; None: nothing does.

    A simulated TEE brings all that it needs, and nobody else has any of it.
    """
    if platform.machine is not None:
        intel = platform.machine if isinstance(platform.machine, SimulatedIntel) else None
        yield None if intel is None else _simulated(intel)
        return
    import httpx  # noqa: PLC0415 - an agent that asks nobody saves its 3 MB

    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        snp = _endorser(config, platform, nursery, client)
        tdx = _pcs(config, nursery, client)

        async def complete(kind: Format, quote: bytes, supplied: bytes) -> bytes:
            if kind == "sev-snp":
                return supplied if snp is None else await snp.complete(quote, supplied)
            if tdx is None:
                raise UncheckableError(
                    "pcs.off",
                    "a TDX quote can only be checked with Intel's documents about its platform",
                    remedy="set [pcs] fetch = true, or give a directory: [pcs] offline",
                )
            return await tdx.collateral(Machine.of(Quote.parse(quote)))

        yield complete
        nursery.cancel_scope.cancel()


def _simulated(intel: SimulatedIntel) -> Complete:
    async def complete(kind: Format, quote: bytes, supplied: bytes) -> bytes:
        del kind, quote, supplied
        await trio.lowlevel.checkpoint()
        return intel.collateral(datetime.now(UTC))

    return complete


def _endorser(
    config: Config, platform: TeePlatform, nursery: trio.Nursery, client: httpx.AsyncClient
) -> Endorser | None:
    kds = config.kds
    if not (kds.fetch or kds.offline):
        return None
    return Endorser(
        nursery,
        client,
        platform.anchors.amd,
        cache=Path(config.agent.state_dir) / "kds",
        offline=Path(kds.offline) if kds.offline else None,
        patience=config.tee.quote_seconds * PATIENCE,
        rng=_rng(),
    )


def _pcs(config: Config, nursery: trio.Nursery, client: httpx.AsyncClient) -> PcsClient | None:
    pcs = config.pcs
    if not (pcs.fetch or pcs.offline):
        return None
    return PcsClient(
        nursery,
        client,
        cache=Path(config.agent.state_dir) / "pcs",
        offline=Path(pcs.offline) if pcs.offline else None,
        base_url=pcs.url,
        root_crl_url=pcs.root_crl_url,
        early=pcs.early,
        patience=config.tee.quote_seconds * PATIENCE / _REQUESTS,
        rng=_rng(),
    )


def _rng() -> random.Random:
    return random.Random(os.urandom(16))  # noqa: S311 - spreads retries, keeps no secret
