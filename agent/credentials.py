"""Secrets by reference: `credential:NAME` is a file that the service manager gave to the service.

Source: systemd.exec(5), LoadCredential=. The files are in memory, and readable by this service
alone. Outside the service (`check-config` by hand) the name stands for the place where it will be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PREFIX: Final = "credential:"
DIRECTORY: Final = Path("/run/credentials/lucid-agent.service")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


def resolve(text: str, environ: Mapping[str, str]) -> Path | None:
    """The file that `credential:NAME` names; None: the text is an ordinary path.

    Raises:
        ValueError: the name is not one that a credential may have.
    """
    if not text.startswith(PREFIX):
        return None
    name = text.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a credential (letters, digits, . _ -)")
    return Path(environ.get("CREDENTIALS_DIRECTORY") or DIRECTORY) / name
