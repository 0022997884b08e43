"""Who is at the other end of a TLS connection, and for how long that is to be believed.

A certificate is verified once, in the handshake; connections live longer. So what it rests on is
kept beside it, and looked at for each request: when the first certificate of its chain ends, whose
word it is, and whether that word still counts. A trust domain speaks only for itself: the authority
must be one of the domain that the SPIFFE id names (SPIFFE Trust Domain and Bundle, section 5).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

from attestation.certificates import UNREADABLE
from enforcement.identity.callers import Caller, Stranger
from enforcement.identity.spiffe import SpiffeError, caller_of, domain_of

LEAVE_SECONDS: Final = 30.0  # before its certificate ends, a connection is asked to be made anew
_REMEMBERED: Final = 32_768  # chains; more than OpenSSL keeps sessions that could be resumed

Chain = tuple[float, bytes]  # when its first certificate ends, and its authority's digest

_GONE: Final = {
    "certificate.expired": "the client certificate has ended",
    "certificate.authority": "the client certificate is not by an authority of its trust domain",
    "certificate.revoked": "the client certificate was revoked",
    "certificate.revocation_unknown": "the list of revoked certificates has ended",
}


def digest_of(certificate: bytes) -> bytes:
    """What a certificate (DER) is compared by."""
    return hashlib.sha256(certificate).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose certificates count at a moment. Made anew when a file changes.

    Attributes:
        domains: for each SPIFFE trust domain the digests of its authorities.
        revoked: issuer (DER) and serial number of certificates that do not count any more.
        revocation_ends: seconds since 1970; after it nobody knows what was revoked.
    """

    domains: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    revoked: frozenset[tuple[bytes, int]] = frozenset()
    revocation_ends: float = math.inf


class Peer:
    """One verified certificate on one connection.

    Args:
        chain: how it was verified; None: nobody knows any more.
        trust: what counts now.
        now: seconds since 1970.
    """

    __slots__ = ("_authority", "_domain", "_issued", "_named", "_now", "_trust", "ends")

    def __init__(
        self,
        certificate: bytes,
        chain: Chain | None,
        *,
        trust: Callable[[], Trust],
        now: Callable[[], float],
    ) -> None:
        self._trust = trust
        self._now = now
        self._domain = ""
        self._issued = (b"", 0)
        self.ends, self._authority = chain or (0.0, b"")  # not known: it counts for nobody
        self._named: Caller | Stranger
        try:
            read = x509.load_der_x509_certificate(certificate)
            self._issued = (read.issuer.public_bytes(), read.serial_number)
            self._named = caller_of(read, trust_domains=trust().domains)
            self._domain = domain_of(self._named)
        except SpiffeError as error:
            self._named = _stranger(error.code, str(error))
        except UNREADABLE:
            self._named = _stranger("spiffe.malformed", "the client certificate cannot be read")

    def caller(self) -> Caller | Stranger:
        """Whom it names now."""
        if isinstance(self._named, Stranger):
            return self._named
        gone = self._gone()
        return _stranger(gone, _GONE[gone]) if gone else self._named

    def seconds_left(self) -> float:
        """How long the connection may go on; 0: its next reply is to be the last."""
        return 0.0 if self._gone() else max(self.ends - LEAVE_SECONDS - self._now(), 0.0)

    def _gone(self) -> str:
        trust, now = self._trust(), self._now()
        if self._domain and self._authority not in trust.domains.get(self._domain, ()):
            return "certificate.authority"
        if now >= self.ends:
            return "certificate.expired"
        if self._issued in trust.revoked:
            return "certificate.revoked"
        return "certificate.revocation_unknown" if now >= trust.revocation_ends else ""


class Chains:
    """Remembers how certificates were verified, for sessions that are resumed (TLS 1.2 only)."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Chain] = OrderedDict()

    def of(self, certificate: bytes, verified: list[bytes], *, resumable: bool) -> Chain | None:
        """Of a certificate (DER): from the chain that was verified now, or else by memory.

        Args:
            resumable: the session may come again without a chain.
        """
        key = digest_of(certificate)
        if not verified:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)
        chain = chain_of(verified)
        if resumable and chain is not None:
            self._known[key] = chain
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return chain


def chain_of(verified: list[bytes]) -> Chain | None:
    """When a chain ends, and the digest of its authority; None: it cannot be read."""
    try:
        read = [x509.load_der_x509_certificate(one) for one in verified]
    except UNREADABLE:
        return None
    return min(one.not_valid_after_utc.timestamp() for one in read), digest_of(verified[-1])


def _stranger(reason: str, message: str) -> Stranger:
    return Stranger(code="certificate_refused", message=message, reason=reason)
