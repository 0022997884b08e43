"""`lucid-agent status` and `healthcheck`: questions to the running agent, over its Unix socket.

A probe runs every few seconds: nothing is imported here that a question does not need.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from typing import Any, Final

import click

from agent.commands.failing import fail

DEFAULT_SOCKET: Final = "/run/lucid/agent.sock"
SECONDS: Final = 5.0
MAX_ANSWER: Final = 1024 * 1024  # bytes
SILENT: Final = 3  # exit code where the running agent could not be asked

_socket_option = click.option(
    "--socket",
    "socket_path",
    default=DEFAULT_SOCKET,
    envvar="LUCID_AGENT_SOCKET",
    show_default=True,
    help="The local API's Unix socket ([api] socket).",
)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; a client library would take five times as long to import."""

    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def _ask(socket_path: str, route: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of one answer. Ends with SILENT where there is none."""
    connection = _UnixConnection(socket_path)
    try:
        connection.request("GET", route)
        response = connection.getresponse()
        return response.status, json.loads(_whole(response))
    except (OSError, http.client.HTTPException, ValueError) as error:
        fail(
            SILENT,
            f"no agent answers on {socket_path}: {getattr(error, 'strerror', None) or error}",
            "is the agent running? --socket names the socket ([api] socket)",
        )
    finally:
        connection.close()


def _whole(response: http.client.HTTPResponse) -> bytes:
    """The body, of a size and in a time that an agent's has."""
    data, end = bytearray(), time.monotonic() + SECONDS
    while piece := response.read1(MAX_ANSWER):
        data += piece
        if len(data) > MAX_ANSWER:
            raise ValueError(f"the answer is larger than {MAX_ANSWER} bytes")
        if time.monotonic() > end:
            raise ValueError(f"no whole answer in {SECONDS:g} s")
    return bytes(data)


@click.command()
@_socket_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(socket_path: str, *, as_json: bool) -> None:
    """Show what the running agent says of itself: state, since when, why, what happens next.

    Exits 0 if it is ready, 1 if not, 3 if no agent answers.
    """
    _code, data = _ask(socket_path, "/v1/status")
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        _print_status(data)
    sys.exit(0 if data["ready"] else 1)


def _print_status(data: dict[str, Any]) -> None:
    passport, policy, observer = data["passport"], data["policy"], data["observer"]
    journal = data["journal"]
    rows = [
        ("State", f"{data['state']} since {data['since']} ({data['since_seconds']:.0f} s)"),
        ("Why", data["reason"]),
        ("Next", data["next"]),
        ("Ready", "yes" if data["ready"] else "no"),
        ("Gateway", f"{'https' if data['tls'] else 'http'}://{data['gateway']}"),
    ]
    if data["tls"]:
        rows.append(("TLS", _tls(data["tls"])))
    if passport is not None:
        marks = "SIMULATED, " if passport["simulated"] else ""
        rows.append(
            ("Passport", f"{passport['id']} ({marks}{passport['seconds_left']:.0f} s left)")
        )
        listed = passport["revocation"]
        word = "no" if listed["status"] == "passed" else "not checked"
        rows.append(("Revoked", f"{word} ({listed['detail']})"))
    if policy is not None:
        rows.append(("Policy", f"{policy['name']} {policy['version']} ({policy['digest'][:16]}…)"))
        if policy["shadow"] is not None:
            rows.append(("Shadow", _shadow(policy["shadow"])))
    rows.append(
        ("Journal", f"{journal['durable_seq']} decisions durable, head {journal['head'][:16]}…")
    )
    if observer is not None:
        rows.append(("Observer", _observer(observer)))
        if observer["alarm"]:
            rows.append(("Alarm", f"{observer['alarm']} ({observer['alarms']} in all)"))
    custody = data["custody"]
    if custody is not None and custody["problems"]:
        swap = "and there is swap" if custody["swap"] else "but there is no swap"
        rows.append(("Keys", f"{'; '.join(custody['problems'])} ({swap})"))
    for name, value in rows:
        click.echo(f"{name + ':':<10} {value}")


def _observer(data: dict[str, Any]) -> str:
    aside = data.get("set_aside", 0)  # an older agent does not say
    return f"{'connected' if data['connected'] else 'away'}, {data['lag']} behind" + (
        f", {aside} earlier {'boot' if aside == 1 else 'boots'} set aside" if aside else ""
    )


def _shadow(data: dict[str, Any]) -> str:
    """One line: which candidate is asked, and what is wrong with its folder."""
    asked = f"{data['digest'][:16]}…" if data["digest"] else "no candidate is asked"
    problem = data["problem"].partition("\n")[0]
    return f"{asked}; its folder was refused: {problem}" if problem else asked


def _tls(data: dict[str, Any]) -> str:
    """One line: whose certificate, until when, and whom it has refused."""
    failed = ", ".join(f"{count} {reason}" for reason, count in data["handshake_failures"].items())
    return (
        f"certificate {data['certificate']['sha256'][:16]}… ends {data['certificate']['ends']},"
        f" client certificates: {data['client']},"
        f" {data['handshakes']} handshakes, failed: {failed or 'none'}"
    )


@click.command()
@_socket_option
@click.option("--live", is_flag=True, help="Ask only whether the process is alive.")
def healthcheck(socket_path: str, *, live: bool) -> None:
    """For probes: exit 0 if the agent is ready (or alive with --live), 1 if not, 3 if silent."""
    code, data = _ask(socket_path, "/healthz" if live else "/readyz")
    if code != 200:
        click.echo(data.get("reason", "not ready"), err=True)
        sys.exit(1)
