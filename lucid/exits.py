"""The exit codes of every command that checks something."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
NOT_SO: Final = 1  # what was checked is not so
BAD_INPUT: Final = 2  # bad usage, or not what was to be looked at
UNCHECKED: Final = 3  # it could not be checked, which proves nothing
