"""AMD's key distribution service (KDS): VCEK, chain and revocation list, fetched, judged, kept.

Source: AMD publication 57230, section 4. Issuing never depends on it: the host's certificate table
goes first, and an offline directory can stand in for it. KDS answers about one request in ten
seconds for one address, and has outages in which it says 404 or 5xx, so what it said once is kept:
certificates for ever, lists until they should be renewed. Nothing is used or kept that the judge
did not accept, wherever it came from.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx
import trio

from attestation.errors import AttestationError, UncheckableError
from attestation.snp.abi import EndorsementKey, ProductLine, Tcb

BASE_URL: Final = "https://kdsintf.amd.com"
SPACING_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 10.0
LONGEST_WAIT_SECONDS: Final = 120.0
MAX_ANSWER: Final = 64 * 1024
LIST_LIFE: Final = timedelta(days=1)  # a list is asked for anew after this at the latest
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_HINT: Final = "let the host supply its certificate table, or give an offline directory"


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


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After field asks for (RFC 9110, 10.2.3), 0 to 120; None: unusable."""
    if value is None:
        return None
    seconds: float
    if value.isascii() and value.isdigit() and len(value) < 10:
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


class _LaterError(Exception):
    """KDS may answer later. `wait`: seconds that it asked for."""

    def __init__(self, what: str, *, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _Flight:
    """One fetch on its way, for all who want the same."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.data: bytes | None = None
        self.error: AttestationError | None = None


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
        parts = urlsplit(base_url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{base_url}: KDS is asked over https only")
        self._nursery, self._client, self._judge = nursery, client, judge
        self._cache, self._offline = cache, offline
        self._base, self._patience, self._now = base_url.rstrip("/"), patience, now
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, keeps no secret
        self._flights: dict[str, _Flight] = {}
        self._memory: dict[str, tuple[bytes, datetime]] = {}  # with when it was fetched
        self._turn = trio.Lock()
        self._next_request = -math.inf

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
        kept, good = self._kept(thing)
        if kept is not None and good:
            return kept
        try:
            return await self._flight(thing)
        except UncheckableError:
            if kept is not None:  # older than it should be, and still within its own time
                return kept
            raise

    def _from_offline(self, path: Path, thing: Thing) -> bytes:
        try:
            data = _read(path)
        except OSError as error:
            raise UncheckableError(
                "kds.offline",
                f"the offline directory has no usable {path.name}: {error.strerror}",
                remedy=f"put what KDS has under {thing.path} into it",
            ) from None
        _require_fresh(thing, thing.judge(data), self._now())
        return data

    def _kept(self, thing: Thing) -> tuple[bytes | None, bool]:
        """What was kept and the judge accepts still, and whether it need not be asked for again."""
        kept = self._memory.get(thing.name)
        path = None if self._cache is None else self._cache / thing.name
        if path is not None:
            with suppress(OSError):
                kept = _read(path), datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if kept is None:
            return None, False
        data, fetched = kept
        try:
            until = thing.judge(data)
        except UncheckableError:
            raise  # it could not be judged: that says nothing against it
        except AttestationError:
            self._memory.pop(thing.name, None)
            if path is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            return None, False
        if until is None:
            return data, True
        if self._now() > until:
            return None, False
        fresh = self._now() - fetched < LIST_LIFE and self._now() < until - LIST_LIFE
        return data, fresh

    async def _flight(self, thing: Thing) -> bytes:
        flight = self._flights.get(thing.name)
        if flight is None:
            flight = self._flights[thing.name] = _Flight()
            self._nursery.start_soon(self._fly, flight, thing)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None
        return flight.data

    async def _fly(self, flight: _Flight, thing: Thing) -> None:
        try:
            flight.data = await self._fetch(thing)
        except AttestationError as error:
            flight.error = error
        except trio.Cancelled:
            flight.error = UncheckableError("kds.stopped", "the fetch was stopped")
            raise
        finally:
            del self._flights[thing.name]
            flight.landed.set()

    async def _fetch(self, thing: Thing) -> bytes:
        last, tries, missing = "no answer", 0, 0
        with trio.move_on_after(self._patience):
            while True:
                tries += 1
                try:
                    data = await self._ask(thing)
                    break
                except _LaterError as again:
                    last = str(again)
                    missing += last == _MISSING
                    if missing == 2:
                        raise _unavailable(thing, last, tries) from None
                    wait = min(2.0**tries, LONGEST_WAIT_SECONDS) * self._rng.uniform(0.5, 1.0)
                    await trio.sleep(again.wait if again.wait is not None else wait)
            _require_fresh(thing, thing.judge(data), self._now())
            self._keep(thing, data)
            return data
        raise _unavailable(thing, last, tries)

    async def _ask(self, thing: Thing) -> bytes:
        """One request, when it is our turn.

        Raises:
            _LaterError: it may work later.
            UncheckableError: it will not.
        """
        async with self._turn:
            await trio.sleep(max(self._next_request - trio.current_time(), 0))
            self._next_request = trio.current_time() + SPACING_SECONDS
        data = b""
        try:
            with trio.move_on_after(REQUEST_SECONDS) as scope:
                async with self._client.stream(
                    "GET", self._base + thing.path, follow_redirects=False, timeout=REQUEST_SECONDS
                ) as answer:
                    self._check_status(answer, thing)
                    async for piece in answer.aiter_bytes():
                        data += piece
                        if len(data) > MAX_ANSWER:
                            scope.cancel()  # ends the reading where it waits
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _LaterError(type(error).__name__) from None
        if len(data) > MAX_ANSWER:
            raise UncheckableError(
                "kds.answer", f"KDS sent more than {MAX_ANSWER} bytes for {thing.path}"
            )
        if scope.cancelled_caught:
            raise _LaterError(f"no whole answer in {REQUEST_SECONDS:.0f} s")
        return data

    def _check_status(self, answer: httpx.Response, thing: Thing) -> None:
        status = answer.status_code
        if status == 200:
            return
        if status == 404:
            raise _LaterError(_MISSING)
        if status == 429 or status >= 500:
            wait = retry_after(answer.headers.get("retry-after"), self._now())
            raise _LaterError(f"it answered {status}", wait=wait)
        raise UncheckableError(
            "kds.answer", f"KDS answered {status} for {thing.path}", remedy=_HINT
        )

    def _keep(self, thing: Thing, data: bytes) -> None:
        self._memory[thing.name] = data, self._now()
        if self._cache is None:
            return
        # A cache that cannot be written costs a request next time, not this answer.
        with suppress(OSError):
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._cache, prefix=".kds-")  # mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(handle)
                Path(name).replace(self._cache / thing.name)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise


_MISSING: Final = "it answered 404"


def _require_fresh(thing: Thing, until: datetime | None, now: datetime) -> None:
    if until is not None and now > until:
        raise UncheckableError(
            "kds.stale",
            f"the list {thing.name} was good until {until:%Y-%m-%d %H:%M} UTC",
            remedy=f"check the clock, or get the present one ({thing.path})",
        )


def _unavailable(thing: Thing, last: str, tries: int) -> UncheckableError:
    what = "; KDS knows no such chip at this TCB, or has one of its outages"
    return UncheckableError(
        "kds.unavailable",
        f"KDS gave no {thing.path.split('?')[0]} in {tries} tries: {last}"
        f"{what if last == _MISSING else ''}",
        remedy=_HINT,
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_ANSWER + 1)
