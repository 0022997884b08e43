"""The gateway's TLS while the agent runs: new files are taken, broken ones are not, and both are
said.

The files are looked at every few seconds, and read on SIGHUP. A change is loaded when two looks in
a row see the same, so that files which are being exchanged one after another are left alone. What
cannot be used changes nothing: the certificates in use stay, until they end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from agent import logs
from agent.config import TlsTable
from agent.errors import ExitCode, FatalError
from agent.gateway.tls_files import Loaded, TlsFilesError, load, look, utc
from agent.life.lifecycle import Part, Trouble, Weight
from agent.life.ticks import next_tick
from enforcement.gateway.tls_server import TlsServer

_LOG = logs.get("tls")
LOOK_SECONDS: Final = 2.0
REST_SECONDS: Final = 0.1  # after a reload that was wished for: a storm of wishes is few reloads
LATE: Final = 0.2  # of a certificate's life; its renewal is overdue when less is left
LATE_SECONDS: Final = 7 * 86_400.0  # or less than this, where that is less


class GatewayTls:
    """The certificates in use. Everything but the constructor on the trio thread.

    Attributes:
        server: what the gateway greets its clients with.
        loaded: what it was made of.
        loads, failures: readings of changed files, taken and refused.
        problem: why the files were refused when they were read last; empty: they were not.
    """

    def __init__(self, table: TlsTable, *, now: Callable[[], float] = time.time) -> None:
        """Blocking: reads the files.

        Raises:
            FatalError: they cannot be used.
        """
        self._table = table
        self._now = now
        self._tried = look(table)
        try:
            self.loaded = load(table, now=now())
        except TlsFilesError as error:
            raise FatalError(
                ExitCode.FAILED,  # whoever writes these files may have done so at the next start
                f"gateway.tls: {error}",
            ) from None
        self.server = TlsServer(self.loaded.credentials, now=now, told=_told)
        self.loads = 1
        self.failures = 0
        self.problem = ""
        self._wish = trio.Event()

    def reload_soon(self) -> None:
        """Have `watch` read the files, whether or not they seem to have changed (SIGHUP)."""
        self._wish.set()

    async def watch(self) -> None:
        """Load the files when they change, or somebody wishes it. Until cancelled."""
        before = self._tried
        while True:
            with trio.move_on_at(next_tick(LOOK_SECONDS)):
                await self._wish.wait()
            if self._wish.is_set():
                self._wish = trio.Event()
                await self.reload()
                before = self._tried
                await trio.sleep(REST_SECONDS)
                continue
            seen = await trio.to_thread.run_sync(look, self._table)
            # What was refused is tried again: a certificate may have begun to be valid.
            if seen == before and (seen != self._tried or self.problem):
                await self.reload()
            before = seen

    async def reload(self) -> None:
        """Read the files, and use them if they can be used."""
        self._tried = await trio.to_thread.run_sync(look, self._table)
        try:
            loaded = await trio.to_thread.run_sync(self._load)
        except TlsFilesError as error:
            self._refused(str(error))
        else:
            self._use(loaded)

    def seconds_left(self) -> float:
        """Until the gateway's certificate ends; negative when it has."""
        return self.loaded.ends - self._now()

    def authorities_seconds_left(self) -> float:
        """Until some trust domain has no authority any more; inf: no client is asked."""
        return self.loaded.authorities_end - self._now()

    def trouble(self) -> Trouble | None:
        """What somebody has to look at."""
        left = self.seconds_left()
        late = min(LATE * (self.loaded.ends - self.loaded.begins), LATE_SECONDS)
        said = f"; the files on disk are refused: {self.problem}" if self.problem else ""
        if left <= 0:
            return _concern("tls.expired", f"the certificate has ended{said}", _RENEW)
        if self.authorities_seconds_left() <= 0:
            reason = f"every authority of a trust domain has ended{said}"
            return _concern("tls.authority_expired", reason, _RENEW)
        if self.loaded.credentials.trust.revocation_ends <= self._now():
            reason = f"the list of revoked client certificates has ended{said}"
            return _concern("tls.revocation_ended", reason, _RENEW)
        if left < late:
            when = utc(self.loaded.ends)
            return _concern("tls.ending", f"the certificate ends at {when}{said}", _RENEW)
        if self.problem:
            return _concern("tls.refused", f"new files were refused: {self.problem}", _CORRECT)
        return None

    def as_json(self) -> dict[str, Any]:
        """For the status."""
        loaded, table, metrics = self.loaded, self._table, self.server.metrics
        return {
            "certificate": {
                "subject": loaded.subject,
                "sha256": loaded.fingerprint,
                "ends": utc(loaded.ends),
                "seconds_left": round(self.seconds_left()),
            },
            "client": table.client,
            "caller": table.caller,
            "trust_domains": sorted(table.trust_domains),
            "authorities": loaded.authorities,
            "authorities_end": (
                utc(loaded.authorities_end) if math.isfinite(loaded.authorities_end) else None
            ),
            "handshakes": sum(metrics.handshakes.values()),
            "handshake_failures": {
                reason: count for (reason,), count in sorted(metrics.failures.items())
            },
            "loads": self.loads,
            "load_failures": self.failures,
            "problem": self.problem,
        }

    def _load(self) -> Loaded:
        return load(self._table, now=self._now())

    def _use(self, loaded: Loaded) -> None:
        self.problem = ""
        self.loaded = loaded
        self.loads += 1
        self.server.use(loaded.credentials)
        _LOG.info("tls.loaded", certificate=loaded.fingerprint, ends=utc(loaded.ends))

    def _refused(self, problem: str) -> None:
        if problem != self.problem:  # the same again is no news
            self.failures += 1
            self.problem = problem
            _LOG.error("tls.refused", problem=problem, kept=self.loaded.fingerprint)


_RENEW: Final = "whoever renews it is late; new files are taken as they come, or on SIGHUP"
_CORRECT: Final = "the certificates in use stay; the files are read again when they change"


def _concern(code: str, reason: str, following: str) -> Trouble:
    return Trouble(part=Part.TLS, weight=Weight.CONCERN, code=code, reason=reason, next=following)


def _told(reason: str, times: int) -> None:
    _LOG.warning("tls.handshake_failed", reason=reason, times=times)
