"""Does this quote come from genuine hardware, and what does Intel say of it? No policy.

Checks follow Intel's quote verification library. All of them run that can, and each is listed; then
the first that did not hold is raised. Nothing here reads a clock, a file or a socket: one `now` is
used for everything. Whether the answer is *good* is in `attestation.tdx.appraise`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from attestation.checks import Check
from attestation.crl import RevocationList
from attestation.errors import VerificationError
from attestation.ledger import Ledger
from attestation.tdx import chain as chains
from attestation.tdx import crl as crls
from attestation.tdx import signatures, tcb
from attestation.tdx.abi import Quote
from attestation.tdx.chain import Chain
from attestation.tdx.collateral import SignedDocument, check_current, check_signed
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.names import INTEL, Vendor
from attestation.tdx.pck import CODE as EXTENSION
from attestation.tdx.pck import PckExtensions

T = TypeVar("T")
_BY_CHAIN = ("root_pinned", "names", "constraints", "validity", "signatures")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """A quote whose signatures, chain and documents hold. Whether what it says is *good* is policy.

    Attributes:
        pck: what the platform's certificate says of it.
        assessment: what Intel says of it.
        verified_at: the moment at which everything was valid.
        not_before, not_after: when all certificates, lists and documents are valid, inclusive.
        evaluation_number: the lower one of the documents' TCB evaluation data numbers.
        root_sha256: SHA-256 of the root's SubjectPublicKeyInfo: the pin that matched.
        checks: what ran and passed, and what did not run with the reason.
    """

    quote: Quote
    pck: PckExtensions
    assessment: tcb.Assessment
    verified_at: datetime
    not_before: datetime
    not_after: datetime
    evaluation_number: int
    root_sha256: bytes
    checks: tuple[Check, ...]


def verify_quote(
    data: bytes,
    endorsements: Endorsements,
    *,
    now: datetime,
    expected_report_data: bytes | None,
    vendor: Vendor = INTEL,
) -> VerifiedQuote:
    """Verify one quote with Intel's documents about its platform.

    Args:
        data: the quote; what the host appended is ignored.
        endorsements: the documents; what is missing is listed as not checked, and refused.
        now: the moment at which everything must be valid; with a time zone.
        expected_report_data: the 64 bytes that the quote must carry; None skips that check.
        vendor: whose roots and names count: Intel's, or those of a simulated vendor.

    Raises:
        MalformedError: the quote is not a quote, `tdx.quote.*`; its `checks` are empty.
        UncheckableError: `tdx.quote.unsupported`; or something that is needed was not given.
        VerificationError: it does not prove what it claims; the code is the check's name.
    """
    if now.tzinfo is None:
        raise ValueError("`now` needs a time zone")
    quote = Quote.parse(data)
    if expected_report_data is not None and len(expected_report_data) != 64:
        raise ValueError(f"report data have 64 bytes, not {len(expected_report_data)}")
    run = _Run(quote, endorsements, now, vendor)
    run.certificates()
    run.lists()
    run.documents()
    run.quote_itself(expected_report_data)
    assessment = run.platform()
    checks = run.ledger.settle()

    chain, pck = run.chain, run.pck
    assert chain is not None  # or `settle` had raised
    assert pck is not None
    assert assessment is not None
    starts, ends = zip(chain.window, *endorsements.windows(), strict=True)
    return VerifiedQuote(
        quote=quote,
        pck=pck,
        assessment=assessment,
        verified_at=now,
        not_before=max(starts),
        not_after=min(ends),
        evaluation_number=endorsements.evaluation_number,
        root_sha256=chain.root.spki_sha256,
        checks=checks,
    )


class _Run:
    """One verification: what is known so far, and the list of checks."""

    def __init__(self, quote: Quote, given: Endorsements, now: datetime, vendor: Vendor) -> None:
        self.quote, self.given, self.now, self.vendor = quote, given, now, vendor
        self.ledger = Ledger()
        self.chain: Chain | None = None
        self.pck: PckExtensions | None = None

    def certificates(self) -> None:
        run = self.ledger.run
        run("tdx.quote.format", lambda: (f"version {self.quote.header.version}", None))

        def read() -> tuple[str, Chain]:
            return "three certificates", Chain.parse(self.quote.pck_chain)

        self.chain = chain = run("tdx.chain.format", read)
        if chain is None:
            for name in (*(f"tdx.chain.{name}" for name in _BY_CHAIN), EXTENSION):
                self.ledger.skip(name, "the PCK chain cannot be read")
        else:
            self._chain(chain)
            der = chain.leaf.sgx_extensions or b""
            self.pck = run(EXTENSION, lambda: ("in exact DER", PckExtensions.decode(der)))
        if not self.given.signers:
            for name in _BY_CHAIN:
                self._missing(f"tdx.signer.{name}", "the signing chain of Intel's documents")
        for signer in self.given.signers:
            self._chain(signer)

    def _chain(self, chain: Chain) -> None:
        run, prefix = self.ledger.run, chain.kind.check
        run(f"{prefix}.root_pinned", lambda: chains.check_root(chain, self.vendor))
        run(f"{prefix}.names", lambda: chains.check_names(chain, self.vendor))
        run(f"{prefix}.constraints", lambda: chains.check_constraints(chain))
        run(f"{prefix}.validity", lambda: chains.check_validity(chain, self.now))
        run(f"{prefix}.signatures", lambda: chains.check_signatures(chain))

    def lists(self) -> None:
        root_list, pck_list, chain = self.given.root_crl, self.given.pck_crl, self.chain
        for prefix, crl, above, what in (
            ("tdx.root_crl", root_list, -1, "the root's revocation list"),
            ("tdx.pck_crl", pck_list, 1, "the revocation list of PCK certificates"),
        ):
            self._list(prefix, crl, above, what)
        if chain is not None:
            leaf, intermediate, _ = chain.certificates
            self._given(
                "tdx.chain.not_revoked",
                "both revocation lists",
                (pck_list, root_list),
                lambda pcks, root: crls.check_not_revoked(
                    "tdx.chain.not_revoked", [(intermediate, root), (leaf, pcks)]
                ),
            )
        else:
            self.ledger.skip("tdx.chain.not_revoked", "the PCK chain cannot be read")
        if self.given.signers:
            leaves = [signer.leaf for signer in self.given.signers]
            self._given(
                "tdx.signer.not_revoked",
                "the root's revocation list",
                (root_list,),
                lambda root: crls.check_not_revoked(
                    "tdx.signer.not_revoked", [(leaf, root) for leaf in leaves]
                ),
            )
        else:
            self._missing("tdx.signer.not_revoked", "the signing chain of Intel's documents")

    def _list(self, prefix: str, crl: RevocationList | None, above: int, what: str) -> None:
        genuine, fresh, chain = f"{prefix}.signature", f"{prefix}.validity", self.chain
        if crl is None:
            self._missing(genuine, what)
            self._missing(fresh, what)
            return
        if chain is None:
            self.ledger.skip(genuine, "the PCK chain cannot be read")
        else:
            issuer = chain.certificates[above]
            self.ledger.run(genuine, lambda: crls.check_genuine(genuine, crl, issuer))
        self.ledger.run(fresh, lambda: crls.check_fresh(fresh, crl, self.now))

    def documents(self) -> None:
        for prefix, document, what in (
            ("tdx.tcb_info", self.given.tcb_info, "the TCB info"),
            ("tdx.qe_identity", self.given.qe_identity, "the quoting enclave's identity"),
        ):
            self._document(prefix, document, what)

    def _document(self, prefix: str, document: SignedDocument | None, what: str) -> None:
        signed, current = f"{prefix}.signature", f"{prefix}.validity"
        if document is None:
            self._missing(signed, what)
            self._missing(current, what)
            return
        leaves = [signer.leaf for signer in self.given.signers]
        if leaves:
            self.ledger.run(signed, lambda: check_signed(signed, document, leaves))
        else:
            self._missing(signed, "the signing chain of Intel's documents")
        self.ledger.run(current, lambda: check_current(current, document, self.now))

    def quote_itself(self, expected: bytes | None) -> None:
        quote, chain, run = self.quote, self.chain, self.ledger.run
        if chain is None:
            self.ledger.skip("tdx.qe.signature", "the PCK chain cannot be read")
        else:
            key = chain.leaf.key
            run("tdx.qe.signature", lambda: signatures.check_qe_signature(quote, key))
        run("tdx.qe.binding", lambda: signatures.check_qe_binding(quote))
        run("tdx.quote.signature", lambda: signatures.check_quote_signature(quote))
        if expected is None:
            self.ledger.skip("tdx.report_data.matches", "no expected report data were given")
        else:
            run("tdx.report_data.matches", lambda: _check_report_data(quote, expected))

    def platform(self) -> tcb.Assessment | None:
        """What Intel says. Its document may still be forged: `settle` decides over all."""
        report, qe_report = self.quote.report, self.quote.qe_report
        pck, info, identity = self.pck, self.given.tcb_info, self.given.qe_identity
        if pck is None:
            self.ledger.skip("tdx.tcb.platform", "the PCK certificate does not name its platform")
        else:
            self._given(
                "tdx.tcb.platform", "TCB info", (info,), lambda i: tcb.check_platform(pck, i)
            )
        self._given(
            "tdx.module.identity", "TCB info", (info,), lambda i: tcb.check_module(report, i)
        )
        self._given(
            "tdx.qe.identity",
            "the quoting enclave's identity",
            (identity,),
            lambda i: tcb.check_enclave(qe_report, i),
        )
        if pck is None or info is None or identity is None:
            self.ledger.skip("tdx.tcb.level", "platform or documents are not known")
            return None

        def level() -> tuple[str, tcb.Assessment]:
            found = tcb.assess(report, qe_report, pck, info, identity)
            advisories = ", ".join(found.advisories) or "no advisories"
            return f"{found.status} since {found.date:%Y-%m-%d}, {advisories}", found

        return self.ledger.run("tdx.tcb.level", level)

    def _given(
        self,
        name: str,
        what: str,
        needed: tuple[object | None, ...],
        check: Callable[..., tuple[str, T]],
    ) -> None:
        """Run a check on what was given, if all of it was."""
        if any(item is None for item in needed):
            self._missing(name, what)
        else:
            self.ledger.run(name, lambda: check(*needed))

    def _missing(self, name: str, what: str) -> None:
        self.ledger.cannot(
            name,
            f"not given: {what}",
            remedy="Intel publishes it for each kind of platform (PCS); give --tcb-info,"
            " --qe-identity, --signing-chain, --pck-crl and --root-crl, or all as --collateral",
        )


def _check_report_data(quote: Quote, expected: bytes) -> tuple[str, None]:
    if not hmac.compare_digest(quote.report.report_data, expected):
        raise VerificationError(
            "tdx.report_data.matches", "the quote was made over other data than expected"
        )
    return "the quote was made over the expected data", None
