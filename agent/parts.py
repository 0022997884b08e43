"""What an agent consists of, opened in the order in which one part needs another.

Nothing runs here: whose task is whose, and what outlives what, is in `agent.daemon`.
"""

from __future__ import annotations

import functools
import os
import random
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from agent import setup
from agent.announcing import Announcer
from agent.api import health, local_api
from agent.api.policy_api import Obstacle
from agent.attesting.attester import Attester
from agent.attesting.hardware_policy import hardware_policies
from agent.attesting.measuring import KernelRegister, Measurer, this_boot
from agent.attesting.platform import TeePlatform, find_platform
from agent.attesting.renewal import LATE_SECONDS, TRY_SECONDS, Renewal
from agent.boottime import ClockWatch, boot_ns
from agent.claim import Claim
from agent.code_pages import CodePages
from agent.config import Config
from agent.custody import Custody
from agent.gateway.gate import gate_of
from agent.gateway.gateway_tls import GatewayTls
from agent.gateway.identities import Identities
from agent.in_force import OR_STOP, InForce
from agent.journal import Journal
from agent.life.lifecycle import Lifecycle, Part
from agent.life.notify import Notifier
from agent.life.pulse import Pulse
from agent.life.supervise import Faults
from agent.life.watchdog import REST, Freshness
from agent.policy.policies import Policies
from agent.quotes.line import QuoteLine
from agent.stream.status import StreamStatus
from enforcement.auditors.panel import AuditorService
from enforcement.gateway.gateway import Gateway
from enforcement.http.metrics import GatewayMetrics
from enforcement.policy.bundle import Bundle
from enforcement.snapshot import Snapshot

if TYPE_CHECKING:
    from agent.stream.stream import ObserverStream

STEP_SECONDS: Final = 120.0  # a step of the start that takes longer hangs (a guess)

T = TypeVar("T")


