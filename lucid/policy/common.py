"""What the policy commands share: bundles from their arguments, output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from enforcement.policy.bundle import Bundle, BundleError, Problem
from lucid.exits import BAD_INPUT
from lucid.terminal import printable

DEFAULT_SOCKET: Final = "/run/lucid/agent.sock"

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
bundle_argument = click.argument(
    "directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False)
)


def agent_option(*, required: bool = True) -> Callable[[F], F]:
    """`--agent`, with the installed agent's socket as default where it is required."""
    return click.option(
        "--agent",
        default=DEFAULT_SOCKET if required else None,
        envvar="LUCID_AGENT_SOCKET",
        show_default=required,
        metavar="SOCK|URL",
        help="The agent's local API: its Unix socket, or a URL that leads there.",
    )


def stop(code: int, message: str, *, as_json: bool, **more: Any) -> NoReturn:
    """End with this exit code and one line (or one JSON object) that says why."""
    if as_json:
        click.echo(json.dumps({"ok": False, "error": message, **more}, indent=2))
    else:
        click.echo(f"lucid: {printable(message)}", err=True)
    sys.exit(code)


def stop_for(problems: Sequence[Problem], message: str, *, as_json: bool) -> NoReturn:
    """End because of these; they are listed."""
    if as_json:
        listed = [problem.as_json() for problem in problems]
        stop(BAD_INPUT, message, as_json=True, problems=listed)
    show_problems(problems)
    sys.exit(BAD_INPUT)


def load_bundle(directory: Path, *, as_json: bool, code: int = BAD_INPUT) -> Bundle:
    """The bundle, or the end: every problem is said."""
    try:
        return Bundle.load(directory)
    except BundleError as error:
        if as_json:
            report = {"ok": False, "problems": [problem.as_json() for problem in error.problems]}
            click.echo(json.dumps(report, indent=2))
        else:
            show_problems(error.problems)
            click.echo(f"lucid: {directory} is no sound bundle", err=True)
        sys.exit(code)


def show_problems(problems: Iterable[Problem], *, level: str = "error") -> None:
    """One line each, and the cure below."""
    for problem in problems:
        place = problem.file or "bundle"
        if problem.line:
            place += f":{problem.line}:{problem.column}"
        click.echo(f"{place}: {level}[{problem.rule}]: {printable(problem.message)}")
        if problem.fix:
            click.echo(f"    fix: {printable(problem.fix)}")
