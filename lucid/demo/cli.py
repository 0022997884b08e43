"""`lucid demo`: the whole way on this machine, without hardware."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from attestation.anchors import TrustAnchors
from attestation.verifier import examine_passport
from lucid.demo.parts import AgentPart, DemoError, ObserverPart, wait_for
from lucid.demo.scenario import STEPS, Done, run_step
from lucid.demo.upstream import MODEL, DemoUpstream
from lucid.exchange import ExchangeError, exchange
from lucid.passport import exit_code, lines_of
from lucid.terminal import printable

DELIVERY_SECONDS = 20.0
MAX_MODELS = 1024 * 1024  # bytes that a list of models may have

_COLOURS = {"proceed": "green", "warn": "yellow", "redact": "cyan", "deny": "red"}


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Check every outcome, the chain and the passport, then exit: 0 if all is as expected.",
)
@click.option(
    "--upstream",
    metavar="URL",
    help="A real OpenAI-compatible model server instead of the built-in one. What it answers is"
    " not known, so only the decisions about requests are checked.",
)
@click.option(
    "--simulate",
    type=click.Choice(["sev-snp", "tdx"]),
    default="sev-snp",
    show_default=True,
    help="Whose machine the simulated TEE plays: AMD's or Intel's.",
)
@click.option("--model", help="The model to ask for (default: the server's first).")
@click.option(
    "--passport-out",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Keep the passport in this file, and its simulated root beside it (FILE.root.pem).",
)
def demo(
    *,
    once: bool,
    upstream: str | None,
    simulate: str,
    model: str | None,
    passport_out: Path | None,
) -> None:
    """Show everything on this machine: attest, issue a passport, decide, record, stream.

    Starts the Observer and the agent, with a *simulated* TEE, on free loopback ports, and a small
    built-in model server. Sends requests that proceed, warn, get redacted (whole and streamed) and
    are denied; then prints the passport, the decisions as the Observer has them, and the address
    of the live page. Without --once it stays until Ctrl-C, so that you can look and send requests
    of your own. Everything it writes is in a temporary directory that is removed at the end.

    \b
    Exit codes: 0 done (with --once: everything was as expected); 1 something was not;
    2 bad usage; 3 the parts could not be started.
    """
    try:
        with ExitStack() as stack:
            problems = _run(
                stack,
                once=once,
                upstream=upstream,
                simulate=simulate,
                model=model,
                passport_out=passport_out,
            )
    except DemoError as error:
        click.echo(f"lucid demo: {error}", err=True)
        sys.exit(3)
    except KeyboardInterrupt:
        problems = []
    sys.exit(1 if problems else 0)


def _run(
    stack: ExitStack,
    *,
    once: bool,
    upstream: str | None,
    simulate: str,
    model: str | None,
    passport_out: Path | None,
) -> list[str]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lucid-demo-")))
    builtin = upstream is None
    if upstream is None:
        upstream = stack.enter_context(DemoUpstream()).url
    click.echo("Starting the Observer and the agent (simulated TEE) …")
    agent = AgentPart(directory, upstream=upstream, simulate=simulate)
    observer = stack.enter_context(ObserverPart(directory, simulated_root=agent.simulated_root))
    agent.observer = observer.grpc
    stack.enter_context(agent)
    name = model or (MODEL if builtin else _first_model(agent.url))
    done = _ask(agent.url, name, exact=builtin)
    problems = [f"{d.step.name}: {problem}" for d in done for problem in d.problems]
    problems += _show_passport(agent, passport_out)
    problems += _show_decisions(agent, observer, exact=builtin)
    click.echo(f"\nThe Observer's page:  {observer.url}/")
    click.echo(f"The gateway:          {agent.url}/v1  (any OpenAI client)")
    for problem in problems:
        click.secho(f"NOT AS EXPECTED: {problem}", fg="red", bold=True)
    if once:
        if not problems:
            click.echo("Everything was as expected.")
    else:
        click.echo("Ctrl-C ends the demo.")
        while True:
            time.sleep(1)
            observer.check()
            agent.check()
    return problems


def _first_model(url: str) -> str:
    try:
        answer = exchange("GET", f"{url}/v1/models", largest=MAX_MODELS, seconds=10)
        return str(json.loads(answer.body)["data"][0]["id"])
    except (ExchangeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DemoError(f"the model server names no model ({error}); use --model") from None


def _ask(url: str, model: str, *, exact: bool) -> list[Done]:
    done = []
    for step in STEPS:
        click.echo(f"  asking: {step.name} … ", nl=False)
        try:
            result = run_step(url, step, model=model, exact=exact)
        except ExchangeError as error:
            raise DemoError(f"the gateway did not answer: {error}") from None
        bad = bool(result.problems)
        click.secho(f"HTTP {result.status}", dim=not bad, fg="red" if bad else None)
        done.append(result)
    return done


def _show_passport(agent: AgentPart, out: Path | None) -> list[str]:
    token = agent.passport()
    root = agent.simulated_root.read_bytes()
    if out is not None:
        out.write_bytes(token)
        out.with_name(out.name + ".root.pem").write_bytes(root)
    examination = examine_passport(
        token,
        now=datetime.now(UTC),
        anchors=TrustAnchors.builtin().with_simulated_root(root),
        allow_simulated=True,
    )
    click.echo("\nThe passport, verified offline")
    for name, value in lines_of(examination):
        click.echo(f"  {name}: {value}")
    if exit_code(examination.error):
        return [f"the passport does not verify: {examination.error}"]
    if examination.hardware_attested:
        return ["a simulated passport claims hardware"]
    return []


def _show_decisions(agent: AgentPart, observer: ObserverPart, *, exact: bool) -> list[str]:
    journal = agent.status()["journal"]
    last, boot = journal["last_seq"], journal["boot"]
    wait_for(
        lambda: observer.signed_seq(boot) >= last,
        DELIVERY_SECONDS,
        f"the Observer to have {last} decisions and a checkpoint over them",
    )
    decisions = list(reversed(observer.decisions(limit=200)))
    click.echo("\nThe decisions, as the Observer has them")
    _print_table(decisions)
    click.echo(
        f"The chain of all {last} decisions verifies; signed up to #{observer.signed_seq(boot)}."
    )
    problems = [f"the Observer raised an alarm: {alarm}" for alarm in observer.alarms()]
    found = [(d["phase"], d["outcome"]) for d in decisions]
    expected = [outcome for step in STEPS for outcome in step.outcomes]
    if exact and found != expected:
        problems.append(f"decisions {found}, expected {expected}")
    return problems


def _print_table(decisions: list[dict[str, Any]]) -> None:
    columns = ("seq", "phase", "route", "principal", "outcome", "reasons")
    rows = [
        [", ".join(d[name]) if name == "reasons" else printable(str(d[name])) for name in columns]
        for d in decisions
    ]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    click.secho("  ".join(f"{n:<{w}}" for n, w in zip(columns, widths, strict=True)), bold=True)
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        outcome = columns.index("outcome")
        cells[outcome] = click.style(cells[outcome], fg=_COLOURS.get(row[outcome]))
        click.echo("  ".join(cells).rstrip())
