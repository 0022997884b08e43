"""What of KDS may be used: everything it gives is verified down from the pinned roots.

A chain file is judged by its root, a VCEK by the chain of its line, a list by the line's root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.snp import chain as chains
from attestation.snp.certs import Certificate
from attestation.snp.chain import Roots, check_intermediate, check_root_alone
from attestation.snp.collect import collect_chain, split_certificates
from attestation.snp.crl import Crl, check_list
from attestation.snp.product import EndorsementKey, ProductLine, Tcb


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """What is said of a list that was accepted.

    Attributes:
        until: when it ends.
        number: rises with each list.
    """

    until: datetime
    number: int


class RootJudge:
    """Judges by pinned roots. Satisfies `attestation.snp.kds.Judge`.

    Args:
        chain_of: the chain (PEM, ICA then ARK) that VCEKs of a line are judged by; None where it
            is not there yet.
        now: with a time zone.
    """

    def __init__(
        self,
        roots: Roots,
        *,
        chain_of: Callable[[ProductLine], bytes | None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._roots, self._chain_of, self._now = roots, chain_of, now

    def chain(self, pem: bytes, *, line: ProductLine, key: EndorsementKey) -> None:
        """Two certificates: the intermediate of this line and kind, and the pinned root.

        Raises:
            AttestationError: they are not.
        """
        ica, ark = self._pair(pem)
        check_intermediate(ica, ark, line=line, key=key, roots=self._roots, now=self._now())

    def vcek(self, der: bytes, *, line: ProductLine, hwid: bytes, tcb: Tcb) -> None:
        """A VCEK of this chip and these levels, under the line's chain.

        Raises:
            AttestationError: it is not, or there is no chain to judge it by.
        """
        pem = self._chain_of(line)
        chain = collect_chain(der, split_certificates(pem) if pem is not None else [])
        names, now = chains.vendor(self._roots), self._now()
        if chains.check_product_line(chain, names) is not line:
            raise VerificationError("kds.other", f"KDS sent a certificate for another than {line}")
        chains.check_root(chain, line, self._roots)
        chains.check_names(chain, line, EndorsementKey.VCEK, names)
        chains.check_constraints(chain)
        chains.check_validity(chain, now)
        chains.check_signatures(chain)
        if chain.extensions.hwid != hwid or chain.extensions.tcb != tcb:
            raise VerificationError(
                "kds.other", "KDS sent the certificate of another chip, or of another TCB"
            )

    def crl(self, der: bytes, *, line: ProductLine, ark: bytes) -> Term:
        """A list by the pinned root of this line.

        Raises:
            MalformedError, VerificationError: it is not.
            UncheckableError: `ark` is not that root, or the list is not valid yet.
        """
        root = Certificate.parse(ark, "ARK")
        try:
            check_root_alone(root, line=line, roots=self._roots, now=self._now())
        except AttestationError as error:
            # Says nothing against the list.
            raise UncheckableError(
                "kds.no_root", f"no root of {line} to judge a list by: {error}"
            ) from None
        crl = Crl.parse(der)
        check_list(crl, root)
        if crl.number is None:
            raise VerificationError(
                "kds.other", "the list bears no number: an older one could not be told from it"
            )
        if crl.this_update > self._now():
            raise UncheckableError(
                "kds.stale", "the list is from the future", remedy="check the clock"
            )
        return Term(until=crl.next_update, number=crl.number)

    def _pair(self, pem: bytes) -> tuple[Certificate, Certificate]:
        found = split_certificates(pem)
        if len(found) != 2:
            raise VerificationError(
                "kds.other", f"KDS sends intermediate and root, this is {len(found)} certificates"
            )
        return Certificate.parse(found[0], "ASK or ASVK"), Certificate.parse(found[1], "ARK")
