"""Certificates of the simulated vendor: the shape of AMD's, under names that cannot be mistaken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.snp.extensions import (
    OID_BOOTLOADER,
    OID_CSP_ID,
    OID_FMC,
    OID_HWID,
    OID_MICROCODE,
    OID_PRODUCT_NAME,
    OID_SNP,
    OID_STRUCT_VERSION,
    OID_TEE,
    OIDS_RESERVED,
)
from attestation.snp.names import SIMULATED
from attestation.snp.product import EndorsementKey, ProductLine, Tcb

LIFETIME: Final = timedelta(days=365 * 20)
LIST_LIFETIME: Final = timedelta(days=30)
BACKDATED: Final = timedelta(days=1)  # clocks of relying parties may be behind

_SHA384: Final = hashes.SHA384()
PSS: Final = padding.PSS(mgf=padding.MGF1(_SHA384), salt_length=48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A key that certifies others, under its common name."""

    common_name: str
    key: rsa.RSAPrivateKey


def issue(
    *,
    subject: str,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer: Issuer,
    now: datetime,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """One certificate, RSASSA-PSS with AMD's parameters, valid from a day ago for 20 years."""
    now = now.astimezone(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(SIMULATED.name(subject))
        .issuer_name(SIMULATED.name(issuer.common_name))
        .public_key(public_key)
        # AMD's endorsement keys have serial number 0, which is not valid X.509; ours have not.
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer.key, _SHA384, rsa_padding=PSS)


def issue_root(root: Issuer, *, now: datetime) -> x509.Certificate:
    """The self-signed root."""
    return issue(
        subject=root.common_name,
        public_key=root.key.public_key(),
        issuer=root,
        now=now,
        extensions=_ca_extensions(path_length=None),
    )


def issue_intermediate(intermediate: Issuer, root: Issuer, *, now: datetime) -> x509.Certificate:
    """The intermediate that certifies endorsement keys."""
    return issue(
        subject=intermediate.common_name,
        public_key=intermediate.key.public_key(),
        issuer=root,
        now=now,
        extensions=_ca_extensions(path_length=0),
    )


def issue_endorsement_key(
    public_key: ec.EllipticCurvePublicKey,
    intermediate: Issuer,
    *,
    now: datetime,
    values: dict[str, bytes],
    kind: EndorsementKey = EndorsementKey.VCEK,
) -> x509.Certificate:
    """A VCEK or VLEK with AMD's extensions, `values` as `amd_values` makes them."""
    return issue(
        subject=SIMULATED.ek(kind),
        public_key=public_key,
        issuer=intermediate,
        now=now,
        extensions=[
            (x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
            for oid, value in values.items()
        ],
    )


@lru_cache(maxsize=4)  # signing takes milliseconds, and passports come all day
def issue_list(issuer: Issuer, *, day: datetime, revoked: tuple[int, ...] = ()) -> bytes:
    """A revocation list (DER) of one day, good for 30 more; its number is that of the day."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(SIMULATED.name(issuer.common_name))
        .last_update(day - BACKDATED)
        .next_update(day + LIST_LIFETIME)
        .add_extension(x509.CRLNumber(day.toordinal()), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(day)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, _SHA384, rsa_padding=PSS).public_bytes(Encoding.DER)


def amd_values(
    *, line: ProductLine, tcb: Tcb, hwid: bytes | None = None, csp_id: str | None = None
) -> dict[str, bytes]:
    """AMD's extensions as raw values by OID, laid out as AMD does for the product line."""
    reserved = OIDS_RESERVED[1:] if line is ProductLine.TURIN else OIDS_RESERVED
    values = {
        OID_STRUCT_VERSION: _integer(1 if line is ProductLine.TURIN else 0),
        OID_PRODUCT_NAME: _ia5_string(line),
        OID_BOOTLOADER: _integer(tcb.bootloader),
        OID_TEE: _integer(tcb.tee),
        **{oid: _integer(0) for oid in reserved},
        OID_SNP: _integer(tcb.snp),
        OID_MICROCODE: _integer(tcb.microcode),
    }
    if tcb.fmc is not None:
        values[OID_FMC] = _integer(tcb.fmc)
    if hwid is not None:
        values[OID_HWID] = hwid
    if csp_id is not None:
        values[OID_CSP_ID] = _ia5_string(csp_id)
    return values


def _ca_extensions(*, path_length: int | None) -> list[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=path_length is None,
        encipher_only=False,
        decipher_only=False,
    )
    return [(x509.BasicConstraints(ca=True, path_length=path_length), True), (usage, True)]


def _integer(number: int) -> bytes:
    """A DER INTEGER of 0 to 255."""
    return b"\x02\x01" + bytes((number,)) if number < 0x80 else b"\x02\x02\x00" + bytes((number,))


def _ia5_string(text: str) -> bytes:
    return b"\x16" + bytes((len(text),)) + text.encode("ascii")
