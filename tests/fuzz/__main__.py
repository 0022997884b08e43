"""Coverage-guided fuzzing of what reads hostile bytes (`make fuzz`).

python -m tests.fuzz TARGET [libFuzzer's arguments]; a name in `targets.TARGETS`.

Any exception, a hang of ten seconds or a gigabyte of memory ends the run.
"""

from __future__ import annotations

import sys

import atheris

# By first names: whatever package a module moves to, it is seen. With them the readers of others
# that are written in Python.
OURS = ["agent", "attestation", "enforcement", "observer", "tests"]
with atheris.instrument_imports(include=[*OURS, "jwt", "tomllib"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
