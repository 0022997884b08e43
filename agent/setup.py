"""Opening what the daemon stands on, with errors that name the place and the remedy."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from agent.config import Config, parse_address
from agent.errors import ExitCode, FatalError
from enforcement.bundle import Bundle, BundleError
from enforcement.engine import Engine

BACKLOG = 1024  # connections the kernel may queue for the gateway


def state_directory(path: Path) -> Path:
    """Make the state directory (mode 0700) and prove that it can be written.

    Raises:
        FatalError: it cannot be made or written, or others may write it.
    """
    remedy = "make it writable for the agent's user (mode 0700), or set agent.state_dir"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise FatalError(
            ExitCode.STATE,
            f"the state directory {path} cannot be used: {error.strerror}",
            remedy=remedy,
        ) from None
    if mode & 0o022:
        raise FatalError(
            ExitCode.STATE, f"others may write the state directory {path}", remedy="chmod 0700"
        )
    return path


def load_bundle(path: Path) -> tuple[Bundle, Engine]:
    """Load and compile the policy bundle. Blocking.

    Raises:
        FatalError: with every problem of the bundle.
    """
    try:
        bundle = Bundle.load(path)
        return bundle, Engine(bundle)
    except BundleError as error:
        raise FatalError(
            ExitCode.USAGE, f"the policy bundle {path} cannot be used:\n{error}"
        ) from None


def listen(address: str) -> socket.socket:
    """A listening, non-blocking TCP socket.

    Raises:
        FatalError: the address is taken or not ours.
    """
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise FatalError(
            ExitCode.USAGE,
            f"the gateway cannot listen on {address}: {error.strerror}",
            remedy="set gateway.listen to a free address",
        ) from None
    sock.setblocking(False)
    return sock


def remove_socket(path: Path) -> None:
    """Remove the local API's socket at the end."""
    path.unlink(missing_ok=True)


def gateway_config(config: Config) -> GatewayConfig:
    """The door's settings from the configuration."""
    raise NotImplementedError
