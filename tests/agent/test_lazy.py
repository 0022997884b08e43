"""The command's table: complete, true to the commands, and cheap."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from agent.cli import COMMANDS, main
from agent.lazy import LazyGroup


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    assert isinstance(main, LazyGroup)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_there_is_no_other_command() -> None:
    assert main.get_command(click.Context(main), "nonsense") is None


def test_the_list_of_commands_imports_none() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from agent.cli import COMMANDS, main\n"
        "said = CliRunner().invoke(main, ['--help']).output\n"
        "assert all(name in said for name in COMMANDS), said\n"
        "heavy = {'trio', 'grpc', 'httpx', 'cryptography', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
