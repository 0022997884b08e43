"""A stand-in for the verifier of passports: believes what the test wrote down."""

from __future__ import annotations

from datetime import datetime

from attestation.cose import thumbprint
from attestation.errors import VerificationError
from observer.boots import Attested
from tests.observer.fake_agent import FakeBoot

ANSWERS: dict[str, object] = {
    name: {"status": "passed", "detail": detail, "checks": []}
    for name, detail in (
        ("genuine_hardware", ""),
        ("chain_and_tcb", "not checked: no list"),
        ("binding_and_freshness", ""),
    )
}


def attested(boot: FakeBoot, **changes: object) -> Attested:
    fields: dict[str, object] = {
        "token": boot.passport,
        "key": boot.key.public_key(),
        "thumbprint": thumbprint(boot.key.public_key()),
        "boot_seed": boot.seed,
        "passport_id": f"pass-{boot.boot_id.hex()}",
        "subject": boot.agent_id,
        "tee": "simulated",
        "tee_display": "Simulated TEE",
        "simulated": True,
        "hardware_attested": False,
        "issued_at": 1_700_000_000,
        "expires_at": 4_000_000_000,
        "bundle_name": "demo",
        "bundle_version": "1",
        "bundle_digest": bytes(32),
        "journal_seq": 0,
        "journal_head": boot.heads[0],
        "answers": ANSWERS,
    } | changes
    return Attested(**fields)  # type: ignore[arg-type]  # the fields are given by name above


class FakeTrust:
    """Passports are names; those in `now` verify now, those in `then` did when they were issued."""

    def __init__(self) -> None:
        self.now: dict[bytes, Attested] = {}
        self.then: dict[bytes, Attested] = {}

    def believe(self, *boots: FakeBoot, **changes: object) -> None:
        """Give these boots passports that verify."""
        for boot in boots:
            boot.passport = b"passport of " + boot.boot_id.hex().encode()
            self.now[boot.passport] = self.then[boot.passport] = attested(boot, **changes)

    def current(self, token: bytes, now: datetime) -> Attested:
        return self._find(self.now, token)

    def historical(self, token: bytes) -> Attested:
        return self._find(self.then, token)

    def _find(self, known: dict[bytes, Attested], token: bytes) -> Attested:
        if token not in known:
            raise VerificationError("passport.signature", "the signature does not verify")
        return known[token]
