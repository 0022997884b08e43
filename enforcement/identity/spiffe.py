"""The SPIFFE id of a client, from its verified certificate.

What is here is the reading. That its chain and dates are good and that the client has the key, TLS
has verified; that its authority may speak for its trust domain, `peer` sees to. A
SPIFFE id becomes the principal `Lucid::Agent::"spiffe://…"`.

Source: X.509-SVID (SPIFFE project): sections 2 (SPIFFE id) and 4 (constraints); SPIFFE-ID
sections 2.1 to 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

from cryptography import x509

from attestation.certificates import UNREADABLE
from enforcement.identity.callers import Caller

MAX_ID: Final = 256  # bytes; SPIFFE allows 2,048, and our ids are shorter
_ID: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")


class SpiffeError(Exception):
    """The certificate names nobody. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def caller_of(certificate: x509.Certificate, *, trust_domains: Container[str]) -> Caller:
    """The caller that a *verified* client certificate names.

    Raises:
        SpiffeError: it is not the X.509-SVID of a workload of one of these trust domains.
    """
    try:
        name = spiffe_id(certificate)
    except UNREADABLE:
        raise SpiffeError("spiffe.malformed", "the certificate cannot be read") from None
    found = _ID.fullmatch(name)
    assert found is not None
    if found[1] not in trust_domains:
        raise SpiffeError("spiffe.trust_domain", "the certificate is of another trust domain")
    return Caller(("Agent", name))


def domain_of(caller: Caller) -> str:
    """The trust domain of a caller that `caller_of` gave."""
    return caller.principal[1].split("/")[2]


def spiffe_id(certificate: x509.Certificate) -> str:
    """The SPIFFE id in a certificate.

    Raises:
        SpiffeError: it has none, or may not be used as one.
    """
    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise SpiffeError("spiffe.no_id", "the certificate has no alternative names") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise SpiffeError("spiffe.no_id", "the certificate has not exactly one URI")
    if len(uris[0]) > MAX_ID or _ID.fullmatch(uris[0]) is None or _dotted(uris[0]):
        raise SpiffeError("spiffe.malformed", "the certificate's URI is no SPIFFE id of a workload")
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise SpiffeError("spiffe.is_ca", "the certificate is an authority's")
    except x509.ExtensionNotFound:
        pass
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise SpiffeError("spiffe.key_usage", "the certificate does not say its usage") from None
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise SpiffeError("spiffe.key_usage", "the certificate is not for a workload")
    return uris[0]


def _dotted(uri: str) -> bool:
    return any(part in (".", "..") for part in uri.split("/"))
