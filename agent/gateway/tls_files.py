"""The files of `[gateway.tls]`, read whole, checked, and made into what the gateway greets with.

What a client would stumble over only later is refused here: a certificate that has ended or does
not fit its key, a key that others may read, an authority that is none. The files of a workload are
exchanged while the agent runs (by spiffe-helper, cert-manager and the like), not all at one moment:
what changed while it was read is refused, too, and read again at the next look.
"""

from __future__ import annotations

import math
import os
import re
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.config import TlsTable
from attestation.certificates import UNREADABLE
from enforcement.gateway.tls_server import Credentials
from enforcement.identity.peer import Trust, digest_of

MAX_FILE: Final = 1024 * 1024  # bytes
MAX_CRL_FILE: Final = 16 * 1024 * 1024
MAX_AUTHORITIES: Final = 256  # of one trust domain
MIN_RSA: Final = 2048  # bits
# For TLS 1.2; 1.3 has no others. Forward secrecy and authenticated encryption, nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CRL: Final = re.compile(
    rb"-----BEGIN X509 CRL-----[A-Za-z0-9+/=\s]{1,16777216}-----END X509 CRL-----"
)
_FOR_SERVERS: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Seen = tuple[tuple[int, ...], ...]


class TlsFilesError(Exception):
    """They cannot be used. The message names the file and what to do; nothing secret is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One reading of the files. Instants in seconds since 1970.

    Attributes:
        fingerprint: SHA-256 of the gateway's certificate (DER), hexadecimal.
        begins, ends: of this certificate, and of those that come with it.
        authorities_end: when the last authority of some trust domain ends; inf: there are none.
    """

    credentials: Credentials
    fingerprint: str
    subject: str
    begins: float
    ends: float
    authorities: int
    authorities_end: float


def paths(table: TlsTable) -> tuple[Path, ...]:
    """Every file that the table names."""
    named = (table.certificate_file, table.key_file, table.client_crl_file)
    return tuple(Path(name) for name in (*named, *table.trust_domains.values()) if name)


def look(table: TlsTable) -> Seen:
    """What changes when one of the files does. Blocking. A file that is missing looks like none."""
    seen: list[tuple[int, ...]] = []
    for path in paths(table):
        try:
            info = path.stat()
            seen.append((info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size))
        except OSError:
            seen.append(())
    return tuple(seen)


def load(table: TlsTable, *, now: float) -> Loaded:
    """Read and check everything. Blocking.

    Raises:
        TlsFilesError: one of the files cannot be used.
    """
    before = look(table)
    certificate, key = Path(table.certificate_file), Path(table.key_file)
    chain = _certificates(certificate, _read(certificate))
    _check_key(chain[0], certificate, key)
    begins = max(one.not_valid_before_utc.timestamp() for one in chain)
    ends = min(one.not_valid_after_utc.timestamp() for one in chain)
    _check_time(certificate, begins, ends, now)
    _check_purpose(certificate, chain[0])
    authorities = {
        domain: _authorities(Path(file), now) for domain, file in table.trust_domains.items()
    }
    trust = _trust(table, authorities, now)
    context = _context(table, authorities)
    if look(table) != before:
        raise TlsFilesError(f"{certificate.parent}: the files changed while they were read")
    return Loaded(
        credentials=Credentials(context=context, trust=trust),
        fingerprint=digest_of(chain[0].public_bytes(Encoding.DER)).hex(),
        subject=_subject(certificate, chain[0]),
        begins=begins,
        ends=ends,
        authorities=sum(map(len, authorities.values())),
        authorities_end=min(
            (max(map(_end, found)) for found in authorities.values()), default=math.inf
        ),
    )


def _read(path: Path, limit: int = MAX_FILE, *, secret: bool = False) -> bytes:
    try:
        # Not blocking: a pipe in the file's place must not hold the agent up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise TlsFilesError(f"{path}: is not a file")
            if secret:
                _check_private(path, info)
            data = file.read(limit + 1)
    except OSError as error:
        raise TlsFilesError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise TlsFilesError(f"{path}: larger than {limit} bytes")
    return data


def _check_private(path: Path, info: os.stat_result) -> None:
    """Its owner alone may read it; where that is root, a group, too (Kubernetes' fsGroup)."""
    allowed = 0o640 if info.st_uid == 0 else 0o600
    if info.st_uid not in (0, os.geteuid()):
        raise TlsFilesError(f"{path}: belongs to another user than the agent's or root")
    if stat.S_IMODE(info.st_mode) & 0o777 & ~allowed & ~0o100:
        raise TlsFilesError(f"{path}: others may read or write the key: chmod {allowed:04o}")


def _certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except UNREADABLE:
        raise TlsFilesError(f"{path}: has no PEM certificate, or one that cannot be read") from None


