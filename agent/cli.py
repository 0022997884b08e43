"""`lucid-agent`: the daemon's own command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import httpx
import msgspec
import trio

from agent import logs
from agent.config import Config, ConfigError, load_config
from agent.daemon import Daemon
from agent.errors import ExitCode, FatalError
from agent.notify import Notifier
from agent.setup import load_bundle
from attestation.tdx.runtime_register import after

DEFAULT_CONFIG = Path("/etc/lucid/agent.toml")
DEFAULT_SOCKET = "/run/lucid/agent.sock"
SILENT = 3  # exit code where the running agent could not be asked


def version() -> str:
    """The installed version."""
    return importlib.metadata.version("lucid-agent")


def _fail(code: int, message: str, remedy: str = "") -> NoReturn:
    click.echo(f"lucid-agent: {message}", err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    sys.exit(code)


def _load(path: Path | None) -> Config:
    """The configuration: the named file, else the default one where it exists, else none."""
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    try:
        return load_config(path, os.environ)
    except ConfigError as error:
        where = path if path is not None else "the environment"
        _fail(ExitCode.USAGE, f"the configuration ({where}) is wrong:\n{error}")


_config_option = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="LUCID_CONFIG",
    help=f"Configuration file. Default: {DEFAULT_CONFIG} where it exists.",
)
_socket_option = click.option(
    "--socket",
    "socket_path",
    default=DEFAULT_SOCKET,
    envvar="LUCID_AGENT_SOCKET",
    show_default=True,
    help="The local API's Unix socket ([api] socket).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="lucid-agent")
def main() -> None:
    """The Lucid agent: attestation and policy enforcement beside an AI model.

    Inside a confidential VM it fetches hardware quotes, issues AI Passports that anyone can verify
    offline, decides every request and reply by Cedar policy, keeps a hash-chained journal of the
    decisions, and streams them to the Observer.

    \b
    Exit codes:
      0  stopped cleanly, or the thing asked is so
      1  failed at run time, or the thing asked is not so (a restart may help)
      2  wrong configuration, policy bundle or arguments (a restart cannot help)
      3  no TEE, or another one than configured
      4  the state directory or the journal cannot be used
    """


@main.command()
@_config_option
def run(path: Path | None) -> None:
    """Run the daemon until SIGTERM or SIGINT. SIGHUP loads the policy bundle again.

    Logs go to standard error, as JSON lines or text ([agent] log_format). Under systemd with
    Type=notify, readiness is reported when the first passport has been issued.
    """
    config = _load(path)
    logs.configure(level=config.agent.log_level, form=config.agent.log_format)
    daemon = Daemon(config, version=version(), notifier=Notifier(os.environ.get("NOTIFY_SOCKET")))
    try:
        trio.run(daemon.run)
    except* FatalError as group:
        error = _first_fatal(group)
        _fail(error.code, str(error), error.remedy)


def _first_fatal(group: BaseExceptionGroup[FatalError]) -> FatalError:
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FatalError)
    return error


@main.command("check-config")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print the effective configuration as JSON.")
def check_config(path: Path | None, *, as_json: bool) -> None:
    """Check the configuration and the policy bundle without starting anything.

    Prints what is in effect, variables included. Exits 0 if the daemon could start with it, 2 if
    not, with every problem named.
    """
    config = _load(path)
    try:
        bundle, _engine = load_bundle(Path(config.policy.bundle))
    except FatalError as error:
        _fail(error.code, str(error), error.remedy)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(config)).decode())
    else:
        click.echo(f"configuration: ok (agent {config.agent.id}, TEE mode {config.tee.mode})")
        click.echo(f"policy bundle: ok ({bundle.name} {bundle.version}, {bundle.digest.hex()})")
        if config.tee.extend_rtmr3:
            click.echo(f"RTMR3 with this bundle alone: {after([bundle.digest]).hex()}")


def _ask(socket_path: str, route: str) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=socket_path)
    try:
        with httpx.Client(transport=transport, timeout=5) as client:
            return client.get(f"http://agent{route}")
    except httpx.HTTPError as error:
        _fail(
            SILENT,
            f"no agent answers on {socket_path}: {error}",
            "is the agent running? --socket names the socket ([api] socket)",
        )


@main.command()
@_socket_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(socket_path: str, *, as_json: bool) -> None:
    """Show what the running agent says of itself: state, since when, why, what happens next.

    Exits 0 if it is ready, 1 if not, 3 if no agent answers.
    """
    data = _ask(socket_path, "/v1/status").json()
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        _print_status(data)
    sys.exit(0 if data["ready"] else 1)


def _print_status(data: dict[str, Any]) -> None:
    passport, policy, observer = data["passport"], data["policy"], data["observer"]
    journal = data["journal"]
    rows = [
        ("State", f"{data['state']} for {data['since_seconds']:.0f} s: {data['reason']}"),
        ("Next", data["next"]),
        ("Ready", f"{'yes' if data['ready'] else 'no'} ({data['ready_reason']})"),
        ("Gateway", f"http://{data['gateway']}"),
    ]
    if passport is not None:
        marks = "SIMULATED, " if passport["simulated"] else ""
        rows.append(
            ("Passport", f"{passport['id']} ({marks}{passport['seconds_left']:.0f} s left)")
        )
    if policy is not None:
        rows.append(("Policy", f"{policy['name']} {policy['version']} ({policy['digest'][:16]}…)"))
    rows.append(
        ("Journal", f"{journal['durable_seq']} decisions durable, head {journal['head'][:16]}…")
    )
    if observer is not None:
        rows.append(
            (
                "Observer",
                f"{'connected' if observer['connected'] else 'away'}, {observer['lag']} behind",
            )
        )
    for name, value in rows:
        click.echo(f"{name + ':':<10} {value}")


@main.command()
@_socket_option
@click.option("--live", is_flag=True, help="Ask only whether the process is alive.")
def healthcheck(socket_path: str, *, live: bool) -> None:
    """For probes: exit 0 if the agent is ready (or alive with --live), 1 if not, 3 if silent."""
    response = _ask(socket_path, "/healthz" if live else "/readyz")
    if response.status_code != 200:
        click.echo(response.json().get("reason", "not ready"), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
