"""What `lucid-agent init` writes: a commented configuration and an example bundle."""

from __future__ import annotations

import hashlib
import secrets
import string
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

CONFIG_NAME: Final = "agent.toml"
BUNDLE_NAME: Final = "bundle"
_ANONYMOUS: Final = (
    '# Whoever reaches the gateway may ask, as User::"anonymous": it listens on this machine alone.'
    "\n# Name the clients and set this to false before it listens anywhere else.\nanonymous = true"
)
_HELPER: Final = (
    'helper = "/run/lucid-agent-quote/quote.sock"   # root\'s part: lucid-agent-quote.socket'
)
_NO_HELPER: Final = '# helper = "…"             # socket of `lucid-agent quote-helper`'


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written.

    Attributes:
        key: the first client's API key; empty: clients need none. It is kept nowhere.
    """

    config: Path
    bundle: Path
    key: str


class ExistsError(Exception):
    """Something of this name is there. Nothing was written."""


def write(directory: Path, *, service: bool, with_key: bool) -> Written:
    """Write both into a directory, which is made where it is missing.

    Args:
        service: for the unit files: hardware by the quote helper, state in /var/lib/lucid, the
            socket in /run/lucid. Else: a simulated TEE, and everything in the directory.
        with_key: only who has the key may ask.

    Raises:
        ExistsError: one of the two is there already.
        OSError: the directory cannot be written.
    """
    written = Written(
        config=directory / CONFIG_NAME,
        bundle=directory / BUNDLE_NAME,
        key=f"lk-{secrets.token_urlsafe(32)}" if with_key else "",
    )
    for path in (written.config, written.bundle):
        if path.exists() or path.is_symlink():
            raise ExistsError(f"{path} is there already")
    directory.mkdir(parents=True, exist_ok=True)
    # The bundle that `lucid demo` uses. Files of another room, not its code.
    _copy(resources.files("lucid").joinpath("data", "bundle"), written.bundle)
    template = resources.files("agent").joinpath("data", CONFIG_NAME).read_text("utf-8")
    text = string.Template(template).substitute(
        state_dir="/var/lib/lucid" if service else "state",
        log_format="json" if service else "text",
        mode="auto" if service else "simulated",
        helper=_HELPER if service else _NO_HELPER,
        identity=_identity(written.key),
        socket="/run/lucid/agent.sock" if service else "agent.sock",
    )
    with written.config.open("x", encoding="utf-8") as file:
        file.write(text)
    return written


def _identity(key: str) -> str:
    if not key:
        return _ANONYMOUS
    digest = hashlib.sha256(key.encode()).hexdigest()
    return (
        "# Clients show an API key; only its SHA-256 is kept here.\nanonymous = false\n"
        f'keys = [{{ name = "first", sha256 = "{digest}" }}]'
    )


def _copy(source: Traversable, target: Path) -> None:
    target.mkdir()
    for item in source.iterdir():
        if item.is_dir():
            _copy(item, target / item.name)
        else:
            (target / item.name).write_bytes(item.read_bytes())
