"""A vendor of TDX machines in software: root, PCK chain, quoting enclave, and what Intel publishes.

It proves nothing: its keys are in memory or in a file. Its certificates bear names of their own,
and no verifier accepts its root unless it is given that root.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from attestation.anchors import spki_pin
from attestation.errors import AttestationError
from attestation.simulated import store
from attestation.simulated import tdx_documents as documents
from attestation.simulated.tdx_quote import QeFields, TdFields, make_quote
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.names import Vendor, simulated
from attestation.tdx.pck import SGX_EXTENSIONS
from attestation.tdx.verify import verify_quote

DIRECTORY: Final = "simulated-tdx"
_CERTIFICATES: Final = ("root", "ca", "signer", "pck")
_KEYS: Final = (*_CERTIFICATES, "attestation")
FILES: Final = (*(f"{name}.key" for name in _KEYS), *(f"{name}.pem" for name in _CERTIFICATES))
LIFETIME: Final = timedelta(days=365 * 20)
_NOBODY: Final = simulated(frozenset())
_SHA256: Final = hashes.SHA256()


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedIntel:
    """The vendor with its keys, and one simulated platform."""

    root_key: ec.EllipticCurvePrivateKey = field(repr=False, default_factory=_new_key)
    ca_key: ec.EllipticCurvePrivateKey = field(repr=False, default_factory=_new_key)
    signer_key: ec.EllipticCurvePrivateKey = field(repr=False, default_factory=_new_key)
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False, default_factory=_new_key)
    attestation_key: ec.EllipticCurvePrivateKey = field(repr=False, default_factory=_new_key)
    provider: ClassVar[str] = "tdx_guest"
    directory: ClassVar[str] = DIRECTORY
    root: x509.Certificate
    ca: x509.Certificate
    signer: x509.Certificate
    pck: x509.Certificate

    @classmethod
    def create(cls, *, now: datetime, pck_lifetime: timedelta = LIFETIME, **changes: Any) -> Self:
        """A new vendor, in memory.

        Args:
            changes: other values of the PCK certificate's extensions than `pck_extensions` takes
                by itself.
        """
        keys = {name: _new_key() for name in ("root_key", "ca_key", "signer_key", "pck_key")}
        root_key, ca_key = keys["root_key"], keys["ca_key"]
        extension = x509.UnrecognizedExtension(SGX_EXTENSIONS, pck_extensions(**changes))
        return cls(
            **keys,
            root=_issue("Root CA", root_key, "Root CA", root_key, now=now, is_ca=True),
            ca=_issue("PCK Platform CA", ca_key, "Root CA", root_key, now=now, is_ca=True),
            signer=_issue("TCB Signing", keys["signer_key"], "Root CA", root_key, now=now),
            pck=_issue(
                "PCK Certificate",
                keys["pck_key"],
                "PCK Platform CA",
                ca_key,
                now=now,
                lifetime=pck_lifetime,
                extensions=(extension,),
            ),
        )

    @classmethod
    def load_or_create(cls, state_dir: Path, *, now: datetime) -> Self:
        """The vendor whose keys are in `state_dir`/simulated-tdx, made there if there is none.

        Raises:
            QuoteError: as `SimulatedVendor.load_or_create`.
        """
        directory = state_dir / DIRECTORY
        files = store.load_or_create(directory, FILES, lambda: cls.create(now=now).files())
        try:
            vendor = cls._from_files(files)
            vendor.check(now)
        except (ValueError, TypeError, UnsupportedAlgorithm, AttestationError) as error:
            raise store.damaged(directory, str(error)) from None
        return vendor

    def files(self) -> dict[str, bytes]:
        """Keys and certificates as PEM, by file name."""
        keys = {
            f"{name}.key": getattr(self, f"{name}_key").private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            for name in _KEYS
        }
        return keys | {
            f"{name}.pem": getattr(self, name).public_bytes(Encoding.PEM) for name in _CERTIFICATES
        }

    @classmethod
    def _from_files(cls, files: Mapping[str, bytes]) -> Self:
        values: dict[str, Any] = {}
        for name in _KEYS:
            key = load_pem_private_key(files[f"{name}.key"], password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError("a key is of another kind")
            values[f"{name}_key"] = key
        for name in _CERTIFICATES:
            values[name] = x509.load_pem_x509_certificate(files[f"{name}.pem"])
        return cls(**values)

    def check(self, now: datetime) -> None:
        """Verify a quote of this vendor, by the code that everybody else uses.

        Raises:
            AttestationError: keys and certificates do not fit, or are not valid at `now`.
        """
        verify_quote(
            self.quote(bytes(64)),
            Endorsements.parse(self.collateral(now)),
            now=now,
            expected_report_data=bytes(64),
            vendor=self.vendor,
        )

    def outblob(self, report_data: bytes, privlevel: int) -> bytes:
        """See `attestation.simulated.machine`. TDX has no privilege levels."""
        del privlevel
        return self.quote(report_data)

    def auxblob(self) -> None:
        """See `attestation.simulated.machine`: there is none on TDX."""

    def complete(self, supplied: bytes, now: datetime) -> bytes:
        """See `attestation.simulated.machine`."""
        del supplied
        return self.collateral(now)

    def root_certificate_pem(self) -> bytes:
        """The root, for verifiers that choose to accept simulated evidence."""
        return _pem(self.root)

    def with_new_signer(self, *, now: datetime) -> Self:
        """The same vendor with another key for documents."""
        key = _new_key()
        signer = _issue("TCB Signing", key, "Root CA", self.root_key, now=now)
        return replace(self, signer_key=key, signer=signer)

    @property
    def vendor(self) -> Vendor:
        """What a verifier has to be given to accept this vendor's quotes."""
        return simulated(frozenset({spki_pin(self.root)}))

    def quote(self, report_data: bytes, *, qe: QeFields | None = None, **td: Any) -> bytes:
        """A signed quote over 64 bytes of report data; `td` are fields of `TdFields`."""
        return make_quote(
            TdFields(report_data=report_data, **td),
            attestation_key=self.attestation_key,
            pck_key=self.pck_key,
            pck_chain=_pem(self.pck, self.ca, self.root) + b"\0",
            qe=qe,
        )

    def tcb_info(self, now: datetime, **changes: Any) -> bytes:
        """The platform's TCB info as served."""
        value = documents.tcb_info(now, **changes)
        return documents.signed_document("tcbInfo", value, self.signer_key)

    def qe_identity(self, now: datetime, **changes: Any) -> bytes:
        """The quoting enclave's identity as served."""
        value = documents.qe_identity(now, **changes)
        return documents.signed_document("enclaveIdentity", value, self.signer_key)

    def signing_chain(self) -> bytes:
        """Certificates of the key that signs documents, in PEM."""
        return _pem(self.signer, self.root)

    def pck_crl(self, now: datetime, revoked: Iterable[int] = ()) -> bytes:
        """The CA's revocation list, in DER."""
        return documents.revocation_list(self.ca.subject, self.ca_key, now, revoked)

    def root_crl(self, now: datetime, revoked: Iterable[int] = ()) -> bytes:
        """The root's revocation list, in DER."""
        return documents.revocation_list(self.root.subject, self.root_key, now, revoked)

    def pck_crl_issuers(self) -> bytes:
        """The CA that issues PCK certificates, and the root, in PEM."""
        return _pem(self.ca, self.root)

    def collateral(self, now: datetime, **changes: Any) -> bytes:
        """All of it in one file, as `Endorsements.parse` reads it; `changes` are of `tcb_info`."""
        return Endorsements.pack(
            tcb_info=self.tcb_info(now, **changes),
            qe_identity=self.qe_identity(now),
            signing_chains=(self.signing_chain(), self.signing_chain()),
            pck_crl=self.pck_crl(now),
            root_crl=self.root_crl(now),
            pck_crl_issuers=self.pck_crl_issuers(),
        )


