"""The daemon: opens every part, ties them together, and ends them in order.

Lifetimes are nested. The journal outlives the stream and the local API, these outlive the gateway:

    journal ─ stream, local API, checkpoints ─ passport renewal, gateway, reload
"""

from __future__ import annotations

import functools
import gc
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from agent import health, local_api, logs, setup
from agent.api import Api
from agent.attester import Attester, Issued, Stated
from agent.boottime import boot_ns
from agent.config import Config
from agent.endorsing import endorsing
from agent.errors import FatalError
from agent.identity import Identifier
from agent.lifecycle import Event, Lifecycle
from agent.measuring import KernelRegister, Measurer, this_boot
from agent.metrics import Exposition
from agent.notify import Notifier
from agent.platform import TeePlatform, find_platform
from agent.renewal import Renewal
from agent.stream import ObserverStream, StreamStatus
from enforcement.bundle import Bundle
from enforcement.engine import Engine
from enforcement.gateway import GateState, Gateway
from enforcement.snapshot import BundleView, Snapshot

_LOG = logs.get("daemon")
CLOSE_SECONDS: Final = 10.0  # for the last commit and checkpoint, whatever else is cancelled


class Daemon:
    """One agent, from start to stop. `run` is called once."""

    def __init__(self, config: Config, *, version: str, notifier: Notifier) -> None:
        self.config = config
        self.version = version
        self.clock = boot_ns
        self.lifecycle = Lifecycle(clock=self.clock, changed=self._state_changed)
        self.snapshot: Snapshot | None = None
        self.stream: ObserverStream | None = None
        self.reload_failures = 0
        self.gateway_address = ""
        self._notifier = notifier
        self._said_ready = False
        self._pending: tuple[Bundle, Engine]
        self._stopping = trio.Event()

    @property
    def stream_status(self) -> StreamStatus | None:
        """The stream's state; None where no Observer is configured."""
        return None if self.stream is None else self.stream.status

    def stop(self, reason: str) -> None:
        """Begin the end: called by a signal or a test."""
        self.lifecycle.happen(Event.STOP, reason)
        self._stopping.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until SIGTERM, SIGINT or `stop`.

        Raises:
            FatalError: the daemon cannot start, or cannot go on.
        """
        config = self.config
        state_dir = setup.state_directory(Path(config.agent.state_dir))
        self._pending = await trio.to_thread.run_sync(setup.load_bundle, Path(config.policy.bundle))
        now = datetime.now(UTC)
        platform = await trio.to_thread.run_sync(functools.partial(find_platform, config, now=now))
        self._open(platform)
        if config.tee.extend_rtmr3:
            register = KernelRegister(Path(config.tee.measurements_path))
            measurer = Measurer(register, state_dir / "rtmr3.json", boot=this_boot())
            self.attester.measure = measurer.measure
        self.journal = await trio.to_thread.run_sync(
            setup.open_journal, config, state_dir, self.attester.boot_seed
        )
        self._open_doors()
        gateway_socket = setup.listen(config.gateway.listen)
        self.gateway_address = "{}:{}".format(*gateway_socket.getsockname()[:2])
        listener = local_api.bind(Path(config.api.socket))
        try:
            async with (
                self._journaling(),
                endorsing(config, platform) as self.attester.complete,
                trio.open_nursery() as services,
            ):
                if self.stream is not None:
                    services.start_soon(self.stream.run)
                api = Api(self, Exposition(lambda: health.metrics(self)), self._challenge)
                await services.start(local_api.serve, listener, api)
                async with trio.open_nursery() as front:
                    front.start_soon(self._handle_signals)
                    front.start_soon(self.renewal.run)
                    await front.start(self.gateway.serve, [gateway_socket])
                    self.lifecycle.happen(Event.BEGIN, "asking for the first quote")
                    task_status.started()
                    await self._stopping.wait()
                    await self._drain()
                    front.cancel_scope.cancel()
                await self._deliver()
                services.cancel_scope.cancel()
        finally:
            setup.remove_socket(Path(config.api.socket))
            gateway_socket.close()
            self._notifier.close()
        _LOG.info("stopped", last_seq=self.journal.last_seq, durable_seq=self.journal.durable_seq)

    # -- parts ------------------------------------------------------------------------------------

    def _open(self, platform: TeePlatform) -> None:
        config = self.config
        self.attester = Attester(
            platform=platform,
            agent_id=config.agent.id,
            issuer=config.passport.issuer,
            tenant=config.passport.tenant,
            lifetime=config.passport.lifetime_seconds,
            version=self.version,
            quote_seconds=config.tee.quote_seconds,
        )

    def _open_doors(self) -> None:
        config = self.config
        self.renewal = Renewal(
            issue=self._issue_current,
            lifecycle=self.lifecycle,
            clock=self.clock,
            rng=random.Random(os.urandom(16)),  # noqa: S311 - jitter, not a secret
        )
        self.gateway = Gateway(
            config=setup.gateway_config(config),
            snapshot=self._current_snapshot,
            gate=self._gate,
            recorder=self.journal,
            identify=Identifier(config.identity),
            passport=self._current_passport,
        )
        self.gateway_metrics = self.gateway.metrics
        if config.observer.target:
            self.stream = ObserverStream(
                self.journal,
                target=setup.observer_target(config),
                agent_id=config.agent.id,
                version=self.version,
                key=self.attester.key,
                passport=self._current_passport,
                state=lambda: self.lifecycle.state.value,
                rng=random.Random(os.urandom(16)),  # noqa: S311 - jitter, not a secret
            )

    @asynccontextmanager
    async def _journaling(self) -> AsyncIterator[None]:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.journal.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await self.journal.close()

    # -- attestation ------------------------------------------------------------------------------

    def _stated(self, bundle: BundleView) -> Stated:
        return Stated(
            bundle=(bundle.name, bundle.version, bundle.digest),
            journal_head=self.journal.head,
            journal_seq=self.journal.durable_seq,
            counters=self.gateway.metrics.by_outcome(),
        )

    async def _issue_current(self) -> Issued:
        """A passport over the newest bundle; bundle and passport take effect together."""
        bundle, engine = self._pending
        issued = await self.attester.issue(self._stated(bundle))
        self.snapshot = Snapshot(
            engine=engine,
            bundle=bundle,
            passport_id=issued.passport_id,
            platform=issued.platform,
            agent_id=self.config.agent.id,
        )
        self.journal.set_signer(self.attester.key, issued.token)
        return issued

    async def _challenge(self, nonce: bytes, audience: str | None) -> bytes:
        """A fresh passport over a verifier's nonce. It replaces nothing."""
        stated = self._stated(self._current_snapshot().bundle)
        return (await self.attester.issue(stated, nonce=nonce, audience=audience)).token

    def _current_passport(self) -> bytes | None:
        issued = self.renewal.current
        return issued.token if issued is not None else None

    def _current_snapshot(self) -> Snapshot:
        assert self.snapshot is not None, "the gate is closed until the first passport"
        return self.snapshot

    def _gate(self) -> GateState:
        if self.snapshot is None or not self.lifecycle.serves.gateway:
            closed = self.lifecycle.state.value
            expired = closed == "expired" and not self.config.gateway.require_valid_passport
            if self.snapshot is None or not expired:
                code = "attestation_expired" if closed == "expired" else "not_ready"
                return GateState(open=False, code=code, message=f"the agent is {closed}")
        elif self.config.gateway.require_valid_passport and not self.renewal.valid:
            return GateState(
                open=False, code="attestation_expired", message="the agent's passport has ended"
            )
        return GateState(open=True, code="", message="")

    # -- signals, reload, stop --------------------------------------------------------------------

    async def _handle_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    await self.reload()
                else:
                    self.stop(f"received {signal.Signals(number).name}")

    async def reload(self) -> None:
        """Load the bundle again. What is broken changes nothing but a counter and the log."""
        path = Path(self.config.policy.bundle)
        try:
            bundle, engine = await trio.to_thread.run_sync(setup.load_bundle, path)
        except FatalError as error:
            self.reload_failures += 1
            _LOG.error(
                "policy.reload_refused", error=str(error), kept=self._pending[0].digest.hex()
            )
            return
        if bundle.digest == self._pending[0].digest:
            _LOG.info("policy.unchanged", digest=bundle.digest.hex())
            return
        self._pending = bundle, engine
        _LOG.info("policy.loaded", name=bundle.name, digest=bundle.digest.hex())
        self.renewal.renew_now()

    async def _drain(self) -> None:
        self._notifier.send("STOPPING=1", "STATUS=stopping: finishing open requests")
        self.gateway.stop_accepting()
        with trio.move_on_after(self.config.agent.stop_seconds / 2) as scope:
            await self.gateway.drained()
        if scope.cancelled_caught:
            _LOG.warning("gateway.cut", connections=self.gateway.metrics.connections)

    async def _deliver(self) -> None:
        await self.journal.checkpoint()
        if self.stream is not None:
            with trio.move_on_after(self.config.agent.stop_seconds / 2) as scope:
                await self.stream.delivered()
            if scope.cancelled_caught:
                _LOG.warning("stream.undelivered", lag=self.stream.status.lag)

    def _state_changed(self) -> None:
        lifecycle = self.lifecycle
        if lifecycle.serves.ready and not self._said_ready:
            self._said_ready = True
            _settle_memory()
            self._notifier.send("READY=1", f"STATUS={lifecycle.state}")
            _LOG.info(
                "serving",
                gateway=f"http://{self.gateway_address}",
                upstream=self.config.gateway.upstream,
                socket=self.config.api.socket,
                policy=self._pending[0].name,
            )
        else:
            self._notifier.send(f"STATUS={lifecycle.state}: {lifecycle.reason}")


def _settle_memory() -> None:
    """What start-up made stays to the end: collections need not walk through it again. One that
    does stops every exchange for 35 ms, as measured.
    """
    gc.collect()
    gc.freeze()
