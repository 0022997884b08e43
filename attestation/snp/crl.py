"""AMD's certificate revocation lists: signed by the root, they name revoked *intermediates*.

All VCEKs and VLEKs have serial number 0, so a list can say nothing about them: what is looked up is
the ASK or ASVK. Source: RFC 5280 section 5, AMD publication 57230 section 4.

A list that somebody gives is a demand: it has to be usable. One that came with the report is what
the host or the agent put there: where it cannot be used nothing was checked, as if there were none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attestation.certificates import utc
from attestation.crl import RevocationList
from attestation.errors import MalformedError, UncheckableError, VerificationError
from attestation.ledger import Ledger
from attestation.snp.certs import (
    PSS_SHA384_SALT48,
    Certificate,
    Chain,
    ends_with_signature,
)

CHECK: Final = "snp.crl.not_revoked"
_SHA384: Final = hashes.SHA384()
_PSS: Final = padding.PSS(mgf=padding.MGF1(_SHA384), salt_length=48)


class Crl(RevocationList):
    """One list of AMD's kind, read and not verified."""

    __slots__ = ()

    @classmethod
    def parse(cls, data: bytes) -> Crl:
        """Read one DER or PEM list.

        Raises:
            MalformedError: `snp.crl.format`: not one list of AMD's kind.
        """
        crl = cls.read(data, "snp.crl.format")
        # SEQUENCE { tbs, AlgorithmIdentifier, BIT STRING }; the inner algorithm equals the outer
        # one, or `verify` would fail: what is signed includes it.
        der, size = crl.der, len(crl.signature)
        outer = der[-(5 + size + 0x48) : -(5 + size)]
        whole = ends_with_signature(der, crl.signature)
        if not whole or not any(outer.endswith(known) for known in PSS_SHA384_SALT48):
            raise MalformedError(
                "snp.crl.format", "the list is not signed with RSASSA-PSS and AMD's parameters"
            )
        return crl


def check_revocation(
    ledger: Ledger, given: Sequence[Crl], carried: bytes, chain: Chain, now: datetime
) -> Crl | None:
    """Run the check with what there is; gives the list that it passed by.

    Args:
        given: lists of the caller: where there is any, a usable one must be among them.
        carried: the list that came with the report (DER or PEM); empty: none did.
    """
    if not given and not carried:
        ledger.skip(CHECK, "no revocation list came with the report, and none was given")
        return None

    def check() -> tuple[str, Crl]:
        found = list(given)
        try:
            found += [Crl.parse(carried)] if carried else []
        except MalformedError as error:
            if not given:
                raise UncheckableError(
                    CHECK, f"the revocation list that came with the report: {error}"
                ) from None
        together = check_crls(found, chain, now)
        # Whoever gives a list wants that one looked into, not the one of whom he does not trust.
        return check_crls(given, chain, now) if given else together

    return ledger.run(CHECK, check, demanded=bool(given))


def check_crls(crls: Sequence[Crl], chain: Chain, now: datetime) -> tuple[str, Crl]:
    """That the root's list is there, is genuine and fresh, and does not name the intermediate.

    A revocation is for ever, so an old genuine list that names the intermediate refuses it too.

    Raises:
        VerificationError: `snp.crl.not_revoked`: revoked, or not signed by the root.
        UncheckableError: the same: none is of this root, or none is fresh.
    """
    root = chain.ark.subject.public_bytes()
    own = [crl for crl in crls if crl.issuer == root]
    if not own:
        raise UncheckableError(
            CHECK,
            f"none of the {len(crls)} revocation lists is by the root of this chain",
            remedy="give the list of the same product line (AMD's KDS has it beside the chain)",
        )
    for crl in own:
        check_list(crl, chain.ark)
    serial = chain.ica.serial_number
    for crl in own:
        if crl.revokes(serial):
            raise VerificationError(
                CHECK,
                f"the vendor revoked the intermediate with serial {serial:#x}",
                remedy="the platform's owner needs an endorsement key under the present"
                " intermediate; what this one signed may be forged",
            )
    fresh = [crl for crl in own if crl.this_update <= now <= crl.next_update]
    if not fresh:
        newest = max(own, key=lambda crl: crl.next_update)
        when = "not yet" if now < newest.this_update else "no longer"
        raise UncheckableError(
            CHECK,
            f"the revocation list ({utc(newest.this_update)} to {utc(newest.next_update)}) is"
            f" {when} good at {utc(now)}",
            remedy="fetch the present list, or check the clock",
        )
    best = max(fresh, key=lambda crl: crl.next_update)
    return f"{len(best)} revoked, this one not; good until {utc(best.next_update)}", best


def check_list(crl: Crl, root: Certificate) -> None:
    """That a list is by this root.

    Raises:
        VerificationError: `snp.crl.not_revoked`: it is not.
    """
    otherwise = VerificationError(CHECK, "the revocation list is not signed by the root")
    key = root.public_key
    if crl.issuer != root.subject.public_bytes() or not isinstance(key, rsa.RSAPublicKey):
        raise otherwise
    try:
        key.verify(crl.signature, crl.signed, _PSS, _SHA384)
    except InvalidSignature:
        raise otherwise from None