def pck_extensions(
    *,
    components: bytes = documents.COMPONENTS,
    pcesvn: int = documents.PCESVN,
    pceid: bytes = documents.PCEID,
    fmspc: bytes = documents.FMSPC,
    platform_instance: bytes | None = bytes(16),
) -> bytes:
    """The SGX extensions of a PCK certificate, in DER."""
    arc = bytes.fromhex("2a864886f84d010d01")
    tcb = arc + b"\x02"
    levels = [_pair(tcb + bytes((n,)), _integer(svn)) for n, svn in enumerate(components, 1)]
    levels.append(_pair(tcb + b"\x11", _integer(pcesvn)))
    levels.append(_pair(tcb + b"\x12", _tlv(0x04, components)))
    parts = [
        _pair(arc + b"\x01", _tlv(0x04, bytes(16))),
        _pair(tcb, _tlv(0x30, b"".join(levels))),
        _pair(arc + b"\x03", _tlv(0x04, pceid)),
        _pair(arc + b"\x04", _tlv(0x04, fmspc)),
        _pair(arc + b"\x05", _tlv(0x0A, b"\x01")),
    ]
    if platform_instance is not None:
        parts.append(_pair(arc + b"\x06", _tlv(0x04, platform_instance)))
    return _tlv(0x30, b"".join(parts))


def _issue(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    is_ca: bool = False,
    lifetime: timedelta = LIFETIME,
    extensions: Iterable[x509.ExtensionType] = (),
) -> x509.Certificate:
    now = now.astimezone(UTC).replace(microsecond=0)
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NOBODY.name(subject))
        .issuer_name(_NOBODY.name(issuer))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(os.urandom(19), "big") | 1 << 150)
        .not_valid_before(now - documents.BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, _SHA256)


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _pair(oid: bytes, value: bytes) -> bytes:
    return _tlv(0x30, _tlv(0x06, oid) + value)


def _integer(number: int) -> bytes:
    return _tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content
