"""What the Observer knows of a boot of an agent: its place in the chain and what attests it."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """A passport that verified, and what is shown of it.

    Attributes:
        key: the key the passport binds; it signs checkpoints and the stream's proof.
        thumbprint: SHA-256 of the key (RFC 9679); one per boot.
        answers: the separate answers of the examination, as JSON-ready values.
        hardware_attested: computed by the verifier from the evidence, never a claim.
        issued_at, expires_at: seconds since 1970.
    """

    token: bytes
    key: ec.EllipticCurvePublicKey
    thumbprint: bytes
    boot_seed: bytes
    passport_id: str
    subject: str
    tee: str
    tee_display: str
    simulated: bool
    hardware_attested: bool
    issued_at: int
    expires_at: int
    bundle_name: str
    bundle_version: str
    bundle_digest: bytes
    answers: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far the chain of a boot is stored. `head` is the chain's head at `last_seq`."""

    last_seq: int
    head: bytes

    @property
    def next_seq(self) -> int:
        return self.last_seq + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBoot:
    """A boot as the store has it. `thumbprint` is None for a boot that never had a passport."""

    boot_id: bytes
    agent_id: str
    boot_seed: bytes
    thumbprint: bytes | None
    key: ec.EllipticCurvePublicKey | None
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedBoot:
    """A boot that a Hello offers, after its seed and passport were checked.

    Attributes:
        attested: None for a boot that ended before it had a passport; its records are vouched
            for only by the running boot that brings them.
        first_unacked_seq, last_seq: what the agent says it still has.
    """

    boot_id: bytes
    boot_seed: bytes
    attested: Attested | None
    first_unacked_seq: int
    last_seq: int
