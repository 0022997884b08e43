"""Who has a quote made next: the renewal before every challenge, and of challenges only so many.

Quotes are made one after another, and one that was begun cannot be taken back: a TDX guest needs a
second for it, a throttled SEV-SNP guest up to a minute. The renewal waits for that one at most.
Challenges come from whomever the local API lets in, as many as they like; so they have a rate, a
line that is not longer than this, and a time after which nobody waits in it any more. Whoever is
refused is told when to come again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from attestation.panics import is_fault

OUTCOMES: Final = ("answered", "failed", "full", "late", "limited")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of challenges. All of them guesses.

    Attributes:
        waiting: how many may wait. The local API has places for four times as many connections,
            so that probes are answered whatever challenges do.
        seconds: how long one may wait.
        burst, per_second: the rate. Half of what the quote helper allows (`agent.quotes.limit`), so
            that the renewal always finds a quote left there.
    """

    waiting: int = 16
    seconds: float = 30.0
    burst: float = 10.0
    per_second: float = 0.5


class ChallengeRefusedError(Exception):
    """No quote is made for this challenge; a later one may be answered.

    Attributes:
        outcome: `full`, `late` or `limited`.
        retry_seconds: when to come again.
    """

    def __init__(self, outcome: str, message: str, *, retry_seconds: float) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.retry_seconds = retry_seconds


class QuoteLine:
    """The line before the platform. Used from one thread.

    Attributes:
        outcomes: of challenges, by (one of OUTCOMES,).
    """

    def __init__(self, bounds: Bounds = Bounds()) -> None:
        self._bounds = bounds
        self._busy = False
        self._renewals, self._challenges = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
        self._tokens, self._as_of = bounds.burst, 0.0
        self.outcomes: dict[tuple[str, ...], int] = {(outcome,): 0 for outcome in OUTCOMES}

    @property
    def waiting(self) -> int:
        """Challenges that wait for their turn."""
        return len(self._challenges)

    @asynccontextmanager
    async def renewal(self) -> AsyncIterator[None]:
        """The turn, before every challenge that waits."""
        await self._enter(self._renewals)
        try:
            yield
        finally:
            self._leave()

    @asynccontextmanager
    async def challenge(self) -> AsyncIterator[None]:
        """The turn, after those that came before.

        Raises:
            ChallengeRefusedError: too many came lately, too many wait, or it waited too long.
        """
        await self._wait()
        try:
            yield
        except BaseException as error:
            if is_fault(error):
                self._count("failed")
            raise
        else:
            self._count("answered")
        finally:
            self._leave()

    async def _wait(self) -> None:
        bounds = self._bounds
        if self.waiting >= bounds.waiting:
            raise self._refused("full", f"{self.waiting} challenges wait already", bounds.seconds)
        if (missing := 1.0 - self._refill()) > 0:
            text = "too many challenges came lately"
            raise self._refused("limited", text, missing / bounds.per_second)
        self._tokens -= 1.0
        with trio.move_on_after(bounds.seconds):
            await self._enter(self._challenges)
            return
        text = f"its turn did not come within {bounds.seconds:g} seconds"
        raise self._refused("late", text, bounds.seconds)

    def _refill(self) -> float:
        now, bounds = trio.current_time(), self._bounds
        gained = (now - self._as_of) * bounds.per_second
        self._tokens, self._as_of = min(self._tokens + gained, bounds.burst), now
        return self._tokens

    def _refused(self, outcome: str, text: str, retry_seconds: float) -> ChallengeRefusedError:
        self._count(outcome)
        return ChallengeRefusedError(outcome, text, retry_seconds=retry_seconds)

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome,] += 1

    async def _enter(self, lot: trio.lowlevel.ParkingLot) -> None:
        if self._busy:
            await lot.park()  # whoever leaves hands the turn over
        else:
            self._busy = True
            # Nobody else comes between: a checkpoint that is cancelled gives the turn back.
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                self._leave()
                raise

    def _leave(self) -> None:
        for lot in (self._renewals, self._challenges):
            if lot:
                lot.unpark()
                return
        self._busy = False
