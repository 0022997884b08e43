"""The server's side of one TLS connection, without a socket: bytes in, bytes out.

The work is OpenSSL's, through the standard library. What is added: nothing is fed to it that does
not begin like TLS, its errors become a few stable words, and an end without the peer's close_notify
is an error and not an end (RFC 8446, section 6.1).
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

RECORD: Final = 16 * 1024  # bytes of text in one record, at most (RFC 8446, section 5.1)
MAX_HANDSHAKE: Final = 256 * 1024  # bytes that a client may send before it has shown who it is
_HANDSHAKE: Final = 22  # the first byte of a ClientHello's record
_MANY: Final = 64 * 1024  # bytes of text that are taken from OpenSSL at once

# Why the certificate of a client was not believed: X509_V_ERR_… of OpenSSL's x509_vfy.h.
_VERIFY: Final = {
    2: "unknown_authority",
    3: "revocation_unknown",
    9: "not_yet_valid",
    10: "expired",
    11: "revocation_unknown",
    12: "revocation_unknown",
    18: "self_signed",
    19: "unknown_authority",
    20: "unknown_authority",
    21: "unknown_authority",
    23: "revoked",
    26: "wrong_purpose",
}
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "old_version",
    "VERSION_TOO_LOW": "old_version",
    "WRONG_VERSION_NUMBER": "old_version",
    "NO_SHARED_CIPHER": "no_common_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no_common_cipher",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "no_common_cipher",
    "UNEXPECTED_EOF_WHILE_READING": "closed",
}


class TlsError(Exception):
    """The connection cannot go on. `reason` is stable, and a label of a metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TlsSession:
    """One connection. After each call, `outgoing` has what must be sent.

    Attributes:
        open: the handshake is done, and nobody has said the end.
    """

    __slots__ = ("_drained", "_fed", "_incoming", "_object", "_outgoing", "open")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._fed = 0
        self._drained = False  # nothing more can be read before more is fed
        self.open = False

    def feed(self, data: bytes) -> None:
        """Take what came from the peer; nothing: its socket is at its end.

        Raises:
            TlsError: it is no TLS, there is too much of it before the handshake is done, or the
                peer went without having said so.
        """
        if not data:
            raise TlsError("closed")
        if not self.open:
            if self._fed == 0 and data[0] != _HANDSHAKE:
                raise TlsError("plain_http" if data[:1].isalpha() else "not_tls")
            self._fed += len(data)
            if self._fed > MAX_HANDSHAKE:
                raise TlsError("too_large")
        self._incoming.write(data)
        self._drained = False

    def outgoing(self) -> bytes:
        """What must be sent now; empty: nothing."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def handshake(self) -> bool:
        """Go on with the handshake; True where it is done.

        Raises:
            TlsError: it failed. `outgoing` may have an alert that says so.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsError(_why(error)) from None
        self.open = True
        return True

    def read(self) -> bytes | None:
        """Text that has come; None: more must be fed; empty: the peer said that nothing follows.

        Raises:
            TlsError: what came is not what the peer sent.
        """
        if self._drained:
            return None
        parts: list[bytes] = []
        size = 0
        try:
            while size < _MANY:
                part = self._object.read(RECORD)
                if not part:  # close_notify; it comes again at the next call
                    break
                parts.append(part)
                size += len(part)
                # A read takes a whole record. To ask for one that cannot be there costs an
                # exception for each request.
                if not self._incoming.pending:
                    self._drained = True
                    break
        except ssl.SSLWantReadError:
            self._drained = True
            if not parts:
                return None
        except ssl.SSLZeroReturnError:
            pass  # the same end, where ours was said before
        except ssl.SSLError as error:
            if not parts:  # what came whole before it is given first
                raise TlsError(_why(error)) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, text: bytes | memoryview) -> None:
        """Encrypt.

        Raises:
            TlsError: the connection is at its end.
        """
        if not text:
            return
        try:
            self._object.write(text)
        except ssl.SSLError as error:
            raise TlsError(_why(error)) from None

    def finish(self) -> None:
        """Say that nothing follows (close_notify). Safe to call again, and at any time."""
        if self.open:
            self.open = False
            with contextlib.suppress(ssl.SSLError):  # the peer's own end has not come yet
                self._object.unwrap()

    # -- what the handshake agreed on -------------------------------------------------------------

    @property
    def version(self) -> str:
        """`TLSv1.3` or `TLSv1.2`; empty before the handshake is done."""
        return self._object.version() or ""

    def certificate(self) -> bytes | None:
        """The peer's certificate (DER), verified; None: it showed none."""
        return self._object.getpeercert(binary_form=True)

    def verified_chain(self) -> list[bytes]:
        """The certificates (DER) by which it was verified, the peer's own first, the authority's
        last. Empty where the session is a resumed one: then nothing was verified anew.
        """
        # Python 3.13 has it as a method of its own; before that only the object within has it.
        if hasattr(self._object, "get_verified_chain"):
            return list(self._object.get_verified_chain())
        within = self._object._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        chain = within.get_verified_chain() or []
        return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain]


def _why(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(error.verify_code, "certificate_invalid")
    reason = error.reason or ""
    if "_ALERT_" in reason:
        return "refused_by_client"
    return _REASONS.get(reason, "malformed")
