"""AMD's key distribution service (KDS): VCEK, chain and revocation list, fetched, judged, kept.

Source: AMD publication 57230, section 4. Issuing never depends on it: the host's certificate table
goes first, and an offline directory can stand in for it. KDS answers about one request in ten
seconds for one address, and has outages in which it says 404 or 5xx, so what it said once is kept:
certificates for ever, lists until they should be renewed. Nothing is used or kept that the judge
did not accept, wherever it came from.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import trio

from attestation.errors import AttestationError, UncheckableError
from attestation.fetching.asker import Asker, Service, check_url
from attestation.fetching.flights import Flights
from attestation.fetching.kept import Kept, read
from attestation.snp.product import EndorsementKey, ProductLine, Tcb

if TYPE_CHECKING:
    import httpx

BASE_URL: Final = "https://kdsintf.amd.com"
MAX_ANSWER: Final = 64 * 1024
LIST_LIFE: Final = timedelta(days=1)  # a list is asked for anew after this at the latest
_SERVICE: Final = Service(
    name="KDS",
    code="kds",
    spacing=10.0,
    largest=MAX_ANSWER,
    remedy="let the host supply its certificate table, or give an offline directory",
    meanings={404: "KDS knows no such chip at this TCB, or has one of its outages"},
    doubtful=frozenset({404}),
)


class Judge(Protocol):
    """Raises attestation errors for what must not be used."""

    def vcek(self, der: bytes, *, line: ProductLine, hwid: bytes, tcb: Tcb) -> None:
        """A VCEK certificate for this chip and these levels."""

    def chain(self, pem: bytes, *, line: ProductLine, key: EndorsementKey) -> None:
        """Intermediate and root of this line."""

    def crl(self, der: bytes, *, line: ProductLine, key: EndorsementKey) -> datetime:
        """A revocation list of this line's root; gives its next update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing that KDS has: where, under which file name it is kept, and who judges it.

    Attributes:
        judge: gives until when it may be used without asking again; None: for ever.
    """

    path: str
    name: str
    judge: Callable[[bytes], datetime | None]


def vcek_path(line: ProductLine, hwid: bytes, tcb: Tcb) -> str:
    """The URL's path and query of a VCEK.

    Args:
        hwid: 64 bytes; Turin: 8, or 64 of which the first 8 are used.

    Raises:
        ValueError: a wrong size, or no FMC level for Turin.
    """
    turin = line is ProductLine.TURIN
    hwid = hwid[:8] if turin and not any(hwid[8:]) else hwid
    if len(hwid) != (8 if turin else 64) or turin is (tcb.fmc is None):
        raise ValueError(f"a VCEK of {line} is asked for by another chip id or TCB than this")
    levels = [("fmcSPL", tcb.fmc)] if turin else []
    levels += [
        ("blSPL", tcb.bootloader),
        ("teeSPL", tcb.tee),
        ("snpSPL", tcb.snp),
        ("ucodeSPL", tcb.microcode),
    ]
    query = "&".join(f"{name}={level:02d}" for name, level in levels)
    return f"/vcek/v1/{line}/{hwid.hex()}?{query}"


def chain_path(line: ProductLine, key: EndorsementKey) -> str:
    """The URL's path of intermediate and root."""
    return f"/{key.value}/v1/{line}/cert_chain"


def crl_path(line: ProductLine, key: EndorsementKey) -> str:
    """The URL's path of the revocation list."""
    return f"/{key.value}/v1/{line}/crl"


