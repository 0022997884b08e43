"""Coverage-guided fuzzing of what reads hostile bytes at the door (`make fuzz`).

python -m tests.fuzz.door TARGET [libFuzzer's arguments]; a name in `door_targets.TARGETS`.

Any exception, a hang of a few seconds or a gigabyte of memory ends the run.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["enforcement", "tests.fuzz.door_targets"]):
    from tests.fuzz.door_targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
