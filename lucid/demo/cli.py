"""`lucid demo`: the whole way on this machine, without hardware."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lucid.demo.parts import AgentPart, DemoError, ObserverPart, wait_for
from lucid.demo.scenario import STEPS, Done, run_step
from lucid.demo.upstream import MODEL, DemoUpstream
from lucid.passport import Expectations, exit_code, lines_of

DELIVERY_SECONDS = 20.0

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
    console = Console(stderr=False, highlight=False)
    try:
        with ExitStack() as stack:
            problems = _run(
                console,
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
    console: Console,
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
    console.print("Starting the Observer and the agent (simulated TEE) …")
    agent = AgentPart(directory, upstream=upstream, simulate=simulate)
    observer = stack.enter_context(ObserverPart(directory, simulated_root=agent.simulated_root))
    agent.observer = observer.grpc
    stack.enter_context(agent)
    name = model or (MODEL if builtin else _first_model(agent.url))
    done = _ask(console, agent.url, name, exact=builtin)
    problems = [f"{d.step.name}: {problem}" for d in done for problem in d.problems]
    problems += _show_passport(console, agent, passport_out)
    problems += _show_decisions(console, agent, observer, exact=builtin)
    console.print(f"\nThe Observer's page:  {observer.url}/")
    console.print(f"The gateway:          {agent.url}/v1  (any OpenAI client)")
    for problem in problems:
        console.print(Text(f"NOT AS EXPECTED: {problem}", style="bold red"))
    if once:
        console.print("Everything was as expected." if not problems else "")
    else:
        console.print("Ctrl-C ends the demo.")
        while True:
            time.sleep(1)
            observer.check()
            agent.check()
    return problems


def _first_model(url: str) -> str:
    try:
        models = httpx.get(f"{url}/v1/models", timeout=10).raise_for_status().json()
        return str(models["data"][0]["id"])
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        raise DemoError(f"the model server names no model ({error}); use --model") from None


def _ask(console: Console, url: str, model: str, *, exact: bool) -> list[Done]:
    done = []
    with httpx.Client(base_url=url, timeout=120) as client:
        for step in STEPS:
            console.print(f"  asking: {step.name} …", end=" ")
            try:
                result = run_step(client, step, model=model, exact=exact)
            except httpx.HTTPError as error:
                raise DemoError(f"the gateway did not answer: {error}") from None
            mark = Text(f"HTTP {result.status}", style="dim" if not result.problems else "red")
            console.print(mark)
            done.append(result)
    return done


def _show_passport(console: Console, agent: AgentPart, out: Path | None) -> list[str]:
    token = agent.passport()
    root = agent.simulated_root.read_bytes()
    if out is not None:
        out.write_bytes(token)
        out.with_name(out.name + ".root.pem").write_bytes(root)
    examination = Expectations.for_simulated(root).examine(token)
    console.print("\nThe passport, verified offline")
    for name, value in lines_of(examination):
        console.print(Text(f"  {name}: {value}"))
    if exit_code(examination.error):
        return [f"the passport does not verify: {examination.error}"]
    if examination.hardware_attested:
        return ["a simulated passport claims hardware"]
    return []


def _show_decisions(
    console: Console, agent: AgentPart, observer: ObserverPart, *, exact: bool
) -> list[str]:
    journal = agent.status()["journal"]
    last, boot = journal["last_seq"], journal["boot"]
    wait_for(
        lambda: observer.signed_seq(boot) >= last,
        DELIVERY_SECONDS,
        f"the Observer to have {last} decisions and a checkpoint over them",
    )
    decisions = list(reversed(observer.decisions(limit=200)))
    table = Table(title="The decisions, as the Observer has them", title_justify="left")
    for column in ("#", "phase", "route", "principal", "outcome", "reasons"):
        table.add_column(column)
    for d in decisions:
        table.add_row(
            str(d["seq"]),
            d["phase"],
            d["route"],
            d["principal"],
            Text(d["outcome"], style=_COLOURS.get(d["outcome"], "")),
            Text(", ".join(d["reasons"])),
        )
    console.print()
    console.print(table)
    console.print(
        f"The chain of all {last} decisions verifies; signed up to #{observer.signed_seq(boot)}."
    )
    problems = [f"the Observer raised an alarm: {alarm}" for alarm in observer.alarms()]
    found = [(d["phase"], d["outcome"]) for d in decisions]
    expected = [outcome for step in STEPS for outcome in step.outcomes]
    if exact and found != expected:
        problems.append(f"decisions {found}, expected {expected}")
    return problems
