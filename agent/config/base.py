"""What the tables of the configuration are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from agent.credentials import resolve

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class ConfigError(Exception):
    """The configuration cannot be used. The message lists every problem found, one a line."""


class Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file: unknown keys are errors.

    A table that has paths gives itself with absolute ones (`placed`); one whose keys must fit
    together says what does not (`problems`).
    """


class Places:
    """Where the paths of a configuration lead.

    Args:
        base: what relative paths are relative to.
    """

    def __init__(self, base: Path, environ: Mapping[str, str]) -> None:
        self._base = base
        self._environ = environ

    def absolute(self, text: str) -> str:
        """The absolute path, without `..`; empty where there is none."""
        return str(_straight((self._base / text).absolute())) if text else ""

    def secret(self, text: str) -> str:
        """The same for a file with a secret, which may be `credential:NAME`.

        Raises:
            ConfigError: it is a credential that the service manager did not give.
        """
        try:
            credential = resolve(text, self._environ)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return self.absolute(text) if credential is None else str(credential)


def _straight(path: Path) -> Path:
    """The same place without `..`. Of links only those are resolved that a `..` comes after, as the
    system would do it: any other one is there to be switched (a policy bundle).
    """
    made = Path(path.anchor)
    for part in path.parts[1:]:
        if part != "..":
            made /= part
            continue
        try:
            made = (made.resolve() if made.is_symlink() else made).parent
        except (OSError, RuntimeError):  # a circle of links, or not to be looked at
            return path
    return made
