"""Authorities and certificates for tests of TLS, made in memory."""

from __future__ import annotations

import ssl
from base64 import encodebytes
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = "example.org"
CHAT = f"spiffe://{DOMAIN}/ns/prod/sa/chat"
HOUR = timedelta(hours=1)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass
class Cert:
    """A certificate, its key, and what is sent along with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: list[Cert] = field(default_factory=list)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        whole = [self.certificate, *(one.certificate for one in self.chain)]
        return b"".join(one.public_bytes(Encoding.PEM) for one in whole)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str) -> Cert:
        """`name.pem` and `name.key`, the key for its owner alone."""
        (folder / f"{name}.pem").write_bytes(self.pem)
        key = folder / f"{name}.key"
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return self


def as_pem(der: bytes, kind: str = "CERTIFICATE") -> bytes:
    """PEM of bytes that no library would write."""
    return f"-----BEGIN {kind}-----\n{encodebytes(der).decode()}-----END {kind}-----\n".encode()


def version_2(der: bytes) -> bytes:
    """The same certificate in the second version: OpenSSL takes it, the X.509 library does not."""
    return _exchanged(der, bytes.fromhex("a003020102"), bytes.fromhex("a003020101"))


def named_by_bits(der: bytes, name: str) -> bytes:
    """The same, its common name a BIT STRING: the same again."""
    head, text = bytes.fromhex("550403"), name.encode()
    old = head + bytes((0x0C, len(text))) + text
    return _exchanged(der, old, head + bytes((0x03, len(text), 0)) + text[1:])


def _exchanged(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der
    return der.replace(old, new)


def make(
    name: str,
    by: Cert | None = None,
    *,
    uris: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (),
    ca: bool = False,
    signs: bool = True,
    usage: tuple[x509.ObjectIdentifier, ...] | None = _CLIENT,
    begins: timedelta = -HOUR,
    ends: timedelta = HOUR,
    send: tuple[Cert, ...] = (),
) -> Cert:
    """A certificate by `by`, or by itself. `begins` and `ends` count from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=not signs, key_cert_sign=ca, crl_sign=ca,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(host) for host in hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usage)), critical=False)
    signer = key if by is None else by.key
    return Cert(builder.sign(signer, hashes.SHA256()), key, list(send))


def authority(name: str = "authority", by: Cert | None = None, **parts: Any) -> Cert:
    return make(name, by, ca=True, ends=parts.pop("ends", 100 * HOUR), **parts)


def revoked(by: Cert, *certificates: Cert, ends: timedelta = HOUR) -> bytes:
    """A list (PEM) of what an authority has revoked."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(now - HOUR)
        .next_update(now + ends)
    )
    for one in certificates:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(now - HOUR).build())
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def client_context(
    folder: Path, server: Cert, shown: Cert | None = None, *, tls12: bool = False
) -> ssl.SSLContext:
    """A client that trusts `server` and shows `shown`."""
    context = ssl.create_default_context(cadata=server.pem.decode())
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if shown is not None:
        name = f"shown-{shown.certificate.serial_number:x}"
        shown.write(folder, name)
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context
