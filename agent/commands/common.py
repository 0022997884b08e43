"""What several commands of `lucid-agent` have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click

from agent.commands.failing import fail
from agent.config import Config, ConfigError, load_config
from agent.errors import ExitCode, FatalError

DEFAULT_CONFIG: Final = Path("/etc/lucid/agent.toml")
TEE_VARIABLE: Final = "LUCID_TEE_MODE"  # what --tee stands for

config_option = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="LUCID_CONFIG",
    help=f"Configuration file. Default: {DEFAULT_CONFIG} where it exists.",
)


def load(path: Path | None, *, tee: str | None = None) -> Config:
    """The configuration: the named file, else the default one where it exists, else none."""
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    try:
        return load_config(path, os.environ if tee is None else {**os.environ, TEE_VARIABLE: tee})
    except ConfigError as error:
        if path is None:
            fail(
                ExitCode.USAGE,
                f"no configuration file was named, {DEFAULT_CONFIG} is not there, and without one"
                f" (variables alone) this is wrong:\n{error}",
                "--config names a file; `lucid-agent init` writes a first one",
            )
        fail(ExitCode.USAGE, f"the configuration ({path}) is wrong:\n{error}")


def first_fatal(group: BaseExceptionGroup[FatalError]) -> FatalError:
    """The error to end with, where several parts may have failed at once."""
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FatalError)
    return error
