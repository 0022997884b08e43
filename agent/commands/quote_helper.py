"""`lucid-agent quote-helper`: root's part, made to be started by a service manager."""

from __future__ import annotations

import os
import pwd
import socket
from contextlib import closing
from pathlib import Path

import click

from agent.quotes.helper import Helper, inherited, listen
from attestation.kernel_tree import DEFAULT_PATH, KernelTree, sweep


@click.command("quote-helper")
@click.option(
    "--user",
    default="lucid",
    show_default=True,
    help="The one user, by name or number, that may ask: the agent's.",
)
@click.option(
    "--listen",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make this socket and serve until ended. Without: serve the socket on descriptor 3 or"
    " standard input, a connection (Accept=yes) or a listening one.",
)
@click.option(
    "--report-path",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_PATH,
    show_default=True,
    help="The kernel's report tree, or a simulated one.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the rate limit, shared by helpers that each serve one connection.",
)
def quote_helper(user: str, path: Path | None, report_path: Path, state: Path | None) -> None:
    """Turn 64 bytes into a hardware quote, for the agent's user only.

    The kernel gives quotes to root alone. This process has root's user id and nothing else of it:
    run it without capabilities and without network, as lucid-agent-quote@.service does; the agent
    then needs no rights at all ([tee] helper names the socket). Requests are bounded in size, time
    and rate; what is refused is said on standard error.

    \b
    Exit codes:
      0  the connection was served
      2  wrong arguments, no such user, no socket
    """
    tree = KernelTree(report_path)
    helper = Helper(tree=tree, uid=_uid(user), limit=_limit_file(state))
    sock = _socket(path)
    sweep(tree, alive=_another_lives)
    with closing(sock):
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            helper.serve(sock)
        else:
            helper.answer(sock)


def _socket(path: Path | None) -> socket.socket:
    try:
        sock = inherited(dict(os.environ)) if path is None else listen(path)
    except OSError as error:
        raise click.UsageError(f"cannot listen on {path}: {error.strerror}") from None
    if sock is None:
        raise click.UsageError(
            "no socket was passed: start it by lucid-agent-quote.socket, or use --listen PATH"
        )
    return sock


def _uid(user: str) -> int:
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise click.UsageError(f"there is no user {user!r}") from None


def _limit_file(state: Path | None) -> int:
    if state is None:
        return os.memfd_create("quote-limit", os.MFD_CLOEXEC)
    try:
        return os.open(state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise click.UsageError(f"cannot use {state}: {error.strerror}") from None


def _another_lives(pid: int) -> bool:
    """In a container every helper is process 1: what bears our own number is a dead one's."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
