"""Takes into the kept corpus what reaches code that the kept inputs do not (`make fuzz-keep`).

python -m tests.fuzz.keep TARGET DIRECTORY

Small inputs come first, so that one small input is kept in the place of many large ones. Coverage
is by lines of the project, which is coarser than the fuzzer's own and keeps the corpus small.
Inputs of the kept corpus that broke something are kept whatever they cover.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz.targets import TARGETS

KEPT: Final = Path(__file__).with_name("kept")
PACKAGES: Final = tuple(
    f"{Path(__file__).parents[2] / name}/"
    for name in ("agent", "attestation", "enforcement", "observer")
)
LONGEST: Final = 4096
Line = tuple[str, int, int]  # file, line before, line


def covered(target: Callable[[bytes], None], data: bytes) -> set[Line]:
    """Steps from line to line that the target takes in the project."""
    steps: set[Line] = set()

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGES):
            return None
        last = 0

        def step(frame: FrameType, event: str, _arg: object) -> Any:
            nonlocal last
            if event == "line":
                steps.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps


def choose(target: Callable[[bytes], None], inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs, smallest first, that take a step no smaller one takes."""
    known: set[Line] = set()
    kept = []
    for data in sorted(set(inputs), key=lambda d: (len(d), d)):
        steps = covered(target, data) - known
        if steps:
            known |= steps
            kept.append(data)
    return kept


def main(name: str, directory: Path) -> None:
    target, folder = TARGETS[name], KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [*folder.iterdir(), *(directory.iterdir() if directory.exists() else ())]
    special = [path for path in folder.iterdir() if not _is_digest(path.name)]
    inputs = [path.read_bytes() for path in paths if path.stat().st_size <= LONGEST]
    chosen = {hashlib.sha256(data).hexdigest()[:16]: data for data in choose(target, inputs)}
    for path in folder.iterdir():
        if path not in special and path.name not in chosen:
            path.unlink()
    for digest, data in chosen.items():
        (folder / digest).write_bytes(data)
    sys.stdout.write(
        f"{name}: {len(chosen)} of {len(inputs)} inputs, {len(special)} more that broke something\n"
    )


def _is_digest(name: str) -> bool:
    return len(name) == 16 and all(c in "0123456789abcdef" for c in name)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
