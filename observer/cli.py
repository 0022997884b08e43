"""The `lucid-observer` command."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import click

from observer.config import Address, ConfigError, Limits, ObserverConfig

EXIT_USAGE: Final = 2
OWN_FILES: Final = 128  # the database, the page's files, listeners


class _AddressType(click.ParamType[Address]):
    name = "HOST:PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    context_settings={
        "auto_envvar_prefix": "LUCID_OBSERVER",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    }
)
@click.version_option(package_name="lucid-agent", prog_name="lucid-observer")
def main() -> None:
    """Receive the decisions of Lucid agents, prove that none is missing, show them live.

    Every option can also be given as an environment variable: LUCID_OBSERVER_RUN_ and the
    option's name, as in LUCID_OBSERVER_RUN_LISTEN_HTTP.
    """


@main.command()
@click.option(
    "--listen-grpc",
    type=_AddressType(),
    default="127.0.0.1:50051",
    show_default=True,
    help="Where agents connect. Port 0 takes any free port.",
)
@click.option(
    "--listen-http",
    type=_AddressType(),
    default="127.0.0.1:8090",
    show_default=True,
    help="Where the page and the API are served. There is no login yet: keep it on loopback, or"
    " put a proxy with a login before it.",
)
@click.option(
    "--database",
    default="sqlite+aiosqlite:///lucid-observer.db",
    show_default=True,
    metavar="URL",
    help="SQLAlchemy URL with an async driver. One Observer per database.",
)
@click.option(
    "--allow-simulated",
    is_flag=True,
    help="Also accept agents on a simulated TEE. They are marked SIMULATED everywhere; nothing"
    " they send is hardware attested. Needs --simulated-root.",
)
@click.option(
    "--simulated-root",
    "simulated_roots",
    multiple=True,
    type=_FILE,
    help="Root certificate (PEM or DER) of a simulated TEE to accept. Repeatable. The file may"
    " appear, or change, while the Observer runs.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Another name the page is asked for under (the Host header), beside localhost,"
    " 127.0.0.1 and [::1]. Repeatable.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="IP address or network (10.0.0.0/8) of a proxy before the page or before the agents' port."
    " Everybody behind it comes from there: the bounds on one address do not hold for it, those on"
    " all do. Repeatable.",
)
@click.option("--grpc-certificate", type=_FILE, help="TLS certificate chain (PEM) shown to agents.")
@click.option("--grpc-key", type=_FILE, help="Private key (PEM) of --grpc-certificate.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print one line of JSON when ready: {"grpc": "HOST:PORT", "http": "http://…"}.',
)
def run(
    *,
    listen_grpc: Address,
    listen_http: Address,
    database: str,
    allow_simulated: bool,
    simulated_roots: tuple[Path, ...],
    allowed_hosts: tuple[str, ...],
    proxies: tuple[str, ...],
    grpc_certificate: Path | None,
    grpc_key: Path | None,
    as_json: bool,
) -> None:
    """Run until SIGTERM or SIGINT.

    Agents connect to --listen-grpc and send what they decided. The Observer verifies each
    agent's passport and the proof of its key, then every record's place in the hash chain, and
    acknowledges only what it has committed. Open the page at the address of --listen-http.

    \b
    Try it with a simulated TEE:
      lucid-observer run --allow-simulated \\
          --simulated-root STATE_DIRECTORY/simulated-tee/root.pem

    \b
    Exit codes:
      0  stopped by a signal
      2  it cannot run as it was told to (the reason is printed)
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    # Its warnings are about requests that anybody can send: they are counted, not logged.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        config = ObserverConfig(
            listen_grpc=listen_grpc,
            listen_http=listen_http,
            database=database,
            allow_simulated=allow_simulated,
            simulated_roots=simulated_roots,
            allowed_hosts=allowed_hosts,
            proxies=proxies,
            grpc_certificate=grpc_certificate,
            grpc_key=grpc_key,
        )
        for warning in config.warnings():
            click.echo(f"warning: {warning}", err=True)
        _open_files(config.limits)
        asyncio.run(_run(config, as_json=as_json))
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USAGE)


def _open_files(limits: Limits) -> None:
    """Let as many files be open as there may be connections: many of those must not keep the
    database from its own."""
    wanted = limits.grpc_connections + limits.http_connections + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        click.echo(
            f"warning: {hard} files may be open, {wanted} is what all connections could need:"
            " raise the limit (LimitNOFILE=, ulimit -n).",
            err=True,
        )


async def _run(config: ObserverConfig, *, as_json: bool) -> None:
    from observer.app import serve  # noqa: PLC0415 - so that --help does not wait for everything

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config) as running:
        addresses = {"grpc": str(running.grpc), "http": f"http://{running.http}/"}
        if as_json:
            click.echo(json.dumps(addresses))
        else:
            click.echo(f"agents connect to  {addresses['grpc']}")
            click.echo(f"the page is at     {addresses['http']}")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    main()
