"""Intel's Provisioning Certification Service (PCS): what it publishes about a kind of machine.

Source: "Intel SGX and Intel TDX PCS API", version 4. Three requests to the service and one for the
root's list give one file, in the form that the field's tools exchange: it goes to relying parties
with the quote, so that these verify offline. It is kept until its first part ends. A cache inside
the data centre (PCCS) has the same interface and can stand in for the service; so can a directory.

Nothing is used or kept that the judge did not accept. What was kept and is of a later evaluation
than what the service sends is not given up for it: a service, or whoever stands in front of it,
cannot bring back documents from before a vulnerability was known.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import trio

from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.fetching.asker import Answer, Asker, Service, check_url
from attestation.fetching.flights import Flights
from attestation.fetching.kept import Kept, read
from attestation.tdx.crl import parse_list
from attestation.tdx.endorsements import MAX_COLLATERAL_SIZE, Endorsements
from attestation.tdx.names import INTEL, Vendor
from attestation.tdx.pcs_judge import Judged, Machine, judge

if TYPE_CHECKING:
    import httpx

BASE_URL: Final = "https://api.trustedservices.intel.com"
ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
REFRESH_AFTER: Final = timedelta(days=1)  # what is kept is used, and renewed in the background
MARGIN: Final = timedelta(hours=12)  # before its end a file is renewed before it is used (a guess)
_MAX_CHAIN: Final = 64 * 1024  # characters of a header
_SERVICE: Final = Service(
    name="PCS",
    code="pcs",
    spacing=0.2,  # a guess: no limit of requests is published
    largest=MAX_COLLATERAL_SIZE,
    remedy="check the connection to Intel's service or your cache of it, or give an offline"
    " directory",
    meanings={
        404: "Intel knows no TDX platform with this FMSPC, or no such CA",
        410: "Intel has retired what was asked for",
    },
)


class PcsClient:
    """Runs in its owner's nursery: a caller that is cancelled leaves its fetch to the others.

    Args:
        nursery: where fetches run.
        client: an HTTP client without redirects; the owner closes it.
        cache: a directory for what was accepted; made if needed. None: only this process remembers.
        offline: a directory with the same files (`FMSPC-platform.json`); nothing is fetched then.
        base_url: the service, or a cache of it.
        early: ask for TCB infos as soon as Intel publishes them, not when platforms had time to
            be brought up to date.
        patience: seconds that one of the four requests may take.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        client: httpx.AsyncClient,
        *,
        cache: Path | None = None,
        offline: Path | None = None,
        base_url: str = BASE_URL,
        root_crl_url: str = ROOT_CRL_URL,
        early: bool = False,
        patience: float = 30.0,
        vendor: Vendor = INTEL,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self._base = check_url(base_url, "PCS")
        self._root_crl_url = check_url(root_crl_url, "the root's revocation list")
        self._update = "early" if early else "standard"
        self._offline, self._vendor, self._now = offline, vendor, now
        self._kept = Kept(cache, largest=MAX_COLLATERAL_SIZE)
        self._flights = Flights(nursery, "pcs")
        self._asker = Asker(
            client,
            _SERVICE,
            patience=patience,
            now=now,
            rng=rng or random.Random(),  # noqa: S311 - spreads retries, keeps no secret
        )

    async def collateral(self, machine: Machine) -> bytes:
        """One file for `Endorsements.parse`, valid now.

        Raises:
            UncheckableError: `pcs.*`: it cannot be had; says what was tried and what to do.
            AttestationError: what was found is refused: forged, of another machine, or older than
                what was kept (`pcs.older`).
        """
        name = f"{machine}.json"
        if self._offline is not None:
            return self._from_offline(self._offline / name, machine)
        fetch = partial(self._fetch, machine, name)
        kept = self._usable(machine, name)
        if kept is None:
            return await self._flights.join(name, fetch)
        data, until, fetched = kept
        now = self._now()
        if now > until - MARGIN:
            try:
                return await self._flights.join(name, fetch)
            except AttestationError:
                return data  # still within its own time
        if now - fetched > REFRESH_AFTER:
            self._flights.begin(name, fetch)
        await trio.lowlevel.checkpoint()
        return data

    def _from_offline(self, path: Path, machine: Machine) -> bytes:
        try:
            data = read(path, MAX_COLLATERAL_SIZE)
        except OSError as error:
            raise UncheckableError(
                "pcs.offline",
                f"the offline directory has no usable {path.name}: {error.strerror}",
                remedy="put the collateral of this kind of machine into it",
            ) from None
        self._judge(data, machine)
        return data

    def _usable(self, machine: Machine, name: str) -> tuple[bytes, datetime, datetime] | None:
        """What was kept and is valid now, until when, and when it was fetched."""
        kept = self._kept.find(name)
        if kept is None:
            return None
        data, fetched = kept
        try:
            return data, self._judge(data, machine).until, fetched
        except AttestationError:
            return None

    async def _fetch(self, machine: Machine, name: str) -> bytes:
        base, get = self._base, self._asker.get
        info = await get(
            f"{base}/tdx/certification/v4/tcb?fmspc={machine.fmspc.hex()}&update={self._update}"
        )
        identity = await get(f"{base}/tdx/certification/v4/qe/identity?update={self._update}")
        pck_crl = await get(f"{base}/sgx/certification/v4/pckcrl?ca={machine.ca}&encoding=der")
        root_crl = await get(self._root_crl_url)
        data = Endorsements.pack(
            tcb_info=info.body,
            qe_identity=identity.body,
            signing_chains=(
                _chain(info, "TCB-Info-Issuer-Chain"),
                _chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
            ),
            pck_crl=parse_list(pck_crl.body).der,
            root_crl=parse_list(root_crl.body).der,
            pck_crl_issuers=_chain(pck_crl, "SGX-PCK-CRL-Issuer-Chain"),
        )
        found, before = self._judge(data, machine), self._before(machine, name)
        if before is not None and found.older_than(before):
            raise VerificationError(
                "pcs.older",
                f"PCS sent documents of evaluation {found.evaluation_numbers}, those of"
                f" {before.evaluation_numbers} were seen before",
                remedy="something between here and Intel hands out old documents",
            )
        self._kept.keep(name, data, self._now())
        return data

    def _before(self, machine: Machine, name: str) -> Judged | None:
        """What was kept and is genuine, even if its time is over."""
        kept = self._kept.find(name)
        if kept is None:
            return None
        try:
            return judge(kept[0], machine, now=None, vendor=self._vendor)
        except AttestationError:
            return None

    def _judge(self, data: bytes, machine: Machine) -> Judged:
        return judge(data, machine, now=self._now(), vendor=self._vendor)


def _chain(answer: Answer, header: str) -> bytes:
    """Certificates in PEM, which the service writes URL-encoded into a header."""
    value = answer.headers.get(header, "")
    if not value or len(value) > _MAX_CHAIN:
        raise UncheckableError("pcs.answer", f"PCS sent no usable {header}")
    return unquote_to_bytes(value)
