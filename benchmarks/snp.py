"""`make bench-snp`: verifying SNP reports, beside its floor and beside a peer, in one run.

The floor is what no verifier can leave out: one P-384 and two RSA-PSS-4096 verifications with the
same library. Real reports come from `$LUCID_VECTORS` or `../shared/vectors`.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.anchors import TrustAnchors
from attestation.snp.abi import Report
from attestation.snp.appraise import appraise_report
from attestation.snp.certs import Chain
from attestation.snp.policy import GuestRules, SnpPolicy
from attestation.snp.verify import VerifiedReport, verify_report
from benchmarks.table import spread
from benchmarks.timing import microseconds

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-peers" / "bin" / "python"
RESULT = Path(__file__).with_name("RESULTS-SNP.md")
SHA384 = hashes.SHA384()
PSS = padding.PSS(mgf=padding.MGF1(SHA384), salt_length=48)
# Accepts every real case: what is timed is the whole way.
POLICY = SnpPolicy(
    sb_3019=False, allow_provisional_firmware=True, guest=GuestRules(allow_debug=True)
)
ROUNDS, CALLS = 5, 60


class Case:
    """One real report with its certificates, and the things to time."""

    def __init__(self, folder: Path, case: dict[str, Any]) -> None:
        def cert(name: str) -> bytes:
            return (folder / "certs" / f"{name}.der").read_bytes()

        self.name = case["product_ext"]
        self.report = (folder / "reports" / f"{case['report']}.bin").read_bytes()
        self.parts = {
            "ark": cert(case["ark"][0]),
            "ica": cert(case["ica"][0]),
            "ek": cert(case["ek"]),
        }
        self.now = max(datetime.fromisoformat(case["valid_from"]), datetime.now(UTC))
        self.now = min(self.now, datetime.fromisoformat(case["valid_to"]))
        self.roots = TrustAnchors.builtin().amd
        self.chain = Chain.parse(**self.parts)
        report = Report.parse(self.report)
        self._signature = encode_dss_signature(report.signature_r, report.signature_s)

    def p384(self) -> None:
        self.chain.ek_key.verify(self._signature, self.report[:0x2A0], ec.ECDSA(SHA384))

    def floor(self) -> None:
        chain = self.chain
        self.p384()
        chain.ark_key.verify(chain.ica.signature, chain.ica.signed, PSS, SHA384)
        chain.ica_key.verify(chain.ek.signature, chain.ek.signed, PSS, SHA384)

    def verify(self, chain: Chain) -> VerifiedReport:
        return verify_report(
            self.report, chain, roots=self.roots, now=self.now, expected_report_data=None
        )

    def full(self) -> None:
        self.verify(Chain.parse(**self.parts))

    def full_and_appraised(self) -> None:
        verified = self.verify(Chain.parse(**self.parts))
        appraise_report(verified, POLICY)

    def known_chain(self) -> None:
        self.verify(self.chain)


def best(call: Callable[[], object]) -> float:
    """Microseconds for one call: the least of some rounds, because noise only adds."""
    call()
    return min(microseconds(call, rounds=ROUNDS, calls=CALLS))


def peer(cases: list[Case]) -> list[float | None]:
    if not PEER.exists():
        return [None] * len(cases)
    question = [
        {
            "report": base64.b64encode(case.report).decode(),
            "vcek": base64.b64encode(case.parts["ek"]).decode(),
        }
        for case in cases
    ]
    script = Path(__file__).with_name("peer_tinfoil.py")
    done = subprocess.run(
        [PEER, script], input=json.dumps(question), capture_output=True, text=True, check=True
    )
    answer: list[float | None] = json.loads(done.stdout)
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snp", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    vectors = Path(os.environ.get("LUCID_VECTORS", ROOT.parent / "shared" / "vectors"))
    try:
        known = json.loads((vectors / "snp" / "cases.json").read_text())
    except OSError as error:
        print(f"no real reports: {error}; set LUCID_VECTORS", file=sys.stderr)
        return 3
    cases = [Case(vectors / "snp", case) for case in known]
    rows: dict[str, list[float]] = {}
    for number, case in enumerate(cases):
        print(f"{number + 1}/{len(cases)}: {case.name} …", file=sys.stderr)
        p384, floor = best(case.p384), best(case.floor)
        for name, value in (
            ("floor: P-384 and two RSA-PSS-4096, µs", floor),
            ("full verification, µs", (full := best(case.full))),
            ("full verification ÷ floor", full / floor),
            ("full verification and appraisal, µs", best(case.full_and_appraised)),
            ("one P-384, µs", p384),
            ("chain known, µs", (warm := best(case.known_chain))),
            ("chain known ÷ one P-384", warm / p384),
        ):
            rows.setdefault(name, []).append(value)
    theirs = peer(cases)
    both = [
        (other, ours)
        for other, ours in zip(theirs, rows["full verification, µs"], strict=True)
        if other is not None
    ]
    if both:
        rows["tinfoil 0.15.0, full verification, µs"] = [other for other, _ in both]
        rows["tinfoil ÷ ours, same reports"] = [other / ours for other, ours in both]
    verdict = (
        f"{len(cases)} real reports; the peer accepts {len(both)} of them."
        if PEER.exists()
        else f"{len(cases)} real reports; the peer is not installed (make bench-snp does)."
    )
    text = spread(rows)
    print(f"{text}\n\n{verdict}")
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Verifying SNP reports, measured on {when}, one core\n\n{verdict} Made by `make"
            " bench-snp`; read the ratios. `full` reads and verifies the intermediate and the"
            " endorsement key anew each time; the root, of which there are three, is read once a"
            f" process.\n\n{text}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
