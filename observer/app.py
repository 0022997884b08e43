"""The Observer as one asyncio process: agents come in by gRPC, people by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import uvicorn

from observer import views
from observer.config import Address, ConfigError, ObserverConfig
from observer.events import Hub
from observer.grpc_service import ObserverService, Services
from observer.hello import Trust
from observer.http_bounds import BoundedHttp
from observer.metrics import Metrics
from observer.peers import Places
from observer.registry import Registry
from observer.store import Store, StoreError
from observer.trust import PassportTrust
from observer.web import Web

SEEN_PERIOD = 5.0  # seconds between writes of when agents were last heard
STREAM_GRACE = 2.0  # seconds that streams get to hear that the Observer stops
PAGE_GRACE = 2  # seconds that pages get to finish
BACKLOG = 128

_log = logging.getLogger("observer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started Observer: the addresses it really listens on, and its parts."""

    grpc: Address
    http: Address
    store: Store
    registry: Registry
    hub: Hub


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has one place for those."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve(config: ObserverConfig, *, trust: Trust | None = None) -> AsyncIterator[Running]:
    """A running Observer for as long as the block runs.

    Args:
        trust: what verifies passports, where it is not the one that `config` describes.

    Raises:
        ConfigError: an address is taken, the database or a TLS file cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = await Store.open(config.database)
        stack.push_async_callback(store.close)
        metrics, registry = Metrics(), Registry(config.limits, shared=config.proxies)
        hub = Hub(
            places=Places(
                config.limits.event_clients,
                config.limits.event_clients_per_address,
                shared=config.proxies,
            ),
            queue_size=config.limits.event_queue,
            show=views.decision,
            on_missed=metrics.missed.inc,
        )
        metrics.gauge("streams", "Streams from agents", lambda: registry.streams)
        metrics.gauge(
            "streams_unproven", "Of these, without a proof yet", lambda: registry.unproven
        )
        metrics.gauge("pages", "Pages that watch", lambda: hub.clients)
        services = Services(
            store=store,
            registry=registry,
            trust=trust
            or PassportTrust(
                allow_simulated=config.allow_simulated, simulated_roots=config.simulated_roots
            ),
            hub=hub,
            metrics=metrics,
            limits=config.limits,
        )
        grpc_address = await stack.enter_async_context(_grpc(config, services))
        stack.push_async_callback(_save_seen, store, registry)
        await stack.enter_async_context(_periodic(store, registry))
        connections = Places(
            config.limits.http_connections, config.limits.http_per_address, shared=config.proxies
        )
        metrics.gauge("http_connections", "Connections to the page", lambda: connections.taken)
        web = Web(
            config=dataclasses.replace(config, listen_grpc=grpc_address),
            store=store,
            registry=registry,
            hub=hub,
            metrics=metrics,
            version=importlib.metadata.version("lucid-agent"),
        )
        http_address = await stack.enter_async_context(_http(config, web, metrics, connections))
        stack.callback(hub.close)
        yield Running(grpc=grpc_address, http=http_address, store=store, registry=registry, hub=hub)


@contextlib.asynccontextmanager
async def _grpc(config: ObserverConfig, services: Services) -> AsyncIterator[Address]:
    limits = config.limits
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # a second Observer on the port is an error, not a lottery
            ("grpc.max_receive_message_length", limits.message_size),
            ("grpc.max_send_message_length", limits.message_size),
            ("grpc.max_metadata_size", 8192),
            ("grpc.max_allowed_incoming_connections", limits.grpc_connections),
            ("grpc.max_concurrent_streams", limits.streams_per_connection),
            ("grpc.server_handshake_timeout_ms", int(limits.handshake * 1000)),
            ("grpc.max_connection_idle_ms", int(limits.handshake * 1000)),  # without a stream
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ],
        maximum_concurrent_rpcs=2 * limits.streams,  # room to refuse with a reason
    )
    service = ObserverService(services)
    server.add_generic_rpc_handlers((service.handler(),))
    listen = config.listen_grpc
    try:
        if config.grpc_certificate is not None and config.grpc_key is not None:
            port = server.add_secure_port(
                str(listen), _credentials(config.grpc_certificate, config.grpc_key)
            )
        else:
            port = server.add_insecure_port(str(listen))
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen for agents on {listen}: the address is taken, or none of this machine"
        ) from error
    await server.start()
    try:
        yield Address(host=listen.host, port=port)
    finally:
        service.stopping.set()
        await server.stop(STREAM_GRACE)


def _credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    try:
        pair = key.read_bytes(), certificate.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    try:  # gRPC would say of files that do not fit that it cannot listen
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(
            f"{certificate} and {key} are not a certificate and its key, both in PEM and the key"
            f" without a passphrase: {reason.lower().replace('_', ' ')}"
        ) from error
    return grpc.ssl_server_credentials([pair])


@contextlib.asynccontextmanager
async def _http(
    config: ObserverConfig, web: Web, metrics: Metrics, connections: Places
) -> AsyncIterator[Address]:
    listen, limits = config.listen_http, config.limits
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        listener = socket.create_server((listen.host, listen.port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"cannot listen for pages on {listen}: {reason}") from error
    # The kernel gives up a peer that takes nothing of what is sent; accepted sockets inherit it.
    unsent_ms = int(limits.http_unsent * 1000)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unsent_ms)
    bounded = functools.partial(BoundedHttp, places=connections, limits=limits, metrics=metrics)
    server = _HttpServer(
        uvicorn.Config(
            web.app(),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http=cast("type[asyncio.Protocol]", bounded),  # called as if it were the class
            h11_max_incomplete_event_size=limits.http_head,
            timeout_keep_alive=limits.http_idle,
            timeout_graceful_shutdown=PAGE_GRACE,
        )
    )
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield Address(host=listen.host, port=listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task
        listener.close()


@contextlib.asynccontextmanager
async def _periodic(store: Store, registry: Registry) -> AsyncIterator[None]:
    async def run() -> None:
        while True:
            await asyncio.sleep(SEEN_PERIOD)
            await _save_seen(store, registry)

    task = asyncio.ensure_future(run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _save_seen(store: Store, registry: Registry) -> None:
    """Keep in the database when each connected agent was last heard."""
    rows = [
        {
            "agent_id": live.agent_id,
            "state": live.state,
            "durable_seq": live.durable_seq,
            "last_seen_ns": live.last_seen_ns,
        }
        for live in registry.all()
    ]
    if rows:
        try:
            await store.save_seen(rows)
        except StoreError as error:
            _log.warning("when agents were last heard is not saved: %s", error)
