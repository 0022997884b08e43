"""`lucid-agent simulate-tee`: a confidential machine's report tree without the machine."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import trio

from agent.attesting.platform import simulated_machine
from agent.commands.common import first_fatal
from agent.commands.failing import fail
from agent.errors import ExitCode, FatalError
from agent.life.notify import Notifier
from agent.simulate_tee.serving import serve, watch_parent
from attestation.simulated.tree import SimulatedTree
from attestation.tee import tee_from_spelling
from attestation.tsm import MAX_PRIVLEVEL

_FAULT: Final = re.compile(r"([A-Za-z]+)(?:x([0-9]{1,6}))?")


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lucid"


@click.command("simulate-tee")
@click.option(
    "--mount",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="An empty directory. It becomes what /sys/kernel/config/tsm/report is on hardware.",
)
@click.option(
    "--tee",
    type=click.Choice(["sev-snp", "tdx"]),
    default="sev-snp",
    show_default=True,
    help="Whose machine it plays.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the simulated vendor's keys are kept; made there the first time. Default:"
    " $XDG_STATE_HOME/lucid or ~/.local/state/lucid.",
)
@click.option(
    "--latency",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    help="How long each quote takes. Real ones: some 10 ms on SEV-SNP, about 1 s on TDX.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[xN]",
    help="Spoil the next quote, or the next N: an error number (EBUSY, ETIMEDOUT, EIO, ENOTTY),"
    " `empty`, `stale` (another writer in between) or `foreign` (over other report data). May be"
    " given several times.",
)
@click.option(
    "--privlevel-floor",
    type=click.IntRange(0, MAX_PRIVLEVEL),
    default=0,
    metavar="VMPL",
    help="SEV-SNP: play a guest below VMPL 0, as under an SVSM; levels below this are refused.",
)
@click.option(
    "--end-with-parent",
    is_flag=True,
    help="End when the process that started this one ends, however it does.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what is served as one line of JSON.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def simulate_tee(
    *,
    mount: Path,
    tee: str,
    state: Path | None,
    latency: float,
    faults: tuple[str, ...],
    privlevel_floor: int,
    end_with_parent: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Serve a SIMULATED TEE's report tree. Its quotes prove nothing.

    So any program that speaks the kernel's configfs-tsm interface can be developed without
    hardware.

    Every attribute behaves as in the kernel, down to the error numbers. Quotes have the real
    formats; they are signed by a vendor whose root lies in the state directory (root.pem), and no
    verifier accepts them without being given that root. The mount bears the file system type
    fuse.lucid-simulated-tee, and an agent never takes it for hardware.

    With COMMAND, that is run once the tree is served, and its end is the end. Without, it ends at
    SIGTERM, SIGINT or when DIR is unmounted. The mount is removed even if this process is killed.

    Needs FUSE: /dev/fuse, the packages fuse3 and libfuse3-dev, and `pip install
    'lucid-agent[fuse]'`.

    \b
    Examples:
      lucid-agent simulate-tee --mount /tmp/tsm -- pytest tests
      lucid-agent simulate-tee --mount /tmp/tsm        # and in another terminal:
        mkdir /tmp/tsm/e
        head -c 64 /dev/urandom > /tmp/tsm/e/inblob
        cat /tmp/tsm/e/outblob > report.bin
        rmdir /tmp/tsm/e
        lucid evidence show report.bin

    \b
    Exit codes:
      0  ended when it was told to; with COMMAND: COMMAND's own, 128 + N where signal N ended it
      1  failed at run time
      2  no FUSE here, DIR cannot be mounted on, or wrong arguments
      4  the state directory cannot be used
    """
    state = (state or _default_state()).absolute()
    fatal: FatalError | None = None
    try:
        if end_with_parent:
            watch_parent()
        machine = simulated_machine(tee, state, now=datetime.now(UTC))
        tree = SimulatedTree(machine)
        try:
            tree.faults.plan(_planned(faults))
        except ValueError as wrong:
            raise click.BadParameter(str(wrong), param_hint="--fault") from None
        tree.floor = privlevel_floor
        if latency:
            tree.faults.before_read = functools.partial(_wait, latency)
        said = {
            "simulated": True,
            "tee": tee,
            "provider": machine.provider,
            "mount": str(mount.resolve()),
            "root": str(state / machine.directory / "root.pem"),
        }
        # What COMMAND prints stays its own.
        ready = functools.partial(_say, said, as_json=as_json, err=bool(command))
        code = trio.run(functools.partial(_serve, tree, mount, command, ready=ready))
    except* FatalError as group:
        fatal = first_fatal(group)
    if fatal is not None:  # not inside `except*`, which would make a group of the exit, too
        fail(fatal.code, str(fatal), fatal.remedy)
    sys.exit(code)


async def _serve(
    tree: SimulatedTree, mount: Path, command: tuple[str, ...], *, ready: Callable[[], None]
) -> int:
    """Until told to end, or until the command ends; gives its exit code."""
    code = 0
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def until_signal() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            async def until_unmounted(*, task_status: trio.TaskStatus[None]) -> None:
                await serve(tree, mount, task_status=task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(until_unmounted)
            nursery.start_soon(until_signal)
            ready()
            notifier.send("READY=1", f"STATUS=simulated TEE at {mount}")
            if command:
                code = await _run(command)
                nursery.cancel_scope.cancel()
    notifier.close()
    return code


async def _run(command: tuple[str, ...]) -> int:
    try:
        done = await trio.run_process(command, check=False)
    except OSError as error:
        raise FatalError(ExitCode.USAGE, f"{command[0]} cannot be run: {error.strerror}") from None
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _planned(faults: tuple[str, ...]) -> list[str]:
    planned: list[str] = []
    for text in faults:
        if not (match := _FAULT.fullmatch(text)):
            raise click.BadParameter(f"{text!r} is not NAME or NAMExN", param_hint="--fault")
        planned += [match[1]] * int(match[2] or 1)
    return planned


def _wait(seconds: float, _entry: str, attribute: str) -> None:
    if attribute == "outblob":
        time.sleep(seconds)


def _say(said: dict[str, Any], *, as_json: bool, err: bool) -> None:
    if as_json:
        click.echo(json.dumps(said), err=err)
        return
    say = functools.partial(click.echo, err=err)
    display = tee_from_spelling(said["tee"]).display
    say(f"SIMULATED TEE: its quotes prove nothing. It plays {display}.")
    say(f"tree:  {said['mount']} (provider {said['provider']})")
    say(f"root:  {said['root']} (for --simulated-root)")
    say(f"Ends, and unmounts, {'with its command, or ' if err else ''}at SIGTERM or Ctrl-C.")
