"""Where that comes from which proves a quote and which the host does not supply."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent.attesting.attester import Complete
from agent.attesting.hardware_policy import requires_crl
from agent.attesting.platform import TeePlatform
from agent.config import Config
from attestation.errors import UncheckableError
from attestation.evidence import Completed, Format
from attestation.hardware import HardwarePolicy
from attestation.simulated.machine import SimulatedMachine
from attestation.snp.endorse import Endorser
from attestation.tdx.abi import Quote
from attestation.tdx.pcs import PcsClient
from attestation.tdx.pcs_judge import Machine

if TYPE_CHECKING:
    import httpx

_NOBODY_ASKS: Final = "[kds] neither fetches AMD's nor has a directory with it"
PATIENCE: Final = 0.8  # of `quote_seconds`; the rest is for verifying what came (a guess)
_REQUESTS: Final = 4  # of the PCS client, one after another


@asynccontextmanager
async def endorsing(
    config: Config, platform: TeePlatform, policies: Mapping[Format, HardwarePolicy] | None
) -> AsyncIterator[Complete]:
    """What completes what the host supplied, while the block lasts.

    A simulated TEE brings all that it needs, and nobody else has any of it.

    Args:
        policies: what the platform has to be: a revocation list is waited for where one demands it.
    """
    if platform.machine is not None:
        yield simulated(platform.machine)
        return
    import httpx  # noqa: PLC0415 - an agent that asks nobody saves its 3 MB

    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        snp = _endorser(config, platform, nursery, client, require_crl=requires_crl(policies))
        tdx = _pcs(config, nursery, client)

        async def complete(kind: Format, quote: bytes, supplied: bytes) -> Completed:
            if kind == "sev-snp":
                if snp is None:
                    return Completed(certificates=supplied, unlisted=_NOBODY_ASKS)
                return await snp.complete(quote, supplied)
            if tdx is None:
                raise UncheckableError(
                    "pcs.off",
                    "a TDX quote can only be checked with Intel's documents about its platform",
                    remedy="set [pcs] fetch = true, or give a directory: [pcs] offline",
                )
            return Completed(certificates=await tdx.collateral(Machine.of(Quote.parse(quote))))

        yield complete
        nursery.cancel_scope.cancel()


def simulated(machine: SimulatedMachine) -> Complete:
    """What a vendor's service would add, from the simulated vendor itself."""

    async def complete(kind: Format, quote: bytes, supplied: bytes) -> Completed:
        del kind, quote
        await trio.lowlevel.checkpoint()
        return Completed(certificates=machine.complete(supplied, datetime.now(UTC)))

    return complete


def _endorser(
    config: Config,
    platform: TeePlatform,
    nursery: trio.Nursery,
    client: httpx.AsyncClient,
    *,
    require_crl: bool,
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
        require_crl=require_crl,
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
