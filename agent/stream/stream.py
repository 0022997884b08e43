"""Delivers the journal to the Observer, at least once, for as long as the daemon lives.

Everything the journal holds and the Observer has not acknowledged is sent, oldest boot first. The
Observer being away costs disk, never a decision. Threads: the gRPC bridge's two and one reader of
the journal's file; none outlives its stream.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent import logs
from agent.journal import Journal
from agent.journal.reader import JournalReader
from agent.life.lifecycle import Part, Trouble, Weight
from agent.life.supervise import Faults, first_of
from agent.life.watchdog import REST, Promise, no_promise
from agent.stream.grpc_bridge import open_bidi, open_channel
from agent.stream.protocol import StreamClosedError
from agent.stream.session import Session
from agent.stream.status import StreamStatus, Target
from attestation.panics import FaultsEndHere

METHOD: Final = "/lucid.observer.v1.Observer/Stream"
FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 60.0
ALARM_RETRY_SECONDS: Final = 60.0
OPEN_SECONDS: Final = 180.0  # TLS files, a large journal to look through, the Hello (a guess)
STEADY_SECONDS: Final = 5.0  # a stream that lived this long ends the trouble before it (a guess)
AWAY_SECONDS: Final = 15.0  # an Observer may restart in this time without anybody's concern

_LOG = logs.get("stream")


class ObserverStream:
    """One agent's stream. `run` lives until cancelled."""

    def __init__(
        self,
        journal: Journal,
        *,
        target: Target,
        agent_id: str,
        version: str,
        key: ec.EllipticCurvePrivateKey,
        passport: Callable[[], bytes | None],
        state: Callable[[], str],
        faults: Faults,
        rng: random.Random,
    ) -> None:
        self.journal = journal
        self.target = target
        self.agent_id = agent_id
        self.version = version
        self.key = key
        self.passport = passport
        self.state = state
        self._faults = faults
        self._rng = rng
        self.finish = trio.Event()
        self.finished = trio.Event()
        self.promise: Promise = (
            no_promise  # how long until the next sign of life (`agent.life.watchdog`)
        )
        self.aside: set[bytes] = set()  # earlier boots that the Observer did not take
        self.attempts = 0  # streams of this process; part of the epoch, so that the newest wins
        self.status = StreamStatus(durable=lambda: journal.durable_seq, older=journal.older)

    async def run(self) -> None:
        """Connect, deliver, connect again with back-off. No fault but a cancellation ends it."""
        status, retry = self.status, FIRST_RETRY_SECONDS
        status.away_since = trio.current_time()
        while not self._over():
            before = status.acked_seq
            wait = 0.0
            self.attempts += 1
            with FaultsEndHere(self._fault):  # decisions go on without an Observer
                try:
                    self.promise(REST)
                    await self._passport_ready()
                    self.promise(OPEN_SECONDS)
                    await self._stream()
                except* StreamClosedError as group:
                    wait = self._closed(group)
                except* (OSError, ValueError) as group:  # TLS files, a broken address
                    self.problem(f"cannot connect: {first_of(group)}")
                except* sqlite3.Error as group:
                    self.problem(f"the journal cannot be read: {first_of(group)}")
            lived = status.disconnected(trio.current_time())
            if self._over():
                return
            if status.acked_seq > before or lived >= STEADY_SECONDS:
                retry = FIRST_RETRY_SECONDS
            if not wait:
                wait, retry = retry * self._rng.uniform(0.5, 1.0), retry * 2
                retry = min(retry, LONGEST_RETRY_SECONDS)
            status.next_try = trio.current_time() + wait
            self.promise(wait + OPEN_SECONDS)
            if await self._slept(wait):
                retry = FIRST_RETRY_SECONDS

    def trouble(self) -> Trouble | None:
        """What the life cycle is told: the Observer refuses, or has been away for a while."""
        status, now = self.status, trio.current_time()
        if status.connected and now - status.connected_since >= STEADY_SECONDS:
            status.refused = ""
            return None
        away = now - status.away_since
        if not status.refused and (status.connected or away < AWAY_SECONDS):
            return None
        if self.finish.is_set():
            following = (
                "delivery is tried until the agent ends; the"
                f" {status.lag} decisions that are not delivered stay in the journal, and the next"
                " start delivers them"
            )
        else:
            following = (
                f"the stream is tried again in {max(status.next_try - now, 0.0):.0f} s; the journal"
                f" keeps the {status.lag} decisions that are not delivered"
            )
        return Trouble(
            part=Part.OBSERVER,
            weight=Weight.CONCERN,
            code=f"observer.{status.refused}" if status.refused else "observer.away",
            reason=status.problem or "the stream has just begun again",
            next=following,
        )

    async def delivered(self) -> None:
        """Ask for the end: returns when everything durable is acknowledged and checkpointed, or
        where trying will not help. What is not delivered (`status.lag`) stays in the journal, and
        the next start delivers it. The caller bounds the time.
        """
        self.finish.set()
        self.journal.announce()
        if self.status.connected or self._hope:
            await self.finished.wait()
        else:
            await trio.lowlevel.checkpoint()

    def _over(self) -> bool:
        if self.finish.is_set() and not self._hope:
            self.finished.set()
        return self.finished.is_set()

    @property
    def _hope(self) -> bool:
        """Whether another stream before the end can deliver anything: there is something, a
        passport to show, and an Observer that has not refused."""
        status = self.status
        return bool(status.lag and self.passport() is not None and not status.refused)

    async def _slept(self, seconds: float) -> bool:
        """Wait for the next try; True: the end was asked for, which is tried without waiting."""
        if self.finish.is_set():
            await trio.sleep(seconds)
            return False
        with trio.move_on_after(seconds):
            await self.finish.wait()
            return True
        return False

    def _closed(self, group: BaseExceptionGroup[StreamClosedError]) -> float:
        error = first_of(group)
        assert isinstance(error, StreamClosedError)
        self.problem(str(error))
        if error.alarm:
            self.status.alarms += 1
            self.status.alarm = f"{error.code}: {error}"
            self.status.refused = error.code
            _LOG.error("stream.alarm", code=error.code, error=str(error))
            return ALARM_RETRY_SECONDS * self._rng.uniform(0.9, 1.1)
        return error.retry_after

    def _fault(self, error: BaseException) -> None:
        self.problem(f"a fault of the agent itself: {self._faults.note('stream', error)}")

    def problem(self, text: str) -> None:
        """Why there is no stream (any more)."""
        if text != self.status.problem:
            _LOG.warning("stream.ended", error=text, lag=self.status.lag)
        self.status.problem = text

    async def _passport_ready(self) -> None:
        while self.passport() is None:
            event = trio.Event()
            with self.journal.subscribed(event.set):
                await event.wait()

    async def _stream(self) -> None:
        channel = await trio.to_thread.run_sync(open_channel, self.target)
        try:
            reader = await trio.to_thread.run_sync(JournalReader, self.journal.path)
            try:
                async with open_bidi(channel, METHOD) as bidi:
                    session = Session(self, bidi, reader)
                    await session.run()
            finally:
                reader.close()
        finally:
            channel.close()
