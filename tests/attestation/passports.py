"""Passports for tests: issued as the agent issues them, and forged as an attacker would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor, cose
from attestation.anchors import TrustAnchors
from attestation.claims_buffer import ClaimsBuffer, Purpose, report_data
from attestation.evidence import Evidence
from attestation.hardware import verify_evidence
from attestation.passport import (
    MEDIA_TYPE,
    HardwareClaims,
    PassportClaims,
    issue_passport,
    tenant_salt,
)
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SEED, DIGEST, HEAD = b"s" * 32, b"d" * 32, b"h" * 32


Vendor = SimulatedVendor | SimulatedIntel


def anchors(vendor: Vendor) -> TrustAnchors:
    return TrustAnchors.builtin().with_simulated_root(vendor.root_certificate_pem())


@dataclass
class Maker:
    """Makes one passport; every part can be changed first."""

    vendor: Vendor
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    bound_key: ec.EllipticCurvePrivateKey | None = None
    purpose: Purpose = "passport"
    nonce: bytes | None = None
    audience: str | None = None
    lifetime: int = 900
    issued_at: int = int(NOW.timestamp())
    seed: bytes = SEED
    digest: bytes = DIGEST
    head: bytes = HEAD

    def buffer(self) -> bytes:
        return ClaimsBuffer(
            purpose=self.purpose if self.nonce is None else "challenge",
            key_thumbprint=cose.thumbprint((self.bound_key or self.key).public_key()),
            nonce=self.nonce or b"",
            boot_seed=self.seed,
            bundle_digest=self.digest,
            journal_head=self.head,
        ).encode()

    def evidence(self, **td: Any) -> Evidence:
        """`td`: other values of a TD's report."""
        buffer = self.buffer()
        if isinstance(self.vendor, SimulatedIntel):
            return Evidence(
                format="tdx",
                quote=self.vendor.quote(report_data(buffer), **td),
                certificates=self.vendor.collateral(NOW),
                claims_buffer=buffer,
            )
        return Evidence(
            format="sev-snp",
            quote=self.vendor.sign_report(report_data(buffer)),
            certificates=self.vendor.certificate_table(),
            claims_buffer=buffer,
        )

    def claims(self, evidence: Evidence) -> PassportClaims:
        verified = verify_evidence(evidence, simulated=True, anchors=anchors(self.vendor), now=NOW)
        salt = tenant_salt("")
        return PassportClaims(
            simulated=True,
            issuer="test",
            subject="agent",
            audience=self.audience,
            nonce=self.nonce,
            issued_at=self.issued_at,
            expires_at=self.issued_at + self.lifetime,
            passport_id=b"p" * 16,
            boot_seed=self.seed,
            hardware=HardwareClaims.of(verified, salt),
            swname="lucid-agent",
            swversion="1",
            bundle=("test", "1", self.digest),
            journal_head=self.head,
            journal_seq=7,
            tenant_salt=salt,
            counters={"deny": 1},
            auditors=("a",),
            results=(("check", 1),),
        )

    def token(self, *, td: dict[str, Any] | None = None, **changes: Any) -> bytes:
        """A passport; `td` are other values of a TD's report, `changes` of its claims."""
        evidence = self.evidence(**(td or {}))
        claims = replace(self.claims(evidence), **changes)
        return issue_passport(key=self.key, evidence=evidence, claims=claims)


def payload_of(token: bytes) -> dict[Any, Any]:
    payload = cose.Sign1.parse(token).payload
    assert payload is not None
    value = cbor.decode(payload, max_size=2**20)
    assert isinstance(value, dict)
    return value


def forged(
    token: bytes, key: ec.EllipticCurvePrivateKey, changes: dict[int, Any], *drop: int
) -> bytes:
    """The passport with other claims, signed anew by any key: what an attacker can always do."""
    claims = payload_of(token) | changes
    for label in drop:
        del claims[label]
    return signed(cbor.encode(claims), key)


def signed(payload: bytes, key: ec.EllipticCurvePrivateKey, **kwargs: Any) -> bytes:
    protected = {1: cose.ES256, 4: cose.thumbprint(key.public_key()), 16: MEDIA_TYPE}
    return cose.sign1(payload, key, protected=protected, **kwargs)


def reencoded(token: bytes, change: Any) -> bytes:
    """The COSE array changed in place, by a function."""
    tag = cbor.decode(token, max_size=2**20)
    assert isinstance(tag, CBORTag)
    parts = list(tag.value)
    change(parts)
    return cbor.encode(CBORTag(18, parts))
