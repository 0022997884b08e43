"""`lucid policy shadow`: a candidate beside the live bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from attestation import cbor
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.policy.agent_client import AgentClient, AgentError
from lucid.policy.common import agent_option, bundle_argument, json_option, load_bundle, stop
from lucid.policy.sign import key_option, signed_files
from lucid.terminal import printable


@click.group("shadow")
def shadow() -> None:
    """Ask a candidate bundle about the real traffic, without effect, and see what differs."""


@shadow.command("start", short_help="Begin to ask a candidate beside the live bundle.")
@bundle_argument
@agent_option()
@key_option
@json_option
def start(directory: Path, *, agent: str, key_file: Path | None, as_json: bool) -> None:
    """Begin to ask the candidate in DIR beside the live bundle of an agent.

    Every record then says what the candidate would have decided. It lasts until `stop`, or until
    the agent ends. ([policy] shadow in agent.toml makes it permanent: then the folder it names is
    looked at like the bundle's own, and whichever changed last counts.)

    \b
    Exit codes: 0 asked from now on; 1 the agent refuses it; 2 not a sound bundle;
    3 no agent answers.
    """
    bundle = load_bundle(directory, as_json=as_json)
    files = signed_files(bundle, key_file)
    value = _ask(agent, "POST", cbor.encode(files), as_json=as_json)
    digest = value["shadow"]
    if as_json:
        click.echo(json.dumps({"ok": True, **value}, indent=2))
    else:
        click.echo(f"asked beside the live bundle: {digest}")


@shadow.command("stop")
@agent_option()
@json_option
def stop_shadow(*, agent: str, as_json: bool) -> None:
    """Stop asking the candidate.

    \b
    Exit codes: 0 stopped; 1 not allowed; 3 no agent answers.
    """
    value = _ask(agent, "DELETE", None, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"ok": True, **value}, indent=2))
    else:
        click.echo("no candidate is asked any more")


@shadow.command("report", short_help="Show where it would have decided otherwise.")
@agent_option()
@json_option
def report(*, agent: str, as_json: bool) -> None:
    """Show where the candidate would have decided otherwise, since it has been asked.

    \b
    Exit codes: 0 it never would; 1 it would, and here is where; 2 there is no candidate;
    3 no agent answers.
    """
    value = _ask(agent, "GET", None, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"ok": not value["different"], **value}, indent=2))
    else:
        candidate = value["candidate"]
        click.echo(
            printable(f"{candidate['name']} {candidate['version']} {candidate['digest'][:16]}")
            + f": {value['decisions']} decisions, {value['different']} otherwise"
        )
        for entry in value["differences"]:
            _show(entry)
        if value["problem"]:
            click.echo(
                printable(f"the directory of the candidate was refused since: {value['problem']}"),
                err=True,
            )
    sys.exit(NOT_SO if value["different"] else DONE)


def _show(entry: dict[str, Any]) -> None:
    live, other = (_side(entry, side) for side in ("live", "candidate"))
    click.echo(printable(f"{entry['count']:>6} × {entry['phase']}: {live} → {other}"))
    click.echo(printable(f"         for example {', '.join(entry['examples'][-3:])}"))


def _side(entry: dict[str, Any], side: str) -> str:
    why = [*entry[f"{side}_reasons"], *entry.get(f"{side}_obliges", [])]
    return f"{entry[side]} ({', '.join(why)})"


def _ask(agent: str, method: str, body: bytes | None, *, as_json: bool) -> dict[str, Any]:
    try:
        answer = AgentClient(agent).ask(method, "/v1/policy/shadow", body)
    except AgentError as error:
        stop(UNCHECKED, str(error), as_json=as_json)
    if answer.status == 404:
        cure = "`lucid policy shadow start DIR` has one asked"
        stop(BAD_INPUT, f"{answer.message}; {cure}", as_json=as_json)
    if answer.status != 200:
        told = answer.value.get("error")
        listed = told.get("problems", []) if isinstance(told, dict) else []
        detail = "".join(f"; {problem['message']}" for problem in listed)
        stop(NOT_SO if answer.status < 500 else UNCHECKED, answer.message + detail, as_json=as_json)
    value: dict[str, Any] = answer.value
    return value
