"""Descriptors 0, 1 and 2, which a parent may have closed before it started us.

The next file or socket that is opened would get such a number, and log lines, which go to 2, would
be written into a client's connection or into the journal. So each one that is missing is opened,
and leads nowhere.
"""

from __future__ import annotations

import os
import sys


def keep() -> None:
    """Called before anything else is opened."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # Python has none for a descriptor that was closed when it started.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - to the end
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
