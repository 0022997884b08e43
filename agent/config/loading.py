"""The configuration is read: the file, then the variables, then everything is checked."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.config.base import ConfigError, Places
from agent.config.config import Config
from agent.config.environment import apply_environment
from agent.config.keys import unknown_keys, wrong_values

MAX_CONFIG_SIZE: Final = 1024 * 1024  # bytes


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file (or none), apply the variables, check everything.

    Raises:
        ConfigError: with every problem found.
    """
    data = _read(path) if path is not None else {}
    problems = list(unknown_keys(Config, data, ""))
    problems += apply_environment(data, environ)
    problems += wrong_values(Config, data)
    if problems:
        raise ConfigError("\n".join(problems))
    config = msgspec.convert(data, Config)
    if not config.agent.id:
        named = msgspec.structs.replace(config.agent, id=_host_name())
        config = msgspec.structs.replace(config, agent=named)
    if problems := config.problems():
        raise ConfigError("\n".join(problems))
    base = path.parent if path is not None else Path()
    return config.placed(Places(base, environ))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_SIZE:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_SIZE} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _host_name() -> str:
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return name.strip(".-_")[:64] or "lucid-agent"