class Parts:
    """The parts. Those without a value in the constructor are there after `open`."""

    platform: TeePlatform
    attester: Attester
    journal: Journal
    auditors: AuditorService
    identities: Identities
    gateway: Gateway
    in_force: InForce
    renewal: Renewal
    gateway_socket: socket.socket
    api_listener: trio.SocketListener

    def __init__(
        self, config: Config, *, version: str, notifier: Notifier, custody: Custody | None
    ) -> None:
        """What needs no file, no device and no address."""
        self.config = config
        self.version = version
        self.notifier = notifier
        self.custody = custody
        self.clock = boot_ns
        self.rng = random.Random(os.urandom(16))  # noqa: S311 - jitter, not a secret
        self.faults = Faults()
        self.freshness = Freshness()
        self.quote_line = QuoteLine()
        self.code_pages = CodePages()
        self.announcer = Announcer(notifier, clock=self.clock, serving=self._serving)
        self.lifecycle = Lifecycle(
            clock=self.clock,
            require_passport=config.gateway.require_valid_passport,
            changed=self.announcer.changed,
        )
        self.gate = gate_of(self.lifecycle, self.clock)
        self.pulse = Pulse(
            lifecycle=self.lifecycle,
            clocks=ClockWatch(),
            notifier=notifier,
            jumped=self._clock_jumped,
            line=lambda: health.status_line(self.lifecycle.look(), self.clock),
            started=lambda: self.announcer.said_ready,
            late=self.freshness.late,
        )
        self.policies = Policies(
            config.policy,
            state_dir=Path(config.agent.state_dir),
            changed=self._policy_changed,
            shadow_changed=self._shadow_changed,
            admit=self._admit,
            faults=self.faults,
        )
        self.tls: GatewayTls | None = None
        self.stream: ObserverStream | None = None
        self.gateway_address = ""
        self.opened = False
        self._claim: Claim | None = None
        self._start = self.freshness.part("start")

    async def open(self) -> None:
        """Open them all.

        Raises:
            FatalError: one cannot be opened; says which, and what to do.
        """
        config = self.config
        setup.descriptors(config)
        state_dir = setup.state_directory(Path(config.agent.state_dir))
        self._claim = Claim.on(state_dir, agent_id=config.agent.id)
        await self._step(self.policies.start)
        now = datetime.now(UTC)
        self.platform = await self._step(functools.partial(find_platform, config, now=now))
        self._open_attester(state_dir)
        self.journal = await self._step(
            functools.partial(
                setup.open_journal,
                config,
                state_dir,
                self.attester.boot_seed,
                still_there=lambda: self._start(STEP_SECONDS),
            )
        )
        self.auditors = setup.auditors(config)
        self.identities = setup.identities(config)
        self.tls = setup.gateway_tls(config)
        self._open_gateway()
        if config.observer.target:
            self._open_stream()
        self._watch()
        self._open_sockets()
        self.opened = True
        self._start(REST)

    async def _step(self, work: Callable[[], T]) -> T:
        """A piece of the start, in a thread. A stop does not wait for it: what it writes is written
        as if the machine could fail at any moment."""
        self._start(STEP_SECONDS)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    def close(self) -> None:
        """Close what the tasks did not."""
        if self.opened:
            setup.remove_socket(Path(self.config.api.socket), self._socket)
            self.gateway_socket.close()
        if self._claim is not None:
            self._claim.close()

    # -- one part after the other -----------------------------------------------------------------

    def _open_attester(self, state_dir: Path) -> None:
        config = self.config
        self.attester = Attester(
            platform=self.platform,
            agent_id=config.agent.id,
            issuer=config.passport.issuer,
            tenant=config.passport.tenant,
            lifetime=config.passport.lifetime_seconds,
            version=self.version,
            quote_seconds=config.tee.quote_seconds,
            hardware_policies=hardware_policies(config.tee),
        )
        if config.tee.extend_rtmr3:
            register = KernelRegister(Path(config.tee.measurements_path))
            measurer = Measurer(register, state_dir / "rtmr3.json", boot=this_boot())
            self.attester.measure = measurer.measure

    def _open_gateway(self) -> None:
        """What decides, the gateway that asks it, and who renews the passport."""
        config = self.config
        self.in_force = InForce(
            agent_id=config.agent.id,
            attester=self.attester,
            policies=self.policies,
            journal=self.journal,
            quote_line=self.quote_line,
            auditors=self.auditors,
            counters=self._counters,
            changed=self.code_pages.ask,
        )
        self.gateway = Gateway(
            config=setup.gateway_config(config),
            snapshot=self.in_force.current,
            gate=self.gate,
            recorder=self.journal,
            identify=self.identities.identifier,
            watch=self.auditors.watch if config.auditors else None,
            passport=self._current_passport,
            tls=None if self.tls is None else self.tls.server,
        )
        self.renewal = Renewal(
            issue=self.in_force.issue,
            lifecycle=self.lifecycle,
            clock=self.clock,
            rng=self.rng,
            dead=lambda: self.attester.quotes.dead,
            faults=self.faults,
            # A quote and what proves it, and the same for the challenge that was before.
            try_seconds=max(4 * config.tee.quote_seconds + LATE_SECONDS, TRY_SECONDS),
        )

    def _open_stream(self) -> None:
        from agent.stream.stream import ObserverStream  # noqa: PLC0415 - gRPC costs 10 MB of memory

        self.stream = ObserverStream(
            self.journal,
            target=setup.observer_target(self.config),
            agent_id=self.config.agent.id,
            version=self.version,
            key=self.attester.key,
            passport=lambda: self.journal.passport,
            state=lambda: self.lifecycle.look().state.value,
            faults=self.faults,
            rng=self.rng,
        )

    def _watch(self) -> None:
        """Who promises to say something again, and whose trouble is asked for."""
        self.journal.faults = self.faults
        self.renewal.promise = self.freshness.part("renewal")
        self.journal.promise = self.freshness.part("journal")
        self.lifecycle.watch(self.journal.trouble)
        self.lifecycle.watch(self.in_force.trouble)
        if self.tls is not None:
            self.lifecycle.watch(self.tls.trouble)
        if self.stream is not None:
            self.stream.promise = self.freshness.part("stream")
            self.lifecycle.watch(self.stream.trouble)

    def _open_sockets(self) -> None:
        self.gateway_socket = setup.listen(self.config.gateway.listen, table="gateway")
        self.gateway_address = "{}:{}".format(*self.gateway_socket.getsockname()[:2])
        try:
            path = Path(self.config.api.socket)
            self.api_listener = local_api.bind(path)
            self._socket = path.lstat()
        except BaseException:
            self.gateway_socket.close()
            raise

    # -- what one part tells another --------------------------------------------------------------

    def reload_soon(self) -> None:
        """Read the policy bundle and the TLS files again (SIGHUP). A start reads them anyway."""
        self.policies.reload_soon()
        if self.tls is not None:
            self.tls.reload_soon()

    def _clock_jumped(self, why: str) -> None:
        if self.opened:
            self.renewal.renew_now(why)

    def _policy_changed(self) -> None:
        self.renewal.renew_now("a new policy bundle")

    def _shadow_changed(self) -> None:
        self.in_force.shadow_changed()

    async def _admit(self, bundle: Bundle) -> None:
        """Whether somebody gives the claims that a bundle needs; raises FatalError: nobody does."""
        await setup.check_auditors(self.auditors, bundle, wait=False)

    def _counters(self) -> dict[str, int]:
        return self.gateway.metrics.by_outcome()

    def _current_passport(self) -> bytes | None:
        issued = self.renewal.current
        return issued.token if issued is not None else None

    def _serving(self) -> dict[str, str]:
        return {
            "gateway": f"{'http' if self.tls is None else 'https'}://{self.gateway_address}",
            "upstream": self.config.gateway.upstream,
            "socket": self.config.api.socket,
            "policy": self.policies.newest.bundle.name,
        }

    # -- what status and metrics look at ----------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot | None:
        """What exchanges are decided with; None until the first passport."""
        return self.in_force.snapshot

    def obstacle(self) -> Obstacle | None:
        """What stands between a bundle and its passport now; None: nothing is known to."""
        dead = self.attester.quotes.dead is not None
        for trouble, _ in self.lifecycle.look().troubles:
            if trouble.part is Part.PASSPORT:
                following = f"{trouble.next}; {OR_STOP}" if dead else trouble.next
                return Obstacle(
                    reboot=dead, code=trouble.code, reason=trouble.reason, next=following
                )
        return None

    @property
    def gateway_metrics(self) -> GatewayMetrics:
        """The gateway's counters."""
        return self.gateway.metrics

    @property
    def stream_status(self) -> StreamStatus | None:
        """The stream's state; None where no Observer is configured."""
        return None if self.stream is None else self.stream.status
