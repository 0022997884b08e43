"""What `--help` may cost: nothing is imported that it does not use."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import click
import pytest

import agent
from agent.lazy import LazyGroup
from lucid.cli import COMMANDS, main

# Everything that is slow to import, or that only a working command needs. `make bench` measures the
# time (`lucid --help` in 150 ms); this list keeps it, without a clock.
FORBIDDEN = {
    "aiosqlite", "attestation", "cbor2", "cedarpy", "cryptography", "enforcement", "google", "grpc",
    "h11", "httpcore", "httptools", "httpx", "jinja2", "msgspec", "OpenSSL",
    "prometheus_client", "psutil", "re2", "sqlalchemy", "ssl", "starlette", "trio",
    "uvicorn", "yaml",
}  # fmt: skip


@pytest.mark.parametrize("module", ["lucid.cli", "agent.cli"])
@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_nothing_that_they_do_not_use(module: str, argument: str) -> None:
    code = (
        f"import sys; from {module} import main\n"
        f"try: main([{argument!r}])\n"
        "except SystemExit as end: assert not end.code, end\n"
        f"print(*sorted({FORBIDDEN!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    *shown, imported = said.stdout.split("\n")[:-1]
    assert shown
    assert imported == ""


def test_a_probe_imports_no_more_than_its_question_needs() -> None:
    code = (
        "import sys; from agent.cli import main\n"
        "try: main(['healthcheck', '--socket=/nowhere'])\n"
        "except SystemExit as end: assert end.code == 3, end\n"
        f"print(*sorted({FORBIDDEN - {'ssl'}!r} & {{n.partition('.')[0] for n in sys.modules}}))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert said.stdout == "\n"
    assert "no agent answers on /nowhere" in said.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    assert isinstance(main, LazyGroup)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_the_version_that_the_daemon_states_is_the_installed_one() -> None:
    assert agent.__version__ == importlib.metadata.version("lucid-agent")
