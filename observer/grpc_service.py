"""The gRPC edge: reads messages, lets the receiver decide, performs its effects.

Registered as a generic handler over raw bytes, so that a message that does not parse gets a Nack
with a reason and not a broken stream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import grpc
import grpc.aio

from attestation.wire import observer_pb2 as pb
from observer.boots import Position
from observer.checkpoints import Effects
from observer.config import Limits
from observer.effects import (
    Alarm,
    AlarmCode,
    Begin,
    Close,
    Commit,
    Effect,
    Heard,
    LoadBefore,
    LoadBoots,
    LoadHeads,
    SaveCheckpoint,
    SavePassport,
    Send,
)
from observer.events import Hub
from observer.hello import Trust
from observer.metrics import Metrics
from observer.peers import Rate, peer
from observer.receiver import Receiver, State, nack
from observer.registry import Admission, Busy, Live, Registry
from observer.store import Store, StoreError, Superseded

SERVICE: Final = "lucid.observer.v1.Observer"
METHOD: Final = "Stream"
CHALLENGE_SIZE: Final = 32

_log = logging.getLogger("observer.stream")

Context = grpc.aio.ServicerContext[Any, Any]


class _Ended(Exception):  # noqa: N818 - control flow of one stream
    """The receiver asked to close."""


def utc_now() -> datetime:
    """The clock that certificates are checked against."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What every stream shares."""

    store: Store
    registry: Registry
    trust: Trust
    hub: Hub
    metrics: Metrics
    limits: Limits
    now: Callable[[], datetime] = utc_now
    clock: Callable[[], int] = time.time_ns


class ObserverService:
    """Serves `Observer.Stream`. Set `stopping` to end every stream at its next message."""

    def __init__(self, services: Services) -> None:
        self._services = services
        limits = services.limits
        self._strangers = Rate(
            limits.strangers_at_once, limits.strangers_per_second, clock=time.monotonic
        )
        self._hellos = asyncio.Semaphore(limits.hellos_at_once)
        self.stopping = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server registers."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self.stream
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def stream(self, _requests: object, context: Context) -> None:
        """One stream, from its first message to its end."""
        services = self._services
        try:
            with services.registry.admit(_host(context.peer())) as admission:
                stream = _Stream(
                    services,
                    context,
                    admission,
                    hellos=self._hellos,
                    strangers=self._strangers,
                    stopping=self.stopping,
                )
                await stream.run()
        except Busy as busy:
            await _write(context, _later(services, str(busy)))


