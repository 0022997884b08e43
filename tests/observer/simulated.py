"""Real passports for scripted agents, on a simulated TEE."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from attestation.anchors import TrustAnchors
from attestation.claims_buffer import ClaimsBuffer, report_data
from attestation.cose import thumbprint
from attestation.evidence import Evidence
from attestation.hardware import verify_evidence
from attestation.passport import HardwareClaims, PassportClaims, issue_passport, tenant_salt
from attestation.simulated.vendor import SimulatedVendor
from tests.observer.fake_agent import FakeBoot

LIFETIME = 900  # seconds


class SimulatedTee:
    """One simulated vendor and the passports it makes."""

    def __init__(self, now: datetime) -> None:
        self._vendor = SimulatedVendor.create(now=now)
        self._now = now
        self.root_pem = self._vendor.root_certificate_pem()
        self._anchors = TrustAnchors.builtin().with_simulated_root(self.root_pem)

    def passport(self, boot: FakeBoot, *, age: int = 0, **lies: Any) -> bytes:
        """A passport of this boot, issued `age` seconds ago; `lies` replace its claims."""
        bundle = ("demo", "1", bytes(32))
        buffer = ClaimsBuffer(
            purpose="passport",
            key_thumbprint=thumbprint(boot.key.public_key()),
            nonce=b"",
            boot_seed=boot.seed,
            bundle_digest=bundle[2],
            journal_head=boot.heads[0],
        ).encode()
        evidence = Evidence(
            format="sev-snp",
            quote=self._vendor.sign_report(report_data(buffer)),
            certificates=self._vendor.certificate_table(),
            claims_buffer=buffer,
        )
        verified = verify_evidence(evidence, simulated=True, anchors=self._anchors, now=self._now)
        salt = tenant_salt("tests")
        issued_at = int(datetime.now(UTC).timestamp()) - age
        claims: dict[str, Any] = {
            "simulated": True,
            "issuer": "lucid-agent",
            "subject": boot.agent_id,
            "issued_at": issued_at,
            "expires_at": issued_at + LIFETIME,
            "passport_id": os.urandom(16),
            "boot_seed": boot.seed,
            "hardware": HardwareClaims.of(verified, salt),
            "swname": "lucid-agent",
            "swversion": "0.1.0",
            "bundle": bundle,
            "journal_head": boot.heads[0],
            "journal_seq": 0,
            "tenant_salt": salt,
        } | lies
        return issue_passport(key=boot.key, evidence=evidence, claims=PassportClaims(**claims))

    def boot(self, records: int = 3, **fields: Any) -> FakeBoot:
        """A boot with a passport and some records."""
        made = FakeBoot(**fields)
        made.passport = self.passport(made)
        made.decide(records)
        return made
