"""How a command ends that cannot do what was asked. Apart, so that a probe imports nothing else."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

import click


def fail(code: int, message: str, remedy: str = "") -> NoReturn:
    """Say what is wrong and what to do, and end with this exit code.

    Where the command was asked for JSON, the standard output gets
    `{"ok": false, "error": …, "remedy": …}` instead.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("as_json"):
        click.echo(json.dumps({"ok": False, "error": message, "remedy": remedy}, indent=2))
        sys.exit(code)
    click.echo(f"lucid-agent: {message}", err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    sys.exit(code)
