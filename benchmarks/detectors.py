"""`make bench-detectors`: what it costs to look through a text, by what kind of text it is.

CPU time of one thread, the least of some rounds, because noise only adds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.timing import microseconds
from enforcement.content.redact import mask
from enforcement.detectors import DETECTORS, scan
from enforcement.detectors.fold import Folded

RESULT: Final = Path(__file__).with_name("RESULTS-DETECTORS.md")
ROUNDS, CALLS = 15, 200
SIZE: Final = 2000  # characters

_PROSE: Final = (
    "The quick brown fox jumps over the lazy dog, and nobody minded. In 2024 the committee met"
    " twice; its 14 members agreed on 3 of 7 points. We keep the results in a table and review"
    " them monthly with the team before anything is published or shared outside. "
)
_TECHNICAL: Final = (
    "The key question is which token you send: set the password in the vault, not in code. Version"
    " 10.15.7 of 2026-11-24 12:30:45 handled 1,234,567 requests; see RFC 9112, page 41-43. "
)
_CODE: Final = (
    "def parse(self, data: bytes) -> list[Event]:\n    @property\n    async def reader(self): ...\n"
    "    token = self.next_token(kind=Kind.NAME)  # 0x1f, 3.14\n    return cls(**kwargs)\n"
)
_PERSONAL: Final = (
    "Write to zoe.quist@example.com or call +1 415 555 2671; the card is 4539 1488 0343 6467 and"
    " the account DE89 3704 0044 0532 0130 00. "
)
TEXTS: Final = {
    "ordinary English": _PROSE,
    "the same with typographic marks (— “ ” ’ é)": _PROSE.replace("quick", "“quick” — café’s"),
    "technical, with words and numbers that look like it": _TECHNICAL,
    "code": _CODE,
    "Russian": "Этот текст написан по-русски, и в нём нет ничего, что надо скрывать. ",
    "Chinese": "人工智能模型在今天的会议上被详细讨论了，大家都同意下周再谈。",
    "English, with four things to find": "",
    "nothing but things to find": _PERSONAL,
}


def text_of(name: str) -> str:
    unit = TEXTS[name]
    if not unit:
        return _PROSE * 3 + _PERSONAL + _PROSE * 20
    return unit * (SIZE // len(unit) + 1)


def best(call: Callable[[], object]) -> float:
    """Microseconds of CPU for one call."""
    call()
    return min(microseconds(call, rounds=ROUNDS, calls=CALLS, clock=time.thread_time))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    lines = [f"| {SIZE} characters of | scan, µs | of it folding | spans | scan and mask, µs |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name in TEXTS:
        text = text_of(name)[:SIZE]
        found = len(scan(text, DETECTORS))
        times = (
            best(lambda t=text: scan(t, DETECTORS)),  # type: ignore[misc]
            best(lambda t=text: Folded(t)),  # type: ignore[misc]
            best(lambda t=text: mask(t, DETECTORS)),  # type: ignore[misc]
        )
        lines.append(f"| {name} | {times[0]:.1f} | {times[1]:.1f} | {found} | {times[2]:.1f} |")
    table = "\n".join(lines)
    print(table)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# The built-in detectors, measured on {when}, one core\n\nAll six labels on; CPU"
            f" time, the least of {ROUNDS} rounds, with Python {platform.python_version()}. Made by"
            f" `make bench-detectors`.\n\n{table}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
