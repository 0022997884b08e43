"""`lucid policy push`, `history`, `rollback`: what an agent enforces."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from attestation import cbor
from enforcement.policy.bundle import Problem
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.policy.agent_client import AgentClient, AgentError, Answer
from lucid.policy.cases import read_cases
from lucid.policy.common import (
    agent_option,
    bundle_argument,
    json_option,
    load_bundle,
    show_problems,
    stop,
)
from lucid.policy.running import run_cases
from lucid.policy.sign import key_option, signed_files
from lucid.terminal import printable

_BECAME: Final = {
    "in_force": "in force",
    "waiting": "kept; in force with the next passport",
    "superseded": "kept, but a newer bundle came into force in its place",
}
_STATES: Final = {
    "waiting": ", waiting for its passport",
    "superseded": ", superseded before it came into force",
}


@click.command("push")
@bundle_argument
@agent_option()
@key_option
@click.option("--without-tests", is_flag=True, help="Push a bundle that has no tests.")
@json_option
def push(
    directory: Path, *, agent: str, key_file: Path | None, without_tests: bool, as_json: bool
) -> None:
    """Validate a bundle, run its tests, sign it (--key), and put it in force at an agent.

    The agent checks signature and bundle again, keeps it, and enforces it from its next passport
    on, which it asks for at once; the answer names the digest. What was in force stays in force if
    anything is wrong. Only root and the agent's own user may push.

    \b
    Exit codes: 0 in force; 1 the tests fail, the agent refuses it, or a newer bundle came into
    force in its place; 2 the bundle is not sound; 3 no agent answers, there are no tests, or it is
    kept and not yet in force: what it waits for is said, a reboot perhaps.
    """
    bundle = load_bundle(directory, as_json=as_json)
    cases, problems = read_cases(bundle)
    if problems:
        _refused([problem.as_json() for problem in problems], BAD_INPUT, as_json=as_json)
    results = run_cases(bundle, cases)
    failed = [result for result in results if result.failures]
    if failed:
        listed = [result.as_json() for result in failed]
        first = f"{failed[0].name}: {failed[0].failures[0]}"
        stop(NOT_SO, f"{len(failed)} tests fail; {first}", as_json=as_json, cases=listed)
    if not results and not without_tests:
        stop(UNCHECKED, "the bundle has no tests; --without-tests pushes it so", as_json=as_json)
    files = signed_files(bundle, key_file)
    try:
        answer = AgentClient(agent).ask("POST", "/v1/policy", cbor.encode(files))
    except AgentError as error:
        stop(UNCHECKED, str(error), as_json=as_json)
    _report(answer, as_json=as_json, tests=len(results))


@click.command("history")
@agent_option()
@json_option
def history(*, agent: str, as_json: bool) -> None:
    """Show the bundles that an agent took: when, which, whence, and by whom. Newest last.

    `*` marks the one in force. One that a newer bundle replaced before a passport stated it never
    decided anything: it was superseded.

    \b
    Exit codes: 0 shown; 3 no agent answers.
    """
    try:
        value = AgentClient(agent).get("/v1/policy/history")
    except AgentError as error:
        stop(UNCHECKED, str(error), as_json=as_json)
    entries = value["entries"]
    if as_json:
        click.echo(json.dumps({"ok": True, **value}, indent=2))
        return
    in_force = [n for n, entry in enumerate(entries) if entry["state"] in ("in_force", "")][-1:]
    for number, entry in enumerate(entries):
        mark = "*" if number in in_force else " "
        state = _STATES.get(entry["state"], "")
        signed = " signed" if entry["signer"] else ""
        by = f" by {entry['by']}" if entry["by"] else ""
        click.echo(
            f"{mark} {entry['at']}  {entry['digest'][:16]}  "
            + printable(f"{entry['name']} {entry['version']}  {entry['action']}{by}{signed}{state}")
        )
    if isinstance(waits_for := value.get("waits_for"), dict):
        kept, *why = _became("waiting", waits_for)
        click.echo(f"the newest: {kept}")
        for line in why:
            click.echo(f"  {printable(line)}")


@click.command("rollback")
@click.argument("digest", required=False)
@agent_option()
@json_option
def rollback(digest: str | None, *, agent: str, as_json: bool) -> None:
    """Put an earlier bundle in force again: the one with this digest, or the one before.

    DIGEST may be the first characters, as `history` shows them. The agent checks the bundle again.

    \b
    Exit codes: 0 in force; 1 the agent refuses it, or a newer bundle came into force in its place;
    2 no such bundle; 3 no agent answers, or it is not yet in force.
    """
    client = AgentClient(agent)
    try:
        wanted = None if digest is None else _whole(client, digest, as_json=as_json)
        body = json.dumps({} if wanted is None else {"digest": wanted}).encode()
        answer = client.ask("POST", "/v1/policy/rollback", body)
    except AgentError as error:
        stop(UNCHECKED, str(error), as_json=as_json)
    if answer.status == 404:
        stop(BAD_INPUT, answer.message, as_json=as_json)
    _report(answer, as_json=as_json)


def _whole(client: AgentClient, digest: str, *, as_json: bool) -> str:
    entries = client.get("/v1/policy/history")["entries"]
    found = {entry["digest"] for entry in entries if entry["digest"].startswith(digest.lower())}
    if len(found) != 1 or not digest:
        what = "no bundle" if not found else f"{len(found)} bundles"
        cure = "look at `lucid policy history`" if not found else "give more of it"
        stop(BAD_INPUT, f"{what} in the history with a digest {digest}…; {cure}", as_json=as_json)
    return str(found.pop())


def _report(answer: Answer, *, as_json: bool, **more: Any) -> NoReturn:
    value = answer.value
    if answer.status == 422:
        _refused(value["error"]["problems"], NOT_SO, as_json=as_json)
    if answer.status not in (200, 202):
        code = NOT_SO if answer.status == 403 else UNCHECKED
        stop(code, f"the agent answers {answer.status}: {answer.message}", as_json=as_json)
    if as_json:
        click.echo(json.dumps({"ok": value["in_force"], **value, **more}, indent=2))
    else:
        became, *why = _became(value["state"], value.get("waits_for"))
        click.echo(printable(f"{value['name']} {value['version']}: {became}"))
        click.echo(printable(f"digest {value['digest']}"))
        for line in why:
            click.echo(f"  {printable(line)}")
        if value["passport"]:
            click.echo(f"passport {printable(value['passport'])}")
    sys.exit({"in_force": DONE, "superseded": NOT_SO}.get(value["state"], UNCHECKED))


def _became(state: str, waits_for: Any) -> list[str]:
    """What became of a bundle, in a line for each: what, and where the agent knows it, why."""
    if state != "waiting" or not isinstance(waits_for, dict):
        return [_BECAME.get(state, state)]
    if waits_for["reboot"]:
        kept = "kept; NOT in force, and it will not be before the agent's machine is rebooted"
    else:
        kept = "kept; NOT in force before there is a passport again"
    return [kept, f"why: {waits_for['reason']}", f"next: {waits_for['next']}"]


def _refused(problems: list[dict[str, Any]], code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
    else:
        show_problems(Problem(**problem) for problem in problems)
        click.echo("refused; what was in force stays", err=True)
    sys.exit(code)
