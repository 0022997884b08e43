"""What the Observer knows of a boot of an agent: its place in the chain and what attests it."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What a passport says of its boot's chain: this head, which the quote binds, at this place."""

    passport_id: str
    seq: int
    head: bytes


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
    journal_seq: int
    journal_head: bytes
    answers: dict[str, object]

    @property
    def stated(self) -> Stated:
        """What it says of the chain."""
        return Stated(passport_id=self.passport_id, seq=self.journal_seq, head=self.journal_head)


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
    """A boot as the store has it. `thumbprint` is None for a boot that never had a passport.

    Attributes:
        stated: what its newest passport says of the chain; None where it is not known.
    """

    boot_id: bytes
    agent_id: str
    boot_seed: bytes
    thumbprint: bytes | None
    key: ec.EllipticCurvePublicKey | None
    position: Position
    stated: Stated | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedBoot:
    """A boot that a Hello offers, after its seed and passport were checked.

    Attributes:
        attested: None for a boot that ended before it had a passport; its records are vouched
            for only by the running boot that brings them.
        first_unacked_seq, last_seq: what the agent says it still has.
        stated: what the passports that were ever seen of it say of its chain.
    """

    boot_id: bytes
    boot_seed: bytes
    attested: Attested | None
    first_unacked_seq: int
    last_seq: int
    stated: tuple[Stated, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A boot of which less is stored than is known to have been, and which is not offered any more.

    Attributes:
        last_seq: what is stored.
        known_seq: what the boot had.
        source: how that is known, for people.
    """

    boot_id: bytes
    last_seq: int
    known_seq: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What is known of the newest boots of an agent.

    Attributes:
        lost: those with records missing that are not offered.
        hardware: the TEE of one that was hardware attested, for people; empty where none was.
    """

    lost: tuple[Lost, ...] = ()
    hardware: str = ""
