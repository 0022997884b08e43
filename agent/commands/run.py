"""`lucid-agent run`: the daemon."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

import click
import trio

from agent import __version__, logs
from agent.commands.common import config_option, first_fatal, load
from agent.commands.failing import fail
from agent.custody import protect
from agent.daemon import Daemon
from agent.errors import FatalError, exit_codes_text
from agent.heap import share_heaps
from agent.life.notify import Notifier


@click.command(epilog=f"\b\nExit codes:\n{exit_codes_text()}")
@config_option
@click.option(
    "--tee",
    type=click.Choice(["auto", "sev-snp", "tdx", "simulated"]),
    help="Which TEE gives the quotes ([tee] mode). auto: the one that the kernel has; the log says"
    " which (tee.found). Without one, the agent ends with 3 and says what it looked for.",
)
def run(path: Path | None, tee: str | None) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    SIGHUP reads the policy bundle and the files of [gateway.tls] again; what is broken changes
    nothing, and the log says so. Logs go to standard error, as JSON lines or text
    ([agent] log_format). Under systemd with Type=notify, readiness is reported when the first
    passport has been issued. Variables override single keys: LUCID_GATEWAY_LISTEN is `listen` of
    [gateway].
    """
    # Ours while the daemon runs. Before and after that it must not kill what starts or is closed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    share_heaps()
    faulthandler.enable()  # a watchdog ends a hang by SIGABRT: where every thread stood is said
    config = load(path, tee=tee)
    logs.configure(level=config.agent.log_level, form=config.agent.log_format)
    daemon = Daemon(
        config,
        version=__version__,
        notifier=Notifier.from_environment(os.environ),
        custody=protect(),
    )
    fatal: FatalError | None = None
    try:
        with logs.OUTPUT.thread():
            trio.run(daemon.run)
    except* FatalError as group:
        fatal = first_fatal(group)
    if fatal is not None:  # not inside `except*`, which would make a group of the exit, too
        fail(fatal.code, str(fatal), fatal.remedy)
