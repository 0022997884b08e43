"""Completes what the host handed over: certificates that are missing come from KDS, and AMD's list
of revoked intermediates.

The host's certificates go first. A version 2 report does not state its product line, and a VLEK is
given to providers only: for these the host has to supply everything but the list.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from attestation.errors import AttestationError, UncheckableError
from attestation.evidence import Completed
from attestation.snp.abi import Report
from attestation.snp.certs import Chain
from attestation.snp.chain import Roots
from attestation.snp.collect import split_certificates
from attestation.snp.kds import BASE_URL, KdsClient
from attestation.snp.kds_judge import RootJudge, Term
from attestation.snp.product import EndorsementKey, ProductLine, Tcb
from attestation.snp.table import MAX_TABLE_SIZE, CertTable, TableEntry

if TYPE_CHECKING:
    import httpx

_REMEDY: Final = "configure the host to supply its certificate table with the report"


class Endorser:
    """Certificates for reports of this machine.

    Args:
        nursery: where fetches run.
        client: an HTTP client; the owner closes it.
        cache, offline: see `KdsClient`.
        require_crl: whoever appraises demands a revocation list, so it is waited for; otherwise
            nothing waits for it, and nothing fails without it.
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
        require_crl: bool = False,
        patience: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self._chains: dict[ProductLine, bytes] = {}
        self._require_crl, self._now = require_crl, now
        self._judge = RootJudge(roots, chain_of=self._chains.get, now=now)
        self._kds = KdsClient(
            nursery,
            client,
            self._judge,
            cache=cache,
            offline=offline,
            base_url=base_url,
            patience=patience,
            now=now,
            rng=rng,
        )

    async def complete(self, report: bytes, table: bytes) -> Completed:
        """A certificate table with all that this report needs, and the root's revocation list.

        The host's own certificates are taken where it has all. Its list is taken where KDS has no
        later one: the host is not who should say what was revoked.

        Raises:
            MalformedError: report or table are not what they claim.
            UncheckableError: `kds.*`: what is missing cannot be had.
            VerificationError: KDS gave something else than what was asked for.
        """
        parsed = Report.parse(report)
        contents = dict(CertTable.parse(table).contents)
        try:
            chain = Chain.from_table(CertTable(contents), parsed.signing_key)
        except UncheckableError:
            await self._add_certificates(parsed, contents)
            chain = Chain.from_table(CertTable(contents), parsed.signing_key)
            table = CertTable(contents).encode()
        try:
            crl = await self._list(parsed.signing_key, chain, contents.get(TableEntry.CRL, b""))
        except AttestationError as error:
            if self._require_crl:
                raise
            return Completed(certificates=table, unlisted=str(error))
        contents[TableEntry.CRL] = crl
        completed = CertTable(contents).encode()
        if len(completed) > MAX_TABLE_SIZE:
            text = f"no room for a list of {len(crl)} bytes beside the host's certificates"
            return Completed(certificates=table, unlisted=text)
        return Completed(certificates=completed)

    async def _add_certificates(self, report: Report, contents: dict[TableEntry, bytes]) -> None:
        key, line = report.signing_key, report.product_line
        entry = TableEntry[key.name]
        if key is EndorsementKey.VLEK and entry not in contents:
            raise UncheckableError(
                "kds.vlek", "only the host has its VLEK certificate", remedy=_REMEDY
            )
        if line is None:
            raise UncheckableError(
                "kds.product_line",
                "a version 2 report does not say from which product line's chain to ask",
                remedy=_REMEDY,
            )
        chain = await self._kds.chain(line, key)
        if key is EndorsementKey.VCEK:
            self._chains[line] = chain
        if entry not in contents:
            tcb = Tcb.decode(report.reported_tcb, line)
            contents[entry] = await self._kds.vcek(line, report.chip_id, tcb)
        contents[TableEntry.ICA], contents[TableEntry.ARK] = split_certificates(chain)

    async def _list(self, key: EndorsementKey, chain: Chain, hosts: bytes) -> bytes:
        """The later one of KDS's list and the host's. Raises as `KdsClient.crl`."""
        line, ark = chain.extensions.product_line, chain.ark.der
        term = self._term(hosts, line, ark)
        try:
            wait = self._require_crl and term is None
            crl = await self._kds.crl(line, key, ark, wait=wait)
        except AttestationError:
            if term is None:
                raise
            return hosts
        theirs = self._judge.crl(crl, line=line, ark=ark)
        return hosts if term is not None and term.number > theirs.number else crl

    def _term(self, hosts: bytes, line: ProductLine, ark: bytes) -> Term | None:
        """That of the host's list; None: there is none that can be used."""
        try:
            term = self._judge.crl(hosts, line=line, ark=ark) if hosts else None
        except AttestationError:
            return None
        return term if term is not None and self._now() <= term.until else None
