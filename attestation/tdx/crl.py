"""Intel's revocation lists: the root's names intermediates and signers, a PCK CA's names PCKs.

Source: RFC 5280 section 5, Intel "SGX PCK Certificate and Certificate Revocation List Profile
Specification". A platform that Intel revoked stays revoked: an old genuine list that names it is
reason enough to refuse; only that it is *not* named needs a list that is fresh.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import SignatureAlgorithmOID

from attestation.certificates import utc
from attestation.crl import RevocationList
from attestation.errors import VerificationError
from attestation.tdx.certs import Certificate

_ECDSA_WITH_SHA256: Final = SignatureAlgorithmOID.ECDSA_WITH_SHA256.dotted_string


def parse_list(data: bytes) -> RevocationList:
    """Read one list, DER or PEM, or the hexadecimal DER that Intel's cache services hand out.

    Raises:
        MalformedError: `tdx.crl.format`.
    """
    if data.startswith(b"30"):
        with suppress(ValueError):  # refused below for what it is
            data = bytes.fromhex(data.decode("ascii"))
    return RevocationList.read(data, "tdx.crl.format")


def check_genuine(name: str, crl: RevocationList, issuer: Certificate) -> tuple[str, None]:
    """The list is by this issuer.

    Raises:
        VerificationError: `name`: it is by somebody else.
    """
    if crl.issuer != issuer.subject_der:
        raise VerificationError(name, f"the revocation list is not the one of {issuer.subject}")
    if crl.algorithm != _ECDSA_WITH_SHA256:
        raise VerificationError(name, "the revocation list is not signed by ECDSA with SHA-256")
    try:
        issuer.key.holds(crl.signature, crl.signed)
    except InvalidSignature:
        raise VerificationError(
            name, f"the revocation list is not signed by {issuer.subject}"
        ) from None
    return f"by {issuer.common_name}, {len(crl)} revoked", None


def check_fresh(name: str, crl: RevocationList, now: datetime) -> tuple[str, None]:
    """`now` is in the list's window.

    Raises:
        VerificationError: `name`: it is not.
    """
    if not crl.this_update <= now <= crl.next_update:
        raise VerificationError(
            name,
            f"the revocation list is good from {utc(crl.this_update)} to {utc(crl.next_update)},"
            f" it is {utc(now)}",
            remedy="fetch the present list, or check the clock",
        )
    return f"until {utc(crl.next_update)}", None


def check_not_revoked(
    name: str, pairs: list[tuple[Certificate, RevocationList]]
) -> tuple[str, None]:
    """No certificate is on its list.

    Raises:
        VerificationError: `name`: one is.
    """
    for certificate, crl in pairs:
        if crl.revokes(certificate.serial_number):
            raise VerificationError(
                name,
                f"Intel revoked {certificate.subject} with serial {certificate.serial_number:#x}",
                remedy="what its key signed may be forged: do not trust this platform",
            )
    return f"{len(pairs)} looked up", None
