"""`lucid-agent init`: the first run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from agent.commands.failing import fail
from agent.errors import ExitCode, FatalError
from agent.first_run import ExistsError, Written, write


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option(
    "--service",
    is_flag=True,
    help="For the systemd units: hardware by the quote helper, state in /var/lib/lucid. Without: a"
    " simulated TEE, and all in DIRECTORY.",
)
@click.option(
    "--no-key", is_flag=True, help="Clients on this machine need no API key (User::anonymous)."
)
def init(directory: Path | None, *, service: bool, no_key: bool) -> None:
    """Write a commented agent.toml and an example policy bundle into DIRECTORY.

    DIRECTORY is made where it is missing; the default is `lucid`, with --service /etc/lucid.

    Overwrites nothing. Makes an API key for the first client and shows it once; the file has only
    its SHA-256. Without --service, makes the simulated TEE as well, whose keys take a second to
    generate; else the first start would. Says what to do next.

    \b
    Exit codes:
      0  written
      2  one of the two is there already, or DIRECTORY cannot be written
      4  written, but no simulated TEE could be made
    """
    directory = directory or Path("/etc/lucid" if service else "lucid")
    try:
        written = write(directory, service=service, with_key=not no_key)
    except ExistsError as error:
        fail(ExitCode.USAGE, str(error), "nothing was written; move it away, or name another place")
    except OSError as error:
        fail(ExitCode.USAGE, f"{directory} cannot be written: {error.strerror}")
    if not service:
        _make_simulated_tee(written.config)
    for line in _next_steps(written, service=service):
        click.echo(line)


def _make_simulated_tee(path: Path) -> None:
    from agent import setup  # noqa: PLC0415 - half the daemon, for a simulated TEE alone
    from agent.attesting.platform import simulated_machine  # noqa: PLC0415
    from agent.config import load_config  # noqa: PLC0415

    config = load_config(path, {})
    state = Path(config.agent.state_dir)
    try:
        setup.state_directory(state)
        simulated_machine(config.tee.simulate, state, now=datetime.now(UTC))
    except FatalError as error:
        fail(error.code, str(error), error.remedy)
    click.echo(f"made a simulated TEE in {state}/: its quotes prove nothing")


def _next_steps(written: Written, *, service: bool) -> list[str]:
    config = written.config
    lines = [f"wrote {config}", f"wrote {written.bundle}/", ""]
    if written.key:
        lines += [
            "The first client's API key (shown this once; the file has its SHA-256):",
            f"  {written.key}",
            "",
        ]
    lines += ["Next:", f"  1. set gateway.upstream in {config} to your model server"]
    lines.append(f"  2. lucid-agent check-config --config {config}")
    if service:
        lines.append("  3. systemctl enable --now lucid-agent-quote.socket lucid-agent.service")
        lines.append("  4. lucid-agent status")
    else:
        lines.append(f"  3. lucid-agent run --config {config}")
        lines.append(f"  4. lucid-agent status --socket {config.parent / 'agent.sock'}")
    auth = f' -H "authorization: Bearer {written.key}"' if written.key else ""
    lines.append(f"  5. curl{auth} http://127.0.0.1:8080/v1/models")
    return lines
