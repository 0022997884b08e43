"""Times the PyPI package `tinfoil` over SNP reports; runs in an environment of its own.

Standard input: JSON list of {"report": base64, "vcek": base64}. Standard output: JSON list, for
each microseconds for one full verification (signature and chain, no policy), or null where it
refuses the report.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
import time

from tinfoil.attestation.abi_sev import Report  # type: ignore[import-not-found]
from tinfoil.attestation.verify_sev import (  # type: ignore[import-not-found]
    CertificateChain,
    verify_attestation,
)

ROUNDS, CALLS = 5, 60


def verify(report: bytes, vcek: bytes) -> bool:
    parsed = Report(report)
    return bool(verify_attestation(CertificateChain.from_report(parsed, vcek_der=vcek), parsed))


def time_one(report: bytes, vcek: bytes) -> float | None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if not verify(report, vcek):
                return None
            best = float("inf")
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for _ in range(CALLS):
                    verify(report, vcek)
                best = min(best, (time.perf_counter() - start) / CALLS)
    except Exception:  # noqa: BLE001 - whatever a peer raises is a refusal
        return None
    return best * 1e6


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    json.dump(
        [
            time_one(base64.b64decode(case["report"]), base64.b64decode(case["vcek"]))
            for case in cases
        ],
        sys.stdout,
    )
