"""`make bench-commands`: how long a command takes to say its help, beside an interpreter that does
nothing. `tests/lucid/test_startup.py` keeps what makes it so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.table import spread

RESULT = Path(__file__).with_name("RESULTS-COMMANDS.md")
BIN = Path(sys.executable).parent
LIMIT_MS = 150
ROUNDS = 30
COMMANDS = {
    "python -c pass (the floor)": [sys.executable, "-c", "pass"],
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "lucid --help": [str(BIN / "lucid"), "--help"],
    "lucid-agent --help": [str(BIN / "lucid-agent"), "--help"],
    "lucid-observer --help": [str(BIN / "lucid-observer"), "--help"],
    "lucid-agent healthcheck (no agent)": [str(BIN / "lucid-agent"), "healthcheck", "--socket=/x"],
}


def taken(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return (time.perf_counter() - start) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    rows: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            rows[name].append(taken(command))
    text = spread({f"{name}, ms": values for name, values in rows.items()})
    print(text)
    if args.write:
        today = datetime.now(UTC).date()
        RESULT.write_text(
            f"# Commands, from start to end, measured on {today}\n\n"
            f"{ROUNDS} runs each, in turns, files in the page cache. Made by `make bench-commands`."
            f" `lucid --help` has to be below {LIMIT_MS} ms.\n\n{text}\n"
        )
    return 0 if sorted(rows["lucid --help"])[ROUNDS // 2] <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
