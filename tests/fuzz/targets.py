"""Every target by its name: what `make fuzz` runs, and `tests.fuzz.test_replay` over what is kept.

A target returns for every input, or a law is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from tests.fuzz import (
    bundle_targets,
    caller_targets,
    door_targets,
    observer_targets,
    statement_targets,
)

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    **door_targets.TARGETS,
    **statement_targets.TARGETS,
    **caller_targets.TARGETS,
    **bundle_targets.TARGETS,
    **observer_targets.TARGETS,
}

if __name__ == "__main__":
    sys.stdout.write("\n".join(TARGETS) + "\n")
