"""Keeps a valid passport: renewal at half life, retries with bounds, expiry on time.

One task renews, one watches the end. Both use the boot-time clock, so a suspended machine renews at
once when it wakes. A failed renewal never ends the daemon once it has been attested; at the first
start a final failure (no such TEE) does.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from agent import logs
from agent.attester import Issued
from agent.boottime import Clock, sleep_until
from agent.errors import ExitCode, FatalError
from agent.lifecycle import Event, Lifecycle, State
from attestation.errors import AttestationError, QuoteError

FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0
_LOG = logs.get("renewal")


class Renewal:
    """Issues, renews and expires; `current` is the newest passport, valid or not."""

    def __init__(
        self,
        *,
        issue: Callable[[], Awaitable[Issued]],
        lifecycle: Lifecycle,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._issue = issue
        self._lifecycle = lifecycle
        self._clock = clock
        self._rng = rng
        self._wake = trio.Event()
        self.current: Issued | None = None
        self.failures = 0
        self.quote_seconds = 0.0

    @property
    def valid(self) -> bool:
        """Whether there is a passport that has not ended. Derived at the moment it is asked."""
        return self.current is not None and self.current.expires_ns > self._clock()

    def renew_now(self) -> None:
        """Renew without waiting for half life (a new bundle, an operator's wish)."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            FatalError: at the first start, where trying again cannot help.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_expiry)
            retry = FIRST_RETRY_SECONDS
            while True:
                started = self._clock()
                try:
                    issued = await self._issue()
                except (AttestationError, OSError) as error:
                    self._failed(error)
                    await self._sleep(self._retry_delay(retry))
                    retry = min(retry * 2, LONGEST_RETRY_SECONDS)
                    continue
                self.quote_seconds = (self._clock() - started) / 1e9
                self.current, retry = issued, FIRST_RETRY_SECONDS
                self._lifecycle.happen(Event.ISSUED, f"passport {issued.passport_id} issued")
                _LOG.info(
                    "passport.issued",
                    passport=issued.passport_id,
                    tee=issued.platform.tee_type,
                    hardware_attested=issued.platform.hardware_attested,
                    seconds=round(issued.seconds_left(self._clock())),
                )
                await self._sleep(self._renewal_delay(issued))

    def _failed(self, error: AttestationError | OSError) -> None:
        self.failures += 1
        if (
            isinstance(error, QuoteError)
            and error.final
            and self._lifecycle.state is State.ATTESTING
        ):
            raise FatalError(ExitCode.NO_TEE, str(error), remedy=error.remedy) from error
        code = error.code if isinstance(error, AttestationError) else "quote.io"
        self._lifecycle.happen(Event.FAILED, f"no passport: {error} [{code}]")
        _LOG.warning("passport.failed", code=code, error=str(error), failures=self.failures)

    def _renewal_delay(self, issued: Issued) -> float:
        return issued.seconds_left(self._clock()) * 0.5 * self._rng.uniform(0.9, 1.1)

    def _retry_delay(self, backoff: float) -> float:
        # Never longer than a quarter of what is left, so that an outage shorter than the
        # passport's life never expires it for want of a try.
        delay = backoff * self._rng.uniform(0.9, 1.1)
        left = self.current.seconds_left(self._clock()) if self.current is not None else 0
        return max(min(delay, left / 4), FIRST_RETRY_SECONDS) if left > 0 else delay

    async def _sleep(self, seconds: float) -> None:
        async with trio.open_nursery() as nursery:

            async def until_woken() -> None:
                await self._wake.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_woken)
            await sleep_until(self._clock() + int(seconds * 1e9), clock=self._clock)
            nursery.cancel_scope.cancel()
        self._wake = trio.Event()

    async def _watch_expiry(self) -> None:
        while True:
            current = self.current
            if current is None:
                await trio.sleep(1)
                continue
            await sleep_until(current.expires_ns, clock=self._clock)
            if self.current is current and self._lifecycle.state in (State.SERVING, State.DEGRADED):
                self._lifecycle.happen(Event.EXPIRED, f"passport {current.passport_id} has ended")
                _LOG.error("passport.expired", passport=current.passport_id)
            await trio.sleep(1)
