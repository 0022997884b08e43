"""The daemon: what is started in which order, whose task is whose, and how it ends.

Lifetimes are nested; the inner ones end first:

    run        signals, pulse                       from the first moment to the last
    └ journal  the writer                           closed when all that records has ended
      └ services  stream, auditors, issuers' keys,  they outlive the gateway, whose last
        │         code pages, local API             decisions are delivered and looked at
        └ front   renewal, policy, TLS, gateway     until SIGTERM, and until open requests end

A stop that comes before all of this has begun cancels what has; one that comes later goes through
`agent.ending`.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from agent import ending, logs, setup
from agent.api import local_api
from agent.api.api import Api, Probes
from agent.api.authzen_api import AuthzenApi
from agent.api.policy_api import PolicyApi
from agent.attesting.endorsing import endorsing
from agent.config import Config
from agent.custody import Custody
from agent.life import hang
from agent.life.notify import Notifier
from agent.life.supervise import keep_alive
from agent.parts import Parts

_LOG = logs.get("daemon")
CLOSE_SECONDS: Final = 10.0  # for the last commit and checkpoint, whatever else is cancelled
STOP: Final = (signal.SIGTERM, signal.SIGINT)


class Daemon:
    """One agent, from start to stop. `run` is called once."""

    def __init__(
        self,
        config: Config,
        *,
        version: str,
        notifier: Notifier,
        custody: Custody | None = None,
    ) -> None:
        self.parts = Parts(config, version=version, notifier=notifier, custody=custody)
        self._kept = functools.partial(keep_alive, faults=self.parts.faults, rng=self.parts.rng)
        self._begun = False
        self._stopping = trio.Event()
        self._life = trio.CancelScope()

    def stop(self, reason: str) -> None:
        """Begin the end: called by a signal or a test. What comes again changes nothing."""
        if not self._stopping.is_set():
            self.parts.announcer.stopping()
        self.parts.lifecycle.stop(reason)
        self._stopping.set()
        if not self._begun:
            self._life.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until SIGTERM, SIGINT or `stop`.

        Raises:
            FatalError: the daemon cannot start, or cannot go on. Perhaps in a group.
        """
        parts = self.parts
        try:
            # To the very end: a second SIGTERM, or a SIGHUP, must not kill what is being closed.
            with trio.open_signal_receiver(*STOP, signal.SIGHUP) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals)
                    nursery.start_soon(self._kept, "pulse", parts.pulse.run)
                    with self._life:
                        await parts.open()
                        await self._live(task_status)
                    nursery.cancel_scope.cancel()
        finally:
            parts.close()
            parts.notifier.close()
        if parts.opened:
            seqs = {"last_seq": parts.journal.last_seq, "durable_seq": parts.journal.durable_seq}
            _LOG.info("stopped", **seqs)
        else:
            _LOG.info("stopped", note="before it had started")

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self.parts.reload_soon()  # a SIGTERM must not wait for it
            elif self._stopping.is_set():
                _LOG.info("stop.again", signal=signal.Signals(number).name)
            else:
                self.stop(f"received {signal.Signals(number).name}")

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        parts = self.parts
        async with (
            self._journaling(),
            endorsing(
                parts.config, parts.platform, parts.attester.hardware_policies
            ) as parts.attester.complete,
            trio.open_nursery() as services,
        ):
            await self._start_services(services)
            await setup.check_auditors(parts.auditors, parts.policies.newest.bundle, wait=True)
            async with trio.open_nursery() as front:
                await self._start_front(front)
                self._begun = True
                parts.lifecycle.begin()
                task_status.started()
                await self._stopping.wait()
                share = parts.config.agent.stop_seconds / 2
                await ending.drain(parts.gateway, seconds=share)
                front.cancel_scope.cancel()
            await ending.deliver(parts.journal, parts.stream, parts.lifecycle, seconds=share)
            services.cancel_scope.cancel()

    @asynccontextmanager
    async def _journaling(self) -> AsyncIterator[None]:
        journal = self.parts.journal
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(journal.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await journal.close()

    async def _start_services(self, services: trio.Nursery) -> None:
        parts = self.parts
        if parts.stream is not None:
            services.start_soon(parts.stream.run)
        await services.start(parts.auditors.run)
        await services.start(parts.identities.run)
        if hang.wanted(os.environ, simulated=parts.platform.simulated):
            services.start_soon(hang.hang_on_signal)
        services.start_soon(self._kept, "code_pages", parts.code_pages.run)
        await self._start_api(services)

    async def _start_api(self, services: trio.Nursery) -> None:
        """On the socket everything; over TCP, where that is wanted, what anybody may know."""
        parts, config = self.parts, self.parts.config
        authzen = AuthzenApi(
            snapshot=parts.in_force.current, gate=parts.gate, recorder=parts.journal
        )
        policy = PolicyApi(parts, may_push=config.policy.push)
        api = Api(parts, parts.in_force.challenge, policy, authzen)
        serve = functools.partial(local_api.serve, faults=parts.faults)
        await services.start(serve, parts.api_listener, api)
        if config.api.listen:
            probed = setup.listen(config.api.listen, table="api")
            tcp = trio.SocketListener(trio.socket.from_stdlib_socket(probed))
            await services.start(functools.partial(serve, anybody=True), tcp, Probes(api))

    async def _start_front(self, front: trio.Nursery) -> None:
        parts = self.parts
        front.start_soon(parts.renewal.run)
        front.start_soon(self._kept, "policy", parts.policies.watch)
        if parts.tls is not None:
            front.start_soon(self._kept, "tls", parts.tls.watch)
        await front.start(parts.gateway.serve, [parts.gateway_socket])
