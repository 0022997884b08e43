"""What the Observer is told at its start, and the limits it keeps to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1024 * 1024
PORT_MAX: Final = 65_535
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class ConfigError(Exception):
    """The Observer cannot start as it was told to; the text says why and what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen. Port 0 means any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT` or `[IPV6]:PORT`.

        Raises:
            ConfigError: the text is not an address.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not host or not (port.isascii() and port.isdigit()):
            raise ConfigError(f"{text!r} is not HOST:PORT (or [IPV6]:PORT)")
        if ":" in host and not bracketed:
            raise ConfigError(f"{text!r}: write an IPv6 address in brackets, as [::1]:8080")
        if int(port) > PORT_MAX:
            raise ConfigError(f"{text!r}: a port is at most {PORT_MAX}")
        return cls(host=host, port=int(port))

    @property
    def loopback(self) -> bool:
        """True where only this machine can connect."""
        return self.host in LOOPBACK_NAMES or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what peers may ask for. Times are seconds, sizes bytes. The numbers are guesses
    with room: an agent sends 64 to 512 records of about 900 bytes a message.
    """

    message_size: int = MEBIBYTE  # an agent's batch has up to 256 KiB
    hello_size: int = 320 * 1024  # of any message before the proof; see observer.proto
    hellos_at_once: int = 2  # whose passports are verified; the others wait
    batch_records: int = 1024
    boots: int = 64
    credits: int = 8
    handshake: float = 10.0  # from the start of a stream to a proof that verifies
    idle: float = 90.0  # without any message; agents send heartbeats far more often
    grpc_connections: int = 2048  # some 30 kB each; those without a stream end after `handshake`
    streams_per_connection: int = 4  # an agent has one
    streams: int = 256
    streams_per_peer: int = 64
    unproven: int = 32  # of these, before their proof
    unproven_per_peer: int = 8
    strangers_at_once: int = 64  # alarms about peers that proved nothing: each is a write
    strangers_per_second: float = 2.0
    pending_checkpoints: int = 32  # per boot, waiting for the records they cover
    gaps_in_a_row: int = 64  # batches already in flight behind a gap are refused one by one
    event_clients: int = 64
    event_clients_per_address: int = 32
    event_queue: int = 2000  # decisions waiting for one slow browser
    retry_after_ms: int = 2000
    http_connections: int = 256
    http_per_address: int = 64  # a browser opens six
    http_head: int = 16 * 1024
    http_request: float = 10.0  # from its first byte to its last; none has a body to wait for
    http_idle: int = 30  # between two requests of a connection
    http_unsent: float = 60.0  # until all that waits for a slow reader is on its way


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverConfig:
    """Everything `observer.app` needs to run."""

    listen_grpc: Address
    listen_http: Address
    database: str
    allow_simulated: bool = False
    simulated_roots: tuple[Path, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # names the page may be asked for under, beside loopback
    proxies: tuple[str, ...] = ()  # addresses or networks that many people's requests come from
    grpc_certificate: Path | None = None
    grpc_key: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for text in self.proxies:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ConfigError(
                    f"--proxy {text!r} is no IP address or network, such as 10.0.0.0/8"
                ) from None
        if self.simulated_roots and not self.allow_simulated:
            raise ConfigError("--simulated-root has no effect without --allow-simulated")
        if (self.grpc_certificate is None) != (self.grpc_key is None):
            raise ConfigError("--grpc-certificate and --grpc-key go together")

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know before others can reach this Observer."""
        found = []
        if not self.listen_http.loopback:
            found.append(
                f"the page listens on {self.listen_http}, and there is no login yet: everyone who"
                " can connect reads every decision. Put a proxy with a login before it."
            )
        if not self.listen_grpc.loopback and self.grpc_certificate is None:
            found.append(
                f"agents connect to {self.listen_grpc} without TLS: records can be read on the"
                " way (not changed unseen: they are chained and signed). Give --grpc-certificate."
            )
        if self.allow_simulated:
            found.append(
                "simulated TEEs are accepted: what they send is not hardware attested."
                if self.simulated_roots
                else "--allow-simulated accepts nobody without --simulated-root."
            )
        return tuple(found)
