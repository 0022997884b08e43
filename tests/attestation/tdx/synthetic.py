"""A simulated Intel for tests: everything good, and one thing changed at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from attestation.simulated.tdx import SimulatedIntel
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.verify import VerifiedQuote, verify_quote

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
TD_1_5: dict[str, Any] = {
    "tee_tcb_svn2": bytes((7, 1, 3)) + bytes(13),
    "mrservicetd": bytes(48),
}


@cache
def intel() -> SimulatedIntel:
    return SimulatedIntel.create(now=NOW)


def endorsements(vendor: SimulatedIntel | None = None, **files: bytes | None) -> Endorsements:
    """Good ones, but for the files that are given."""
    of = vendor or intel()
    good: dict[str, bytes | None] = {
        "tcb_info": of.tcb_info(NOW),
        "qe_identity": of.qe_identity(NOW),
        "pck_crl": of.pck_crl(NOW),
        "root_crl": of.root_crl(NOW),
    }
    return Endorsements.of(signing_chains=[of.signing_chain()], **(good | files))


def verify(
    quote: bytes | None = None,
    given: Endorsements | None = None,
    *,
    vendor: SimulatedIntel | None = None,
    now: datetime = NOW,
) -> VerifiedQuote:
    """Verify a good quote, but for what is given."""
    of = vendor or intel()
    return verify_quote(
        of.quote(REPORT_DATA) if quote is None else quote,
        endorsements(of) if given is None else given,
        now=now,
        expected_report_data=REPORT_DATA,
        vendor=of.vendor,
    )