class _Stream:
    """One stream: its receiver and what it does to the world."""

    def __init__(
        self,
        services: Services,
        context: Context,
        admission: Admission,
        *,
        hellos: asyncio.Semaphore,
        strangers: Rate,
        stopping: asyncio.Event,
    ) -> None:
        self._services = services
        self._context = context
        self._peer = _host(context.peer())
        self._admission = admission
        self._hellos = hellos
        self._strangers = strangers
        self._stopping = stopping
        self._live: Live | None = None
        self._receiver = Receiver(
            trust=services.trust, challenge=os.urandom(CHALLENGE_SIZE), limits=services.limits
        )

    async def run(self) -> None:
        services = self._services
        try:
            await self._loop()
        except _Ended:
            pass
        except Superseded:
            await self._send(nack(pb.Nack.SUPERSEDED, "a newer stream of this agent is here"))
        except StoreError as error:
            _log.error("the database failed; nothing is acknowledged: %s", error)
            services.metrics.store_errors.inc()
            await self._send(_later(services, "the database of the Observer failed"))
        finally:
            if self._live is not None:
                services.registry.leave(self._live)
                services.hub.agents_changed()

    async def _loop(self) -> None:
        """Read until the peer leaves, is silent for too long, or is told to go."""
        limits = self._services.limits
        loop = asyncio.get_running_loop()
        opened = loop.time()
        stopping = asyncio.ensure_future(self._stopping.wait())
        superseded: asyncio.Future[Any] | None = None
        read: asyncio.Future[Any] | None = None
        try:
            while True:
                if self._live is not None and superseded is None:
                    superseded = asyncio.ensure_future(self._live.superseded.wait())
                handshaking = self._receiver.state is not State.OPEN
                timeout = opened + limits.handshake - loop.time() if handshaking else limits.idle
                read = asyncio.ensure_future(self._context.read())
                waiting = {read, stopping} | ({superseded} if superseded else set())
                done, _ = await asyncio.wait(
                    waiting, timeout=max(timeout, 0), return_when=asyncio.FIRST_COMPLETED
                )
                if superseded in done:
                    raise Superseded
                if stopping in done:
                    await self._send(_later(self._services, "the Observer is stopping"))
                    return
                if read not in done:
                    what = "the handshake took too long" if handshaking else "silent for too long"
                    await self._send(_later(self._services, what))
                    return
                message = read.result()
                if message is grpc.aio.EOF:
                    return
                await self._perform_all(message)
        finally:
            for task in (read, stopping, superseded):
                if task is not None:
                    task.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await task

    async def _perform_all(self, message: bytes) -> None:
        """Run the receiver over one message."""
        effects = self._receiver.receive(message, self._services.now())
        answer: Any = None
        while True:
            step = partial(_step, effects, answer)
            if self._receiver.state is State.HELLO:
                # Its passports take up to a quarter of a second, and anybody can send one.
                async with self._hellos:
                    effect = await asyncio.to_thread(step)
            else:
                effect = step()
            if effect is None:
                return
            answer = await self._perform(effect)

    async def _perform(self, effect: Effect) -> Any:
        services = self._services
        match effect:
            case Send():
                await self._send(effect.message)
            case Close():
                raise _Ended
            case LoadBoots():
                return await services.store.load_boots(effect.boot_ids)
            case LoadHeads():
                return await services.store.load_heads(
                    effect.boot_id, effect.first_seq, effect.last_seq
                )
            case LoadBefore():
                return await services.store.load_before(effect.agent_id, effect.offered)
            case Begin():
                return await self._begin(effect)
            case Commit():
                await self._commit(effect)
            case SaveCheckpoint():
                await services.store.save_checkpoint(effect)
                services.metrics.checkpoints.inc()
                services.hub.agents_changed()
            case SavePassport():
                await services.store.save_passport(effect)
                services.hub.agents_changed()
            case Heard():
                self._heard(effect)
            case Alarm():
                await self._alarm(effect)
        return None

    async def _begin(self, begin: Begin) -> dict[bytes, Position]:
        services = self._services
        live = Live(
            agent_id=begin.agent_id,
            boot_id=begin.running.boot_id,
            epoch=begin.epoch,
            peer=self._peer,
            last_seen_ns=services.clock(),
            durable_seq=begin.running.last_seq,
        )
        self._admission.proven()
        services.registry.take_over(live)
        self._live = live
        positions = await services.store.begin(begin, allowed=self._current)
        live.stored_seq = positions[live.boot_id].last_seq
        services.hub.agents_changed()
        _log.info("agent %r connected from %s", begin.agent_id, self._peer)
        return positions

    async def _commit(self, commit: Commit) -> None:
        services, live = self._services, self._live
        rows = await services.store.commit(commit, allowed=self._current)
        services.metrics.records.inc(len(rows))
        if live is not None:
            live.last_seen_ns = services.clock()
            if commit.boot_id == live.boot_id:
                live.stored_seq = commit.position.last_seq
                live.durable_seq = max(live.durable_seq, live.stored_seq)
        services.hub.decisions(rows)

    def _heard(self, heard: Heard) -> None:
        services, live = self._services, self._live
        if live is not None:
            changed = live.state != heard.state
            live.state = heard.state
            live.durable_seq = heard.durable_seq
            live.last_seen_ns = services.clock()
            if changed:
                services.hub.agents_changed()

    async def _alarm(self, alarm: Alarm) -> None:
        services = self._services
        services.metrics.alarms.labels(alarm.code.value).inc()
        # Anybody can be refused as often as he likes: neither the log nor the disk waits for that.
        if alarm.code is AlarmCode.UNTRUSTED and not self._strangers.allows():
            return
        _log.warning("alarm %s (%s) about agent %r", alarm.code, alarm.reason, alarm.agent_id)
        await services.store.save_alarm(alarm)
        services.hub.alarms_changed()

    def _current(self) -> bool:
        return self._live is not None and self._services.registry.is_current(self._live)

    async def _send(self, message: pb.ObserverMessage) -> None:
        if message.WhichOneof("message") == "nack":
            self._services.metrics.nacks.labels(pb.Nack.Code.Name(message.nack.code)).inc()
        await _write(self._context, message)


def _step(effects: Effects, answer: Any) -> Effect | None:
    """The receiver's next effect; None: it has dealt with the message."""
    try:
        return effects.send(answer)
    except StopIteration:
        return None


def _later(services: Services, detail: str) -> pb.ObserverMessage:
    return nack(pb.Nack.RETRY_AFTER, detail, retry_after_ms=services.limits.retry_after_ms)


async def _write(context: Context, message: pb.ObserverMessage) -> None:
    await context.write(message.SerializeToString())


def _host(address: str) -> str:
    """gRPC's word for a peer, as it is counted: `ipv4:192.0.2.1:5000` → `192.0.2.1`,
    `ipv6:%5B2001:db8::1%5D:5000` → `2001:db8::/64`."""
    host = unquote(address).partition(":")[2].rpartition(":")[0]
    return peer(host.removeprefix("[").removesuffix("]")) or address
