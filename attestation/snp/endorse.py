"""Completes what the host handed over: certificates that are missing come from KDS.

The host's table goes first. A version 2 report does not state its product line, and a VLEK is given
to providers only: for these the host has to supply everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from attestation.errors import UncheckableError
from attestation.snp.abi import Report
from attestation.snp.certs import Chain
from attestation.snp.chain import Roots
from attestation.snp.collect import split_certificates
from attestation.snp.kds import BASE_URL, KdsClient
from attestation.snp.kds_judge import RootJudge
from attestation.snp.product import EndorsementKey, ProductLine, Tcb
from attestation.snp.table import CertTable, TableEntry

if TYPE_CHECKING:
    import httpx

_REMEDY: Final = "configure the host to supply its certificate table with the report"


class Endorser:
    """Certificates for reports of this machine.

    Args:
        nursery: where fetches run.
        client: an HTTP client; the owner closes it.
        cache, offline: see `KdsClient`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        client: httpx.AsyncClient,
        roots: Roots,
        *,
        cache: Path | None,
        offline: Path | None,
        base_url: str = BASE_URL,
        patience: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self._chains: dict[ProductLine, bytes] = {}
        self._kds = KdsClient(
            nursery,
            client,
            RootJudge(roots, chain_of=self._chains.get, now=now),
            cache=cache,
            offline=offline,
            base_url=base_url,
            patience=patience,
            now=now,
            rng=rng,
        )

    async def complete(self, report: bytes, table: bytes) -> bytes:
        """A certificate table with all that this report needs; the host's own where it has all.

        Raises:
            MalformedError: report or table are not what they claim.
            UncheckableError: `kds.*`: what is missing cannot be had.
            VerificationError: KDS gave something else than what was asked for.
        """
        parsed = Report.parse(report)
        contents = dict(CertTable.parse(table).contents)
        try:
            Chain.from_table(CertTable(contents), parsed.signing_key)
        except UncheckableError:
            pass
        else:
            return table
        entry = TableEntry[parsed.signing_key.name]
        if parsed.signing_key is EndorsementKey.VLEK and entry not in contents:
            raise UncheckableError(
                "kds.vlek", "only the host has its VLEK certificate", remedy=_REMEDY
            )
        line = parsed.product_line
        if line is None:
            raise UncheckableError(
                "kds.product_line",
                "a version 2 report does not say from which product line's chain to ask",
                remedy=_REMEDY,
            )
        chain = await self._kds.chain(line, parsed.signing_key)
        if parsed.signing_key is EndorsementKey.VCEK:
            self._chains[line] = chain
        if entry not in contents:
            tcb = Tcb.decode(parsed.reported_tcb, line)
            contents[entry] = await self._kds.vcek(line, parsed.chip_id, tcb)
        contents[TableEntry.ICA], contents[TableEntry.ARK] = split_certificates(chain)
        return CertTable(contents).encode()
