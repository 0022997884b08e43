"""How a command ends that cannot do what was asked. Apart, so that a probe imports nothing else."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(code: int, message: str, remedy: str = "") -> NoReturn:
    """Say what is wrong and what to do, and end with this exit code."""
    click.echo(f"lucid-agent: {message}", err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    sys.exit(code)
