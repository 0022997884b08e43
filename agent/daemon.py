"""The daemon: opens every part, ties them together, and ends them in order.

Lifetimes are nested. The journal outlives the stream and the local API, these outlive the gateway:

    journal ─ stream, local API, checkpoints ─ passport renewal, gateway, reload
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent import logs, setup
from agent.api import health, local_api
from agent.api.api import Api, Probes
from agent.api.authzen_api import AuthzenApi
from agent.api.policy_api import PolicyApi
from agent.attesting.attester import Attester, Issued, Stated
from agent.attesting.endorsing import endorsing
from agent.attesting.hardware_policy import hardware_policies
from agent.attesting.measuring import KernelRegister, Measurer, this_boot
from agent.attesting.platform import TeePlatform, find_platform
from agent.attesting.renewal import LATE_SECONDS, TRY_SECONDS, Renewal
from agent.boottime import ClockWatch, boot_ns
from agent.code_pages import CodePages
from agent.config import Config
from agent.custody import Custody
from agent.gateway.gateway_tls import GatewayTls
from agent.life import hang
from agent.life.lifecycle import Lifecycle, Part, Standing, State, Trouble, Weight
from agent.life.notify import Notifier
from agent.life.pulse import Pulse
from agent.life.supervise import Faults, keep_alive
from agent.life.watchdog import Freshness
from agent.policy.policies import Policies
from agent.quotes.line import QuoteLine
from agent.stream.status import StreamStatus
from attestation.errors import UncheckableError
from enforcement.gateway.gateway import GateState, Gateway
from enforcement.policy.bundle import Bundle
from enforcement.policy.rates import RateLimiter
from enforcement.snapshot import BundleView, Snapshot

if TYPE_CHECKING:
    from agent.stream.stream import ObserverStream

_LOG = logs.get("daemon")
CLOSE_SECONDS: Final = 10.0  # for the last commit and checkpoint, whatever else is cancelled
_OPEN: Final = GateState(open=True, code="", message="")


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
        self.config = config
        self.version = version
        self.notifier = notifier
        self.custody = custody
        self.clock = boot_ns
        self.faults = Faults()
        self.freshness = Freshness()
        self.quote_line = QuoteLine()
        self.lifecycle = Lifecycle(
            clock=self.clock,
            require_passport=config.gateway.require_valid_passport,
            changed=self._state_changed,
        )
        self.snapshot: Snapshot | None = None
        self.stream: ObserverStream | None = None
        self.policies: Policies
        self.tls: GatewayTls | None = None
        self.gateway_address = ""
        self._said_ready = False
        self._stopping = trio.Event()
        self._rates = RateLimiter()
        self._code_pages = CodePages()
        self._rng = random.Random(os.urandom(16))  # noqa: S311 - jitter, not a secret

    @property
    def stream_status(self) -> StreamStatus | None:
        """The stream's state; None where no Observer is configured."""
        return None if self.stream is None else self.stream.status

    def stop(self, reason: str) -> None:
        """Begin the end: called by a signal or a test."""
        self.lifecycle.stop(reason)
        self._stopping.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until SIGTERM, SIGINT or `stop`.

        Raises:
            FatalError: the daemon cannot start, or cannot go on.
        """
        config = self.config
        state_dir = setup.state_directory(Path(config.agent.state_dir))
        self.policies = Policies(
            config.policy,
            state_dir=state_dir,
            changed=self._policy_changed,
            shadow_changed=self._shadow_changed,
            admit=self._admit,
            faults=self.faults,
        )
        await trio.to_thread.run_sync(self.policies.start)
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
        gateway_socket = setup.listen(config.gateway.listen, table="gateway")
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
                await services.start(self.auditors.run)
                await services.start(self.identities.run)
                if hang.wanted(os.environ, simulated=platform.simulated):
                    services.start_soon(hang.hang_on_signal)
                kept = functools.partial(keep_alive, faults=self.faults, rng=self._rng)
                services.start_soon(kept, "pulse", self.pulse.run)
                services.start_soon(kept, "code_pages", self._code_pages.run)
                await self._serve_api(services, listener)
                await setup.check_auditors(self.auditors, self.policies.newest.bundle, wait=True)
                async with trio.open_nursery() as front:
                    front.start_soon(self._handle_signals)
                    front.start_soon(self.renewal.run)
                    front.start_soon(kept, "policy", self.policies.watch)
                    if self.tls is not None:
                        front.start_soon(kept, "tls", self.tls.watch)
                    await front.start(self.gateway.serve, [gateway_socket])
                    self.lifecycle.begin()
                    task_status.started()
                    await self._stopping.wait()
                    await self._drain()
                    front.cancel_scope.cancel()
                await self._deliver()
                services.cancel_scope.cancel()
        finally:
            setup.remove_socket(Path(config.api.socket))
            gateway_socket.close()
            self.notifier.close()
        _LOG.info("stopped", last_seq=self.journal.last_seq, durable_seq=self.journal.durable_seq)

    async def _serve_api(self, services: trio.Nursery, listener: trio.SocketListener) -> None:
        """On the socket everything; over TCP, where that is wanted, what anybody may know."""
        authzen = AuthzenApi(
            snapshot=self._current_snapshot, gate=self._gate, recorder=self.journal
        )
        policy = PolicyApi(self, may_push=self.config.policy.push)
        api = Api(self, self._challenge, policy, authzen)
        serve = functools.partial(local_api.serve, faults=self.faults)
        await services.start(serve, listener, api)
        if self.config.api.listen:
            probed = setup.listen(self.config.api.listen, table="api")
            tcp = trio.SocketListener(trio.socket.from_stdlib_socket(probed))
            await services.start(functools.partial(serve, anybody=True), tcp, Probes(api))

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
            hardware_policies=hardware_policies(config.tee),
        )

    def _open_doors(self) -> None:
        config = self.config
        self.auditors = setup.auditors(config)
        self.identities = setup.identities(config)
        self.tls = setup.gateway_tls(config)
        self.renewal = Renewal(
            issue=self._issue_current,
            lifecycle=self.lifecycle,
            clock=self.clock,
            rng=self._rng,
            dead=lambda: self.attester.quotes.dead,
            faults=self.faults,
            # A quote and what proves it, and the same for the challenge that was before.
            try_seconds=max(4 * config.tee.quote_seconds + LATE_SECONDS, TRY_SECONDS),
        )
        self.renewal.promise = self.freshness.part("renewal")
        self.journal.promise = self.freshness.part("journal")
        self.journal.faults = self.faults
        self.gateway = Gateway(
            config=setup.gateway_config(config),
            snapshot=self._current_snapshot,
            gate=self._gate,
            recorder=self.journal,
            identify=self.identities.identifier,
            watch=self.auditors.watch if config.auditors else None,
            passport=self._current_passport,
            tls=None if self.tls is None else self.tls.server,
        )
        self.gateway_metrics = self.gateway.metrics
        self.pulse = Pulse(
            lifecycle=self.lifecycle,
            clocks=ClockWatch(),
            notifier=self.notifier,
            jumped=self.renewal.renew_now,
            line=lambda: health.status_line(self.lifecycle.look(), self.clock),
            started=lambda: self._said_ready,
            late=self.freshness.late,
        )
        self.lifecycle.watch(self._journal_trouble)
        self.lifecycle.watch(self._policy_trouble)
        if self.tls is not None:
            self.lifecycle.watch(self.tls.trouble)
        if config.observer.target:
            from agent.stream.stream import ObserverStream  # noqa: PLC0415 - gRPC costs 10 MB of memory

            self.stream = ObserverStream(
                self.journal,
                target=setup.observer_target(config),
                agent_id=config.agent.id,
                version=self.version,
                key=self.attester.key,
                passport=lambda: self.journal.passport,
                state=lambda: self.lifecycle.look().state.value,
                faults=self.faults,
                rng=self._rng,
            )
            self.stream.promise = self.freshness.part("stream")
            self.lifecycle.watch(self.stream.trouble)

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
        async with self.quote_line.renewal():
            loaded = self.policies.newest
            bundle, engine = loaded.bundle, loaded.engine
            issued = await self.attester.issue(self._stated(bundle))
        another = self.snapshot is None or self.snapshot.bundle.digest != bundle.digest
        self.snapshot = Snapshot(
            engine=engine,
            bundle=bundle,
            passport_id=issued.passport_id,
            platform=issued.platform,
            agent_id=self.config.agent.id,
            auditors=self.auditors.for_bundle(bundle),
            rates=self._rates,
            shadow=self.policies.candidate.shadow,
        )
        self.journal.set_signer(self.attester.key, issued.token)
        await self.policies.came_into_force(loaded)
        if another:
            self._code_pages.ask()
        return issued

    async def _challenge(self, nonce: bytes, audience: str | None) -> bytes:
        """A fresh passport over a verifier's nonce. It replaces nothing, and renewals come first.

        Raises:
            ChallengeRefusedError: too many come; as `Attester.issue`.
        """
        self.attester.quotes.refuse_if_dead()
        async with self.quote_line.challenge():
            bundle = self._current_snapshot().bundle
            if self.attester.measure and bundle.digest != self.policies.newest.bundle.digest:
                # The register has the newest bundle as its last: to measure this one again, and
                # that one again after it, would fill it with what never came into force.
                raise UncheckableError(
                    "challenge.bundle_waits",
                    "a newer bundle was measured and is not in force yet",
                    remedy="ask again when it is: lucid-agent status says what it waits for",
                )
            stated = self._stated(bundle)
            return (await self.attester.issue(stated, nonce=nonce, audience=audience)).token

    def _current_passport(self) -> bytes | None:
        issued = self.renewal.current
        return issued.token if issued is not None else None

    def _current_snapshot(self) -> Snapshot:
        assert self.snapshot is not None, "the gate is closed until the first passport"
        return self.snapshot

    def _gate(self) -> GateState:
        """Asked for every request. A journal that cannot record refuses by itself."""
        if self.clock() < self.lifecycle.open_until_ns:
            return _OPEN
        state = self.lifecycle.look().state
        return GateState(
            open=False,
            code="attestation_expired" if state is State.EXPIRED else "not_ready",
            message=f"the agent is {state}",
        )

    # -- what the life cycle is told --------------------------------------------------------------

    def _journal_trouble(self) -> Trouble | None:
        problem = self.journal.problem
        if not problem:
            return None
        deny = self.config.journal.on_failure == "deny"
        return Trouble(
            part=Part.JOURNAL,
            weight=Weight.BLOCKS if deny else Weight.CONCERN,
            code="journal.failed",
            reason=problem,
            next="the commit is tried again every few seconds; until it succeeds "
            + ("requests are refused" if deny else "decisions may be lost, and are counted"),
        )

    def _policy_trouble(self) -> Trouble | None:
        newest, snapshot = self.policies.newest.bundle, self.snapshot
        dead = self.attester.quotes.dead
        if dead is not None and snapshot is not None and snapshot.bundle.digest != newest.digest:
            return Trouble(
                part=Part.POLICY,
                weight=Weight.CONCERN,
                code="policy.waits",
                reason=f"bundle {newest.name} {newest.version} ({newest.digest.hex()[:16]}…) cannot"
                " come into force: no passport can state it",
                next=f"{dead.remedy}; if the bundle in force must not decide any longer, stop the"
                " agent",
            )
        if not self.policies.problem:
            return None
        return Trouble(
            part=Part.POLICY,
            weight=Weight.CONCERN,
            code="policy.refused",
            reason=f"the bundle on disk was refused, the last good one stays in force:"
            f" {self.policies.problem}",
            next="correct the bundle; it is loaded when it changes, or on SIGHUP",
        )

    # -- signals, reload, stop --------------------------------------------------------------------

    async def _handle_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self.policies.reload_soon()  # a SIGTERM must not wait for it
                    if self.tls is not None:
                        self.tls.reload_soon()
                else:
                    self.stop(f"received {signal.Signals(number).name}")

    async def _admit(self, bundle: Bundle) -> None:
        """Whether somebody gives the claims that a bundle needs.

        Raises:
            FatalError: nobody does.
        """
        await setup.check_auditors(self.auditors, bundle, wait=False)

    def _policy_changed(self) -> None:
        self.renewal.renew_now("a new policy bundle")

    def _shadow_changed(self) -> None:
        if self.snapshot is not None:
            self.snapshot = dataclasses.replace(
                self.snapshot, shadow=self.policies.candidate.shadow
            )

    async def _drain(self) -> None:
        self.notifier.send("STOPPING=1", must=True)
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

    def _state_changed(self, standing: Standing, before: State) -> None:
        """The one place where a change is told to the log and the service manager."""
        level = _LOG.info if standing.ready else _LOG.warning
        level(
            "state.changed",
            state=standing.state.value,
            before=before.value,
            reason=standing.reason,
            next=standing.next,
        )
        lines = [f"STATUS={health.status_line(standing, self.clock)}"]
        if standing.ready and not self._said_ready:
            self._said_ready = True
            _settle_memory()
            lines.insert(0, "READY=1")
            _LOG.info(
                "serving",
                gateway=f"{'http' if self.tls is None else 'https'}://{self.gateway_address}",
                upstream=self.config.gateway.upstream,
                socket=self.config.api.socket,
                policy=self.policies.newest.bundle.name,
            )
        self.notifier.send(*lines, must=lines[0] == "READY=1")


def _settle_memory() -> None:
    """What start-up made stays to the end: collections need not walk through it again. One that
    does stops every exchange for 35 ms, as measured.
    """
    gc.collect()
    gc.freeze()
