"""Keeps a valid passport: renewal at half life, retries with bounds.

One task renews, on the boot-time clock, so a suspended machine renews at once when it wakes. No
failure ends it once the daemon has been attested, not even one of the program itself: the passport
that is valid stays, and when it ends the life cycle says so. At the first start a final failure
(no such TEE) does end the daemon.

Wishes (a new bundle) are met as fast as the platform allows: how long a try took says how long to
rest after it, so a host that throttles is not pressed, and quick quotes come ten a second at most.

Where no quote can come until the guest is rebooted, none is asked for: the passport serves until
its end, then requests are refused. The daemon stays to say so; started again, it would end at once.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from agent import logs
from agent.attesting.attester import Issued
from agent.boottime import LOOK_SECONDS, Clock, sleep_until
from agent.errors import ExitCode, FatalError
from agent.life.lifecycle import Lifecycle, Part, Trouble, Weight
from agent.life.supervise import Faults
from agent.life.watchdog import REST, Promise, no_promise
from attestation.errors import AttestationError, QuoteError
from attestation.panics import is_fault

FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0
CLOSEST_SECONDS: Final = 0.1
REST_TIMES: Final = 9.0  # so tries take a tenth of the time: device and processor have other work
QUICK_REST_SECONDS: Final = 1.0
LONGEST_REST_SECONDS: Final = 10.0
TRY_SECONDS: Final = 600.0  # far above the bounds that the parts of a try have of their own
LATE_SECONDS: Final = 30.0
_LOG = logs.get("renewal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How soon a try follows another, in seconds.

    Attributes:
        closest: between the beginnings of two tries, whoever asks for them.
        rest: after a try that gave a passport, times what it took.
        quick_rest: rest no longer than this, unless the try itself took longer: then as long as it
            took. So long, too, after a try that gave none.
        longest_rest: never longer than this: a try may have slept through a suspend.
    """

    first_retry: float = FIRST_RETRY_SECONDS
    longest_retry: float = LONGEST_RETRY_SECONDS
    closest: float = CLOSEST_SECONDS
    rest: float = REST_TIMES
    quick_rest: float = QUICK_REST_SECONDS
    longest_rest: float = LONGEST_REST_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why the last try gave no passport."""

    code: str
    text: str
    remedy: str = ""  # what somebody has to do, where trying again will hardly help


class Renewal:
    """Issues and renews; `current` is the newest passport, valid or not.

    Args:
        dead: the error after which no quote comes until the guest is rebooted, or None. Whoever
            met it, a challenge perhaps: it is asked for whenever somebody looks.
        try_seconds: what a try is bounded by, by its parts; whoever watches is promised so much.

    Attributes:
        failures: tries that failed, by (code,).
        renewals: passports issued.
        promise: told how long it takes at most until the next one is tried (`agent.life.watchdog`).
    """

    def __init__(
        self,
        *,
        issue: Callable[[], Awaitable[Issued]],
        lifecycle: Lifecycle,
        clock: Clock,
        rng: random.Random,
        pace: Pace = Pace(),
        look_seconds: float = LOOK_SECONDS,
        dead: Callable[[], QuoteError | None] = lambda: None,
        try_seconds: float = TRY_SECONDS,
        faults: Faults | None = None,
    ) -> None:
        self._issue = issue
        self._lifecycle = lifecycle
        self._clock = clock
        self._rng = rng
        self._pace = pace
        self._look_seconds = look_seconds
        self._dead = dead
        self._try_seconds = try_seconds
        self._faults = Faults() if faults is None else faults
        self._wake = trio.Event()
        self._failure: Failure | None = None
        self._next_ns = 0
        self._soonest_ns = 0
        self._took = 0.0  # seconds that a try takes, slow ones remembered
        self.current: Issued | None = None
        self.failures: dict[tuple[str, ...], int] = {}
        self.renewals = 0
        self.promise: Promise = no_promise
        lifecycle.watch(self._passport_trouble)
        lifecycle.watch(self._collateral_trouble)

    @property
    def valid(self) -> bool:
        """Whether there is a passport that has not ended. Derived at the moment it is asked."""
        return self.current is not None and self.current.expires_ns > self._clock()

    @property
    def next_seconds(self) -> float:
        """Seconds until the next try; 0 while one is under way or due, infinite: there is none."""
        if self._dead() is not None:
            return float("inf")
        return max((self._next_ns - self._clock()) / 1e9, 0.0)

    def renew_now(self, why: str) -> None:
        """Renew without waiting for half life (a new bundle, a clock that jumped)."""
        if (dead := self._dead()) is not None:
            _LOG.warning("passport.cannot_renew", why=why, code=dead.code, remedy=dead.remedy)
            return
        _LOG.info("passport.renew_now", why=why)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            FatalError: at the first start, where trying again cannot help.
        """
        retry = self._pace.first_retry
        while self.current is None or self._dead() is None:
            started = self._clock()
            self.promise(self._try_seconds)
            issued = await self._try()
            self._soonest_ns = self._rested(started, failed=issued is None)
            if issued is None:
                wait = self._retry_delay(retry)
                retry = min(retry * 2, self._pace.longest_retry)
            else:
                wait, retry = self._renewal_delay(issued), self._pace.first_retry
            self._next_ns = self._clock() + int(wait * 1e9)
            self._lifecycle.look()
            self.promise(wait + LATE_SECONDS)
            await self._sleep()
        self.promise(REST)
        await trio.sleep_forever()

    async def _try(self) -> Issued | None:
        try:
            issued = await self._issue()
        except FatalError as error:
            if self.current is None:
                raise
            self._failed(Failure(code="tee.changed", text=str(error), remedy=error.remedy))
        except AttestationError as error:
            final = isinstance(error, QuoteError) and error.final
            if final and self.current is None:
                raise FatalError(ExitCode.NO_TEE, str(error), remedy=error.remedy) from error
            remedy = error.remedy if final else ""
            self._failed(Failure(code=error.code, text=str(error), remedy=remedy))
        except OSError as error:
            self._failed(Failure(code="quote.io", text=str(error)))
        except BaseException as error:
            if not is_fault(error):
                raise
            # A fault of ours must not end a valid passport.
            text = f"a fault of the agent itself: {self._faults.note('renewal', error)}"
            self._failed(Failure(code="internal", text=text))
        else:
            if issued.expires_ns > self._clock():
                self._issued(issued)
                return issued
            text = "what vouches for this platform has ended: a passport would be over already"
            self._failed(Failure(code="passport.over", text=text))
        return None

    def _issued(self, issued: Issued) -> None:
        self.current, self._failure = issued, None
        self.renewals += 1
        self._lifecycle.issued(issued.passport_id, issued.expires_ns)
        _LOG.info(
            "passport.issued",
            passport=issued.passport_id,
            tee=issued.platform.tee_type,
            hardware_attested=issued.platform.hardware_attested,
            seconds=round(issued.seconds_left(self._clock())),
        )

    def _failed(self, failure: Failure) -> None:
        self._failure = failure
        key = (failure.code,)
        self.failures[key] = self.failures.get(key, 0) + 1
        _LOG.warning(
            "passport.failed",
            code=failure.code,
            error=failure.text,
            failures=sum(self.failures.values()),
        )

    # -- what the life cycle is told --------------------------------------------------------------

    def _passport_trouble(self) -> Trouble | None:
        dead, failure, left = self._dead(), self._failure, self._seconds_left()
        following: list[str]
        if dead is not None and self.current is not None:
            failure = Failure(code=dead.code, text=str(dead), remedy=dead.remedy)
            what, following = "no passport any more", [dead.remedy]
            if left > 0:
                following += [
                    f"requests are refused in {left:.0f} s",
                    "the agent started again would serve nothing",
                ]
        elif failure is not None:
            what, following = "no new passport", [self._next_try()]
            if left > 0:
                following.append(f"without one, requests are refused in {left:.0f} s")
            if failure.remedy:
                following.append(failure.remedy)
        else:
            return None
        return Trouble(
            part=Part.PASSPORT,
            weight=Weight.CONCERN,
            code=failure.code,
            reason=f"{what}: {failure.text} [{failure.code}]",
            next="; ".join(following),
        )

    def _next_try(self) -> str:
        if self._next_ns:
            return f"a quote is asked for again in {self.next_seconds:.0f} s"
        return "a quote is being asked for"

    def _collateral_trouble(self) -> Trouble | None:
        issued = self.current
        if issued is None or not issued.cut_short:
            return None
        renewals = (
            "each renewal asks for newer documents; without any"
            if self._dead() is None
            else "no quote comes, so newer ones would not help"
        )
        return Trouble(
            part=Part.COLLATERAL,
            weight=Weight.CONCERN,
            code="collateral.ending",
            reason="the vendor's documents about this platform end at"
            f" {issued.collateral_ends:%Y-%m-%dT%H:%M:%SZ}, and so does the passport",
            next=f"{renewals}, requests are refused in {max(self._seconds_left(), 0):.0f} s",
        )

    def _seconds_left(self) -> float:
        """Of the passport; 0 where there was none, negative when it has ended."""
        return 0.0 if self.current is None else self.current.seconds_left(self._clock())

    # -- when to try ------------------------------------------------------------------------------

    def _renewal_delay(self, issued: Issued) -> float:
        return issued.seconds_left(self._clock()) * 0.5 * self._rng.uniform(0.9, 1.1)

    def _retry_delay(self, backoff: float) -> float:
        # Never longer than a quarter of what is left, so that an outage shorter than the
        # passport's life never expires it for want of a try.
        delay = backoff * self._rng.uniform(0.9, 1.1)
        left = self._seconds_left()
        return max(min(delay, left / 4), self._pace.first_retry) if left > 0 else delay

    def _rested(self, started_ns: int, *, failed: bool) -> int:
        """When the next try may begin at the soonest, whoever wishes it."""
        now, pace = self._clock(), self._pace
        # A host that throttles shows as a quote that takes long among quick ones; what was slow
        # once is not taken for quick at once.
        self._took = max((now - started_ns) / 1e9, self._took / 2)
        rest = pace.quick_rest
        if not failed:
            rest = min(self._took * pace.rest, max(rest, self._took), pace.longest_rest)
        return max(started_ns + int(pace.closest * 1e9), now + int(rest * 1e9))

    async def _sleep(self) -> None:
        """Until it is time or somebody wishes it, and never too soon after the last try. Whoever
        wishes it before the next try begins is served by that one."""
        async with trio.open_nursery() as nursery:

            async def until_woken() -> None:
                await self._wake.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_woken)
            await self._until(self._next_ns)
            nursery.cancel_scope.cancel()
        await self._until(self._soonest_ns)
        self._wake = trio.Event()
        self._next_ns = 0

    async def _until(self, deadline_ns: int) -> None:
        await sleep_until(deadline_ns, clock=self._clock, look_seconds=self._look_seconds)
