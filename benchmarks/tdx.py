"""`make bench-tdx`: verifying TDX quotes beside dcap-qvl (Rust), in one run.

Real quotes come from `$LUCID_VECTORS` or `../shared/vectors`: those that both accept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from attestation.tdx.chain import _read_again
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.signatures import _holds
from attestation.tdx.verify import verify_quote
from benchmarks.table import spread
from tests.attestation.tdx import peer
from tests.attestation.tdx.conftest import TdxVectors, moment, read

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_name("RESULTS-TDX.md")
ROUNDS = 30
NOTE = """\
Both read the quote and Intel's five files from bytes; dcap-qvl does so each time. *Full*: nothing
of earlier quotes is remembered. *Known*: Intel's files were parsed and verified before in this
process, and so was the platform's own certificate; the signatures of the quote and of its enclave
are verified each time."""


def full(quote: bytes, files: dict[str, bytes], now: datetime) -> None:
    """Verify, with nothing remembered."""
    _holds.cache_clear()
    _read_again.cache_clear()
    known(quote, read(files), now)


def known(quote: bytes, endorsements: Endorsements, now: datetime) -> None:
    """Verify with documents that were read before."""
    verify_quote(quote, endorsements, now=now, expected_report_data=None)


def medians(calls: list[Callable[[], object]]) -> list[float]:
    """Microseconds for each, measured in turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, times in zip(calls, taken, strict=True):
            call()  # whoever comes first finds cold caches
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) * 1e6 for times in taken]


def measure(tdx: TdxVectors, case: dict[str, Any]) -> list[float]:
    """Microseconds of the peer, of ours in full, of ours with everything known."""
    quote, files, now = tdx.quote(case["quote"]), tdx.files(case), moment(case)
    given = peer.collateral(files, quote)
    return medians(
        [
            partial(peer.answer, quote, given, case["time"]),
            partial(full, quote, files, now),
            partial(known, quote, read(files), now),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tdx", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    folder = Path(os.environ.get("LUCID_VECTORS", ROOT.parent / "shared" / "vectors"))
    try:
        tdx = TdxVectors(folder)
    except OSError as error:
        print(f"no real quotes: {error}; set LUCID_VECTORS", file=sys.stderr)
        return 3
    cases = [case for case in tdx.cases if case["dcap_qvl"]["ok"]]
    rows: dict[str, list[float]] = {}
    for number, case in enumerate(cases):
        if sys.stderr.isatty() or number % 20 == 0:
            print(f"{number + 1}/{len(cases)}: {case['quote']} …", file=sys.stderr)
        theirs, whole, warm = measure(tdx, case)
        for name, value in (
            ("dcap-qvl 0.7.0, µs", theirs),
            ("full verification, µs", whole),
            ("full verification ÷ dcap-qvl", whole / theirs),
            ("known collateral, µs", warm),
            ("known collateral ÷ dcap-qvl", warm / theirs),
        ):
            rows.setdefault(name, []).append(value)
    text = spread(rows)
    print(f"{text}\n\n{len(cases)} real cases.")
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Verifying TDX quotes, measured on {when}, one core\n\n{len(cases)} real cases that"
            f" both accept; medians of {ROUNDS} calls in turns. Made by `make bench-tdx`; read the"
            f" ratios.\n\n{NOTE}\n\n{text}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