class KdsClient:
    """Runs in its owner's nursery: a caller that is cancelled leaves its fetch to the others.

    Args:
        nursery: where fetches run.
        client: an HTTP client without redirects; the owner closes it.
        cache: a directory for what was accepted; made if needed. None: only this process remembers.
        offline: a directory with the same files; nothing is fetched then.
        patience: seconds that one call may take, waiting for others included.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        client: httpx.AsyncClient,
        judge: Judge,
        *,
        cache: Path | None = None,
        offline: Path | None = None,
        base_url: str = BASE_URL,
        patience: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self._base = check_url(base_url, "KDS")
        self._judge, self._offline, self._now = judge, offline, now
        self._kept = Kept(cache, largest=MAX_ANSWER)
        self._flights = Flights(nursery, "kds")
        self._asker = Asker(
            client,
            _SERVICE,
            patience=patience,
            now=now,
            rng=rng or random.Random(),  # noqa: S311 - spreads retries, keeps no secret
        )

    async def vcek(self, line: ProductLine, hwid: bytes, tcb: Tcb) -> bytes:
        """The VCEK certificate (DER) of a chip at a TCB.

        Raises:
            UncheckableError: `kds.*`: it cannot be had now; says what was tried and what to do.
            AttestationError: what was found is refused by the judge.
        """
        size = 8 if line is ProductLine.TURIN else 64
        levels = "-".join(
            str(level)
            for level in (tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)
            if level is not None
        )

        def judge(data: bytes) -> None:
            self._judge.vcek(data, line=line, hwid=hwid[:size], tcb=tcb)

        path = vcek_path(line, hwid, tcb)
        return await self._get(
            Thing(path=path, name=f"vcek-{line}-{hwid[:size].hex()}-{levels}.der", judge=judge)
        )

    async def chain(self, line: ProductLine, key: EndorsementKey) -> bytes:
        """Intermediate and root (PEM). Raises as `vcek`."""

        def judge(data: bytes) -> None:
            self._judge.chain(data, line=line, key=key)

        path = chain_path(line, key)
        return await self._get(Thing(path=path, name=f"chain-{key.value}-{line}.pem", judge=judge))

    async def crl(self, line: ProductLine, key: EndorsementKey) -> bytes:
        """The root's revocation list (DER), not older than a day if KDS can be reached, and never
        past its next update. Raises as `vcek`."""

        def judge(data: bytes) -> datetime:
            return self._judge.crl(data, line=line, key=key)

        path = crl_path(line, key)
        return await self._get(Thing(path=path, name=f"crl-{key.value}-{line}.der", judge=judge))

    # -- one thing --------------------------------------------------------------------------------

    async def _get(self, thing: Thing) -> bytes:
        if self._offline is not None:
            return self._from_offline(self._offline / thing.name, thing)
        kept, good = self._find(thing)
        if kept is not None and good:
            return kept
        try:
            return await self._flights.join(thing.name, partial(self._fetch, thing))
        except UncheckableError:
            if kept is not None:  # older than it should be, and still within its own time
                return kept
            raise

    def _from_offline(self, path: Path, thing: Thing) -> bytes:
        try:
            data = read(path, MAX_ANSWER)
        except OSError as error:
            raise UncheckableError(
                "kds.offline",
                f"the offline directory has no usable {path.name}: {error.strerror}",
                remedy=f"put what KDS has under {thing.path} into it",
            ) from None
        _require_fresh(thing, thing.judge(data), self._now())
        return data

    def _find(self, thing: Thing) -> tuple[bytes | None, bool]:
        """What was kept and the judge accepts still, and whether it need not be asked for again."""
        kept = self._kept.find(thing.name)
        if kept is None:
            return None, False
        data, fetched = kept
        try:
            until = thing.judge(data)
        except UncheckableError:
            raise  # it could not be judged: that says nothing against it
        except AttestationError:
            self._kept.forget(thing.name)
            return None, False
        if until is None:
            return data, True
        if self._now() > until:
            return None, False
        fresh = self._now() - fetched < LIST_LIFE and self._now() < until - LIST_LIFE
        return data, fresh

    async def _fetch(self, thing: Thing) -> bytes:
        data = (await self._asker.get(self._base + thing.path)).body
        _require_fresh(thing, thing.judge(data), self._now())
        self._kept.keep(thing.name, data, self._now())
        return data


def _require_fresh(thing: Thing, until: datetime | None, now: datetime) -> None:
    if until is not None and now > until:
        raise UncheckableError(
            "kds.stale",
            f"the list {thing.name} was good until {until:%Y-%m-%d %H:%M} UTC",
            remedy=f"check the clock, or get the present one ({thing.path})",
        )
