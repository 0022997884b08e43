"""AMD's key distribution service (KDS): VCEK, chain and revocation list, fetched, judged, kept.

Source: AMD publication 57230, section 4. Issuing never depends on it: the host's certificate table
goes first, and an offline directory can stand in for it. KDS answers about one request in ten
seconds for one address, and has outages in which it says 404 or 5xx, so what it said once is kept:
certificates for ever, lists until they end. A list is asked for anew each day, in the background,
and one with a lower number than was seen before is not taken: whoever stands in front of KDS cannot
bring back a list from before a revocation. Nothing is used or kept that the judge did not accept,
wherever it came from.
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

from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.fetching.asker import Asker, Service, check_url
from attestation.fetching.flights import Flights
from attestation.fetching.kept import Kept, read
from attestation.snp.kds_judge import Term
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

    def crl(self, der: bytes, *, line: ProductLine, ark: bytes) -> Term:
        """A revocation list of this line's root (DER)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing that KDS has: where, under which file name it is kept, and who judges it.

    Attributes:
        judge: gives a list's term; None: it may be used for ever.
    """

    path: str
    name: str
    judge: Callable[[bytes], Term | None]


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
        self._missed: dict[str, AttestationError] = {}
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

    async def crl(self, line: ProductLine, key: EndorsementKey, ark: bytes, *, wait: bool) -> bytes:
        """The root's revocation list (DER), never past its next update. One that was kept is given
        at once, and renewed in the background when it is a day old.

        Args:
            ark: the root's certificate (DER), which has to be the pinned one of this line.
            wait: for KDS, where there is none, or one that ends soon; otherwise that is an error,
                with what KDS said last, and the list is there for a later caller.

        Raises:
            AttestationError: as `vcek`; `kds.older`: KDS sent an older list than was seen before.
        """

        def judge(data: bytes) -> Term:
            return self._judge.crl(data, line=line, ark=ark)

        thing = Thing(path=crl_path(line, key), name=f"crl-{key.value}-{line}.der", judge=judge)
        if self._offline is not None:
            return self._from_offline(self._offline / thing.name, thing)
        kept, fresh, ends_soon = self._find_list(thing)
        fetch = partial(self._fetch_list, thing)
        if wait and (kept is None or ends_soon):
            try:
                return await self._flights.join(thing.name, fetch)
            except AttestationError:
                if kept is None:
                    raise
                return kept  # still within its own time
        if not fresh:
            self._flights.begin(thing.name, fetch)
        await trio.lowlevel.checkpoint()
        if kept is None:
            raise self._missing(thing)
        return kept

    # -- one thing --------------------------------------------------------------------------------

    async def _get(self, thing: Thing) -> bytes:
        if self._offline is not None:
            return self._from_offline(self._offline / thing.name, thing)
        kept = self._find(thing)
        if kept is not None:
            return kept[0]
        return await self._flights.join(thing.name, partial(self._fetch, thing))

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

    def _find(self, thing: Thing) -> tuple[bytes, Term | None, datetime] | None:
        """What was kept and the judge accepts still, its term, and when it was kept."""
        kept = self._kept.find(thing.name)
        if kept is None:
            return None
        data, fetched = kept
        try:
            return data, thing.judge(data), fetched
        except UncheckableError:
            raise  # it could not be judged: that says nothing against it
        except AttestationError:
            self._kept.forget(thing.name)
            return None

    def _find_list(self, thing: Thing) -> tuple[bytes | None, bool, bool]:
        """The kept list if it has not ended, whether it need not be asked for again yet, and
        whether it ends soon."""
        data, term, fetched = self._find(thing) or (b"", None, self._now())
        if term is None or self._now() > term.until:
            return None, False, False
        ends_soon = self._now() >= term.until - LIST_LIFE
        return data, self._now() - fetched < LIST_LIFE and not ends_soon, ends_soon

    def _missing(self, thing: Thing) -> UncheckableError:
        missed = self._missed.get(thing.name)
        if missed is not None:
            return UncheckableError(missed.code, str(missed), remedy=missed.remedy)
        what = f"KDS is being asked for {thing.path}"
        return UncheckableError("kds.pending", what, remedy="wait for the next passport")

    async def _fetch(self, thing: Thing) -> bytes:
        data = (await self._asker.get(self._base + thing.path)).body
        thing.judge(data)
        self._kept.keep(thing.name, data, self._now())
        return data

    async def _fetch_list(self, thing: Thing) -> bytes:
        try:
            data = (await self._asker.get(self._base + thing.path)).body
            term = thing.judge(data)
            _require_fresh(thing, term, self._now())
            _require_not_older(term, self._find(thing))
        except AttestationError as error:
            self._missed[thing.name] = error
            raise
        self._missed.pop(thing.name, None)
        self._kept.keep(thing.name, data, self._now())
        return data


def _require_fresh(thing: Thing, term: Term | None, now: datetime) -> None:
    if term is not None and now > term.until:
        raise UncheckableError(
            "kds.stale",
            f"the list {thing.name} was good until {term.until:%Y-%m-%d %H:%M} UTC",
            remedy=f"check the clock, or get the present one ({thing.path})",
        )


def _require_not_older(
    term: Term | None, before: tuple[bytes, Term | None, datetime] | None
) -> None:
    seen = before[1] if before is not None else None
    if term is not None and seen is not None and term.number < seen.number:
        raise VerificationError(
            "kds.older",
            f"KDS sent revocation list {term.number}, number {seen.number} was seen before",
            remedy="something between here and AMD hands out old lists",
        )
