"""TDX quotes for `lucid evidence`."""

from __future__ import annotations

from typing import Any, Final

from attestation.anchors import TrustAnchors
from attestation.checks import Check
from attestation.tdx import names
from attestation.tdx.abi import Quote
from attestation.tdx.appraise import appraise_quote, demands
from attestation.tdx.chain import SIGNER, Chain
from attestation.tdx.collateral import QeIdentity, TcbInfo
from attestation.tdx.crl import parse_list
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.event_log import check_log
from attestation.tdx.fields import quote_fields
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import VerifiedQuote, verify_quote
from lucid.evidence_kinds import Options
from lucid.sources import read_file

SINGLE: Final = frozenset({"tcb-info", "qe-identity", "signing-chain", "pck-crl", "root-crl"})
WHOLE: Final = "collateral"
EVENT_LOG: Final = "event-log"


class TdxEvidence:
    """A quote of version 4 or 5. Implements `Kind`."""

    tee_type = "tdx"
    options = SINGLE | {WHOLE, EVENT_LOG}

    def __init__(self, data: bytes) -> None:
        """Raises MalformedError, UncheckableError."""
        self._data, self._quote = data, Quote.parse(data)

    def enclosed(self) -> dict[str, Any]:
        return {"certificates": self._quote.pck_chain.count(b"-----BEGIN CERTIFICATE-----")}

    def fields(self, verified: VerifiedQuote | None) -> dict[str, Any]:  # noqa: ARG002 - of Kind
        return quote_fields(self._quote)

    def findings(self, verified: VerifiedQuote | None) -> dict[str, Any]:
        if verified is None:
            return {"tcb_status": None, "tcb_date": None, "advisories": None}
        found = verified.assessment
        return {
            "tcb_status": found.status.value,
            "tcb_date": found.date.isoformat().replace("+00:00", "Z"),
            "advisories": list(found.advisories),
        }

    def headline(self, verified: VerifiedQuote) -> str:
        return f"TDX, {verified.assessment.status}"

    def policy(self, data: bytes | None) -> TdxPolicy:
        return TdxPolicy() if data is None else TdxPolicy.parse(data)

    def verify(self, options: Options) -> VerifiedQuote:
        vendor = names.INTEL
        if options.simulated_root is not None:
            root = read_file(options.simulated_root)
            vendor = names.simulated(TrustAnchors.builtin().with_simulated_root(root).simulated)
        verified = verify_quote(
            self._data,
            _endorsements(options),
            now=options.now,
            expected_report_data=options.report_data,
            vendor=vendor,
        )
        log = options.one(EVENT_LOG, bytes)
        return verified if log is None else check_log(verified, log)

    def checks(self, verified: VerifiedQuote) -> tuple[Check, ...]:
        return verified.checks

    def appraise(self, verified: VerifiedQuote, policy: TdxPolicy) -> tuple[Check, ...]:
        return appraise_quote(verified, policy)

    def demands(self) -> tuple[str, ...]:
        return demands()


def _endorsements(options: Options) -> Endorsements:
    whole = options.one(WHOLE, Endorsements.parse)
    if whole is not None:
        return Endorsements.parse(whole)
    return Endorsements.of(
        tcb_info=options.one("tcb-info", TcbInfo.parse),
        qe_identity=options.one("qe-identity", QeIdentity.parse),
        signing_chains=options.every("signing-chain", lambda pem: Chain.parse(pem, SIGNER)),
        pck_crl=options.one("pck-crl", parse_list),
        root_crl=options.one("root-crl", parse_list),
    )
