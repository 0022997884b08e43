"""Manual pages from what the commands say of themselves (`--help`), one page a command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

PAGES: Final = {
    "lucid-agent": ("agent.cli", "attestation and policy enforcement beside an AI model"),
    "lucid": ("lucid.cli", "verify AI Passports and hardware evidence"),
    "lucid-observer": ("observer.cli", "receive decisions and prove that none is missing"),
}
_LIST: Final = """
import importlib, json, sys
import click
group = importlib.import_module(sys.argv[1]).main
context = click.Context(group)
def walk(path, group):
    names = group.list_commands(context) if isinstance(group, click.Group) else []
    for name in names:
        yield [*path, name]
        yield from walk([*path, name], group.get_command(context, name))
print(json.dumps([[], *walk([], group)]))
"""


def write_pages(python: Path, directory: Path) -> None:
    """Write the pages for the commands that this interpreter has."""
    directory.mkdir(parents=True)
    for name, (module, summary) in PAGES.items():
        listed = json.loads(_output(python, "-c", _LIST, module))
        text = [f".TH {name.upper()} 1", ".SH NAME", rf"{_roff(name)} \- {summary}"]
        text += [".SH DESCRIPTION", *_verbatim(_output(python, "-m", module, "--help"))]
        text.append(".SH COMMANDS")
        for path in listed[1:]:
            text.append(f".SS {_roff(' '.join(path))}")
            text += _verbatim(_output(python, "-m", module, *path, "--help"))
        (directory / f"{name}.1").write_text("\n".join(text) + "\n")


def _verbatim(text: str) -> list[str]:
    return [".nf", *(_roff(line) for line in text.rstrip().splitlines()), ".fi"]


def _roff(line: str) -> str:
    line = line.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line


def _output(python: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - commands of ours
        [python, *arguments], capture_output=True, text=True, check=True, timeout=60,
        env={"COLUMNS": "80", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout
