"""`--help` of every command: there by both names, and no line of a list of commands cut short."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from agent.cli import main as agent
from lucid.cli import main as lucid
from observer.cli import main as observer


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*words, name))


TOPS = {"lucid": lucid, "lucid-agent": agent, "lucid-observer": observer}
ALL = [words for name, top in TOPS.items() for words in commands(top, (name,))]


@pytest.fixture(autouse=True)
def fresh(words: tuple[str, ...]) -> None:
    """Other tests call commands without those above them, and click remembers how its option for
    help was called then.
    """
    name, *rest = words
    command: click.Command = TOPS[name]
    for below in rest:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), below)
        assert found is not None
        command = found
        command._help_option = None


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_by_both_names(words: tuple[str, ...]) -> None:
    name, *rest = words
    short, long = (
        CliRunner().invoke(TOPS[name], [*rest, option], prog_name=name)
        for option in ("-h", "--help")
    )
    assert (short.exit_code, short.output) == (0, long.output)
    assert "..." not in long.output.replace("[ARGS]...", "").replace("[COMMAND]...", "")