def _check_key(certificate: x509.Certificate, path: Path, key_path: Path) -> None:
    try:
        key = load_pem_private_key(_read(key_path, secret=True), password=None)
    except TypeError:
        raise TlsFilesError(f"{key_path}: is encrypted; write the key without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsFilesError(f"{key_path}: has no PEM private key that can be read") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA:
            raise TlsFilesError(f"{key_path}: RSA keys need {MIN_RSA} bits or more")
    elif not isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise TlsFilesError(f"{key_path}: the key is none of RSA, EC, Ed25519")
    public = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        theirs = certificate.public_key().public_bytes(*public)
    except UNREADABLE:
        raise TlsFilesError(f"{path}: the certificate's key cannot be read") from None
    if key.public_key().public_bytes(*public) != theirs:
        raise TlsFilesError(f"{key_path}: is not the key of the first certificate in {path}")


def _check_time(path: Path, begins: float, ends: float, now: float) -> None:
    if now >= ends:
        raise TlsFilesError(f"{path}: the certificate has ended ({utc(ends)}): renew it")
    if now < begins:
        raise TlsFilesError(f"{path}: the certificate is valid only from {utc(begins)} on")


def _check_purpose(path: Path, certificate: x509.Certificate) -> None:
    """What it says of its use, where it says anything, must allow a handshake."""
    try:
        found = {type(one.value): one.value for one in certificate.extensions}
    except UNREADABLE:
        raise TlsFilesError(f"{path}: the certificate's extensions cannot be read") from None
    usage, purposes = found.get(x509.KeyUsage), found.get(x509.ExtendedKeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.digital_signature:
        raise TlsFilesError(f"{path}: the certificate is not for signing (digitalSignature)")
    if isinstance(purposes, x509.ExtendedKeyUsage) and not _FOR_SERVERS & set(purposes):
        raise TlsFilesError(f"{path}: the certificate is not for servers (serverAuth)")


def _authorities(path: Path, now: float) -> list[x509.Certificate]:
    found = _certificates(path, _read(path))
    if len(found) > MAX_AUTHORITIES:
        raise TlsFilesError(f"{path}: more than {MAX_AUTHORITIES} authorities")
    for number, one in enumerate(found, 1):
        if not _is_authority(one):
            raise TlsFilesError(f"{path}: certificate {number} is not an authority's (CA:TRUE)")
    if all(_end(one) <= now for one in found):
        raise TlsFilesError(f"{path}: every authority in it has ended")
    return found


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False


def _trust(table: TlsTable, authorities: dict[str, list[x509.Certificate]], now: float) -> Trust:
    domains = {
        domain: frozenset(digest_of(one.public_bytes(Encoding.DER)) for one in found)
        for domain, found in authorities.items()
    }
    if not table.client_crl_file:
        return Trust(domains=domains)
    path = Path(table.client_crl_file)
    data = _read(path, MAX_CRL_FILE)
    try:
        lists = [x509.load_pem_x509_crl(pem) for pem in _CRL.findall(data)]
        revoked = frozenset(
            (one.issuer.public_bytes(), entry.serial_number) for one in lists for entry in one
        )
    except UNREADABLE:
        raise TlsFilesError(f"{path}: has a PEM list that cannot be read") from None
    if len(lists) != data.count(b"-----BEGIN X509 CRL-----"):
        raise TlsFilesError(f"{path}: has a PEM list that cannot be read")
    if not lists:
        raise TlsFilesError(f"{path}: has no PEM list of revoked certificates (X509 CRL)")
    if b"CERTIFICATE-----" in data:
        # OpenSSL reads the file for itself, and would take the certificate for an authority.
        raise TlsFilesError(f"{path}: has a certificate beside its lists: leave it out")
    ends = min(
        (one.next_update_utc.timestamp() for one in lists if one.next_update_utc), default=math.inf
    )
    if now >= ends:
        raise TlsFilesError(f"{path}: the list has ended ({utc(ends)}): fetch a newer one")
    return Trust(domains=domains, revoked=revoked, revocation_ends=ends)


def _context(table: TlsTable, authorities: dict[str, list[x509.Certificate]]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[table.minimum_version]
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0  # no sessions to resume, and no early data, with TLS 1.3
    with _for_openssl(table.certificate_file):
        context.load_cert_chain(table.certificate_file, table.key_file, password=_no_password)
    if table.client != "none":
        context.verify_mode = ssl.CERT_REQUIRED if table.client == "required" else ssl.CERT_OPTIONAL
        # An authority counts by being in the file, whoever else vouches for it.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        for domain, found in authorities.items():
            every = b"".join(one.public_bytes(Encoding.PEM) for one in found).decode("ascii")
            with _for_openssl(table.trust_domains[domain]):
                context.load_verify_locations(cadata=every)
        if table.client_crl_file:
            with _for_openssl(table.client_crl_file):
                context.load_verify_locations(cafile=table.client_crl_file)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


@contextmanager
def _for_openssl(path: str) -> Iterator[None]:
    """OpenSSL reads for itself, and may refuse what the X.509 library took."""
    try:
        yield
    except (ssl.SSLError, OSError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise TlsFilesError(f"{path}: OpenSSL refuses it: {why or 'unreadable'}") from None


def _no_password() -> str:
    raise TlsFilesError("the key is encrypted")  # seen before; never ask the terminal


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _subject(path: Path, certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()[:200]
    except UNREADABLE:
        raise TlsFilesError(f"{path}: the certificate's subject cannot be read") from None


def utc(instant: float) -> str:
    """An instant (seconds since 1970) for people."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
