"""A hardware vendor in software, so that every line of the real path runs without hardware.

It proves nothing: its root key is a file. It makes a root (RSA-4096), an intermediate (RSA-4096)
and an endorsement key (EC P-384), and signs reports of the real format. Its certificates bear names
of their own, and no verifier accepts its root unless it is given that root.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from attestation.errors import AttestationError
from attestation.simulated import ca, store
from attestation.simulated.report import LINE, SIMULATED_MEASUREMENT, TCB, ReportFields, sign
from attestation.snp.certs import RSA_BITS, Chain
from attestation.snp.names import SIMULATED
from attestation.snp.product import EndorsementKey
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import verify_report

DIRECTORY: Final = "simulated-tee"
KEY_FILES: Final = ("root.key", "intermediate.key", "vcek.key")
CERTIFICATE_FILES: Final = ("root.pem", "intermediate.pem", "vcek.pem")

_ROOT: Final = SIMULATED.ark(LINE)
_INTERMEDIATE: Final = SIMULATED.ica(LINE, EndorsementKey.VCEK)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedVendor:
    """The vendor with its keys, and one simulated chip.

    Attributes:
        root, intermediate, vcek: the certificates.
        root_key, intermediate_key, vcek_key: their private keys.
        measurement: 48 bytes that every report states as launch measurement.
        report_id: 32 bytes; stays the same for the life of this object, as for one guest.
    """

    root: x509.Certificate
    intermediate: x509.Certificate
    vcek: x509.Certificate
    root_key: rsa.RSAPrivateKey = field(repr=False)
    intermediate_key: rsa.RSAPrivateKey = field(repr=False)
    vcek_key: ec.EllipticCurvePrivateKey = field(repr=False)
    provider: ClassVar[str] = "sev_guest"
    directory: ClassVar[str] = DIRECTORY
    measurement: bytes = SIMULATED_MEASUREMENT
    report_id: bytes = field(default_factory=lambda: os.urandom(32))

    @classmethod
    def load_or_create(
        cls, state_dir: Path, *, now: datetime, measurement: bytes = SIMULATED_MEASUREMENT
    ) -> Self:
        """The vendor whose keys are in `state_dir`/simulated-tee, made there if there is none.

        Making it generates two RSA-4096 keys, which takes from half a second to several seconds.
        Two processes that make it at once end up with the same one.

        Raises:
            QuoteError: `simulated.state`: the directory cannot be written or read;
                `simulated.permissions`: others may read it, or it belongs to somebody else;
                `simulated.damaged`: what is there is not a vendor, or is not valid at `now`.
        """
        directory = state_dir / DIRECTORY
        files = store.load_or_create(
            directory, (*KEY_FILES, *CERTIFICATE_FILES), lambda: cls.create(now=now).files()
        )
        try:
            vendor = cls._from_files(files, measurement)
            vendor.check(now)
        except (ValueError, TypeError, UnsupportedAlgorithm, AttestationError) as error:
            raise store.damaged(directory, str(error)) from None
        return vendor

    @classmethod
    def create(cls, *, now: datetime, measurement: bytes = SIMULATED_MEASUREMENT) -> Self:
        """A new vendor in memory. Takes as long as the slower of two RSA-4096 keys."""
        with ThreadPoolExecutor(1) as other:
            other_key = other.submit(rsa.generate_private_key, 65537, RSA_BITS)
            key = rsa.generate_private_key(65537, RSA_BITS)
        root = ca.Issuer(common_name=_ROOT, key=other_key.result())
        intermediate = ca.Issuer(common_name=_INTERMEDIATE, key=key)
        vcek_key = ec.generate_private_key(ec.SECP384R1())
        return cls(
            root=ca.issue_root(root, now=now),
            intermediate=ca.issue_intermediate(intermediate, root, now=now),
            vcek=ca.issue_endorsement_key(
                vcek_key.public_key(),
                intermediate,
                now=now,
                values=ca.amd_values(line=LINE, tcb=TCB, hwid=_chip_id(vcek_key)),
            ),
            root_key=root.key,
            intermediate_key=intermediate.key,
            vcek_key=vcek_key,
            measurement=measurement,
        )

    @property
    def chip_id(self) -> bytes:
        """64 bytes: SHA-512 of the endorsement key's SubjectPublicKeyInfo."""
        return _chip_id(self.vcek_key)

    def root_certificate_pem(self) -> bytes:
        """The root, for verifiers that choose to accept simulated evidence."""
        return self.root.public_bytes(Encoding.PEM)

    def root_sha256(self) -> bytes:
        """SHA-256 of the root's SubjectPublicKeyInfo: what a verifier pins (32 bytes)."""
        return hashlib.sha256(_spki(self.root_key.public_key())).digest()

    def certificate_table(self) -> bytes:
        """The certificate table that a host would supply: VCEK, intermediate, root, as DER."""
        return CertTable(
            {
                TableEntry.VCEK: self.vcek.public_bytes(Encoding.DER),
                TableEntry.ICA: self.intermediate.public_bytes(Encoding.DER),
                TableEntry.ARK: self.root.public_bytes(Encoding.DER),
            }
        ).encode()

    def sign_report(self, report_data: bytes, *, vmpl: int = 0) -> bytes:
        """A signed report (1184 bytes) over 64 bytes of report data.

        Raises:
            ValueError: the report data have another length.
        """
        fields = ReportFields(
            report_data=report_data,
            chip_id=self.chip_id,
            report_id=self.report_id,
            measurement=self.measurement,
            vmpl=vmpl,
        )
        return sign(fields.encode(), self.vcek_key)

    def outblob(self, report_data: bytes, privlevel: int) -> bytes:
        """See `attestation.simulated.machine`."""
        return self.sign_report(report_data, vmpl=privlevel)

    def auxblob(self) -> bytes:
        """See `attestation.simulated.machine`."""
        return self.certificate_table()

    def crl(self, now: datetime, revoked: Iterable[int] = ()) -> bytes:
        """The root's revocation list (DER) of that day, which names these serial numbers."""
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return ca.issue_list(
            ca.Issuer(common_name=_ROOT, key=self.root_key), day=midnight, revoked=tuple(revoked)
        )

    def complete(self, supplied: bytes, now: datetime) -> bytes:
        """See `attestation.simulated.machine`."""
        contents = {**CertTable.parse(supplied).contents, TableEntry.CRL: self.crl(now)}
        return CertTable(contents).encode()

    def check(self, now: datetime) -> None:
        """Verify a report of this vendor, by the code that everybody else uses.

        Raises:
            AttestationError: keys and certificates do not fit, or are not valid at `now`.
        """
        verify_report(
            self.sign_report(bytes(64)),
            Chain.from_table(CertTable.parse(self.certificate_table())),
            roots=frozenset({self.root_sha256()}),
            now=now,
            expected_report_data=bytes(64),
        )

    def files(self) -> dict[str, bytes]:
        """Keys and certificates as PEM, by file name."""
        keys = (self.root_key, self.intermediate_key, self.vcek_key)
        certificates = (self.root, self.intermediate, self.vcek)
        pems = [
            *(k.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for k in keys),
            *(c.public_bytes(Encoding.PEM) for c in certificates),
        ]
        return dict(zip((*KEY_FILES, *CERTIFICATE_FILES), pems, strict=True))

    @classmethod
    def _from_files(cls, files: dict[str, bytes], measurement: bytes) -> Self:
        root_key, intermediate_key, vcek_key = (
            # Checking that the primes of our own keys are prime costs half a second at each start.
            load_pem_private_key(files[name], password=None, unsafe_skip_rsa_key_validation=True)
            for name in KEY_FILES
        )
        root, intermediate, vcek = (
            x509.load_pem_x509_certificate(files[name]) for name in CERTIFICATE_FILES
        )
        if (
            not isinstance(root_key, rsa.RSAPrivateKey)
            or not isinstance(intermediate_key, rsa.RSAPrivateKey)
            or not isinstance(vcek_key, ec.EllipticCurvePrivateKey)
        ):
            raise TypeError("a key is of another kind")
        return cls(
            root=root,
            intermediate=intermediate,
            vcek=vcek,
            root_key=root_key,
            intermediate_key=intermediate_key,
            vcek_key=vcek_key,
            measurement=measurement,
        )


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _chip_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha512(_spki(key.public_key())).digest()
