"""The checks of the certificate chain: root, names, rights, time, signatures. No report, no policy.

Source: AMD publication 57230 section 3, RFC 5280 section 6. Each function is one check: it gives
what was found (for people) and a value, or raises.

The roots decide whose names the certificates must bear. A mapping pins AMD's root per product line;
a bare set pins roots of simulated vendors. So AMD's pins can never vouch for a simulated chain, nor
the other way round, even if a pin were put in the wrong place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attestation.certificates import name_text, utc
from attestation.errors import UncheckableError, VerificationError
from attestation.snp.certs import Certificate, Chain
from attestation.snp.names import AMD, SIMULATED, VendorNames
from attestation.snp.product import EndorsementKey, ProductLine

Roots = frozenset[bytes] | Mapping[str, frozenset[bytes]]

_SHA384: Final = hashes.SHA384()
_PSS: Final = padding.PSS(mgf=padding.MGF1(_SHA384), salt_length=48)


def vendor(roots: Roots) -> VendorNames:
    """Whose names the certificates under these roots must bear."""
    return AMD if isinstance(roots, Mapping) else SIMULATED


def check_product_line(chain: Chain, names: VendorNames) -> ProductLine:
    """The line that the endorsement key's certificate and the root's name agree on."""
    line = chain.extensions.product_line
    if names.common_name(chain.ark.subject) != names.ark(line):
        raise VerificationError(
            "snp.chain.product_line",
            f"the endorsement key is for {line}, the root is {name_text(chain.ark.subject)}",
        )
    return line


def check_root(chain: Chain, line: ProductLine, roots: Roots) -> tuple[str, None]:
    """The root's key is the pinned one; a self-signature alone would accept anybody's root."""
    _require_pinned(chain.ark, line, roots)
    return f"ARK-{line}, key {chain.ark.spki_sha256.hex()}", None


def _require_pinned(ark: Certificate, line: ProductLine, roots: Roots) -> None:
    pins = roots.get(line, frozenset()) if isinstance(roots, Mapping) else roots
    if not pins:
        raise UncheckableError("snp.chain.ark_pinned", f"no root is pinned for {line}")
    if ark.spki_sha256 not in pins:
        raise VerificationError(
            "snp.chain.ark_pinned",
            f"the root key {ark.spki_sha256.hex()} is {_not_one_of(line, roots)}",
        )


def _not_one_of(line: ProductLine, roots: Roots) -> str:
    if isinstance(roots, Mapping):
        return f"not the pinned one of {line}"
    return "of another simulated TEE than the roots that were given (--simulated-root)"


def check_names(
    chain: Chain, line: ProductLine, key: EndorsementKey, names: VendorNames
) -> tuple[str, None]:
    """Subjects are exact; each issuer is the next subject, byte by byte."""
    if names.common_name(chain.ek.subject) != names.ek(key):
        raise VerificationError(
            "snp.chain.names",
            f"the report is signed by a {key.upper()}, the certificate is for "
            f"{name_text(chain.ek.subject)}",
        )
    if names.common_name(chain.ica.subject) != names.ica(line, key):
        raise VerificationError(
            "snp.chain.names",
            f"the intermediate of a {key.upper()} of {line} is not {name_text(chain.ica.subject)}",
        )
    for certificate, issuer in (
        (chain.ark, chain.ark),
        (chain.ica, chain.ark),
        (chain.ek, chain.ica),
    ):
        if certificate.issuer_der != issuer.subject_der:
            raise VerificationError(
                "snp.chain.names",
                f"{name_text(certificate.subject)} names another issuer,"
                f" {name_text(certificate.issuer)}",
            )
    return f"{key.upper()} of {line}", None


def check_constraints(chain: Chain) -> tuple[str, None]:
    """CA rights where they belong, and no critical extension that nobody here understands."""
    for certificate, is_ca in ((chain.ark, True), (chain.ica, True), (chain.ek, False)):
        _require_rights(certificate, is_ca=is_ca)
    return "only root and intermediate certify others", None


def _require_rights(certificate: Certificate, *, is_ca: bool) -> None:
    rights = False
    key_usage = True
    for extension in certificate.extensions:
        value = extension.value
        # Exact types: `isinstance` is slow for these, and none has subclasses.
        if type(value) is x509.BasicConstraints:
            rights = value.ca
        elif type(value) is x509.KeyUsage:
            key_usage = value.key_cert_sign
        elif extension.critical:
            raise VerificationError(
                "snp.chain.constraints",
                f"{name_text(certificate.subject)} has a critical extension "
                f"{extension.oid.dotted_string} that is not understood",
            )
    if rights is not is_ca or (is_ca and not key_usage):
        raise VerificationError(
            "snp.chain.constraints",
            f"{name_text(certificate.subject)} {'may not' if is_ca else 'may'} certify others",
        )


def check_validity(chain: Chain, now: datetime) -> tuple[str, None]:
    """`now` is in the window in which all three are valid."""
    for certificate in (chain.ark, chain.ica, chain.ek):
        if now < certificate.not_before:
            raise VerificationError(
                "snp.chain.validity",
                f"{name_text(certificate.subject)} is valid from {utc(certificate.not_before)}, "
                f"it is {utc(now)}",
                remedy="check the clock",
            )
        if now > certificate.not_after:
            raise VerificationError(
                "snp.chain.validity",
                f"{name_text(certificate.subject)} was valid until {utc(certificate.not_after)}, "
                f"it is {utc(now)}",
                remedy="check the clock; the host has to supply a current certificate",
            )
    return f"until {utc(window(chain)[1])}", None


def window(chain: Chain) -> tuple[datetime, datetime]:
    """When all three certificates are valid, both ends inclusive."""
    certificates = (chain.ark, chain.ica, chain.ek)
    return max(c.not_before for c in certificates), min(c.not_after for c in certificates)


def check_signatures(chain: Chain) -> tuple[str, None]:
    """Each certificate is signed by the next key; done once for a chain that was read once."""
    if not chain.proven:
        _check_self_signed(chain.ark.der)
        _check_issued(chain.ica, chain.ark_key, "intermediate is not signed by the root")
        _check_issued(chain.ek, chain.ica_key, "endorsement key is not signed by the intermediate")
        chain.proven.append(True)
    return "root, intermediate, endorsement key", None


def check_intermediate(
    ica: Certificate,
    ark: Certificate,
    *,
    line: ProductLine,
    key: EndorsementKey,
    roots: Roots,
    now: datetime,
) -> None:
    """That these two are the pinned root of a line and its intermediate for a kind of key.

    Raises:
        VerificationError, UncheckableError: they are not; the codes are those of whole chains.
    """
    names = vendor(roots)
    check_root_alone(ark, line=line, roots=roots, now=now)
    if names.common_name(ica.subject) != names.ica(line, key) or ica.issuer_der != ark.subject_der:
        raise VerificationError("snp.chain.names", f"not the {key.upper()} intermediate of {line}")
    _require_authority(ica, now)
    assert isinstance(ark.public_key, rsa.RSAPublicKey)  # or it had not signed itself
    _check_issued(ica, ark.public_key, "intermediate is not signed by the root")


def check_root_alone(ark: Certificate, *, line: ProductLine, roots: Roots, now: datetime) -> None:
    """That this is the pinned root of a line.

    Raises:
        VerificationError, UncheckableError: it is not; the codes are those of whole chains.
    """
    names = vendor(roots)
    _require_pinned(ark, line, roots)
    if names.common_name(ark.subject) != names.ark(line) or ark.issuer_der != ark.subject_der:
        raise VerificationError("snp.chain.names", f"not the root of {line}")
    _require_authority(ark, now)
    _check_self_signed(ark.der)


def _require_authority(certificate: Certificate, now: datetime) -> None:
    _require_rights(certificate, is_ca=True)
    if not certificate.not_before <= now <= certificate.not_after:
        raise VerificationError(
            "snp.chain.validity", f"{name_text(certificate.subject)} is not valid at {utc(now)}"
        )


@lru_cache(maxsize=16)  # there are three roots; what raises is not kept
def _check_self_signed(der: bytes) -> None:
    root = Certificate.parse(der, "ARK")
    if not isinstance(root.public_key, rsa.RSAPublicKey):
        raise VerificationError("snp.chain.signatures", "the root's key is not an RSA key")
    _check_issued(root, root.public_key, "root is not signed by itself")


def _check_issued(certificate: Certificate, key: rsa.RSAPublicKey, otherwise: str) -> None:
    try:
        key.verify(certificate.signature, certificate.signed, _PSS, _SHA384)
    except InvalidSignature:
        raise VerificationError("snp.chain.signatures", f"the {otherwise}") from None
