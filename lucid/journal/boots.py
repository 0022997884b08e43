"""Whose boots a journal holds: passports verified, and what they say of each boot's chain. No I/O.

A passport in a journal has expired long ago. It is verified as of the moment of its issue, which it
states itself: certificates must have been valid then. Revocation lists are held to the present.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import chain
from attestation.cose import thumbprint
from attestation.errors import VerificationError
from attestation.history import Signed
from attestation.passport import Passport
from attestation.passport_steps import CLOCK_SKEW_SECONDS
from attestation.verifier import verify_passport
from lucid.journal.file import BootRow
from lucid.passport_terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """What is kept of a passport that verified.

    Attributes:
        key: what signs the checkpoints of its boot.
        answers: how the separate answers of its examination ended, by name.
        issued_at: seconds since 1970.
    """

    passport_id: str
    boot_id: bytes
    agent_id: str
    key: ec.EllipticCurvePublicKey
    thumbprint: bytes
    tee: str
    tee_display: str
    simulated: bool
    hardware_attested: bool
    tcb_status: str
    ueid: bytes
    measurement: bytes
    issued_at: int
    bundle_digest: bytes
    journal_seq: int
    journal_head: bytes
    answers: dict[str, str]

    @property
    def signed(self) -> Signed:
        """What it says of its boot's chain; the quote binds the head."""
        return Signed(seq=self.journal_seq, head=self.journal_head, by=self.passport_id)


def vouch(
    token: bytes, *, terms: Terms, now: datetime, bundle_digests: Collection[bytes] = ()
) -> Vouched:
    """Verify a passport as of its issue.

    Args:
        now: no passport is from later, and revocation lists must be fresh then.
        bundle_digests: the policies that it may name; none: any.

    Raises:
        AttestationError: as `verify_passport`.
        click.UsageError: the terms mean nothing for it.
    """
    passport = Passport.parse(token)
    claims = passport.claims
    issued = datetime.fromtimestamp(claims.issued_at, UTC)
    if issued > now + timedelta(seconds=CLOCK_SKEW_SECONDS):
        raise VerificationError("passport.not_yet", f"{claims.text_id} is from the future")
    expected = terms.expectations(passport.evidence.format, crls_at=now)
    expected["audience"] = claims.audience  # whoever it was for: it is evidence here
    found = verify_passport(token, now=issued, **expected)
    if bundle_digests and claims.bundle[2] not in bundle_digests:
        raise VerificationError(
            "passport.bundle_digest",
            f"{claims.text_id} states policy {claims.bundle[2].hex()}, which is not expected",
        )
    return Vouched(
        passport_id=claims.text_id,
        boot_id=chain.boot_id(claims.boot_seed),
        agent_id=claims.subject,
        key=passport.key,
        thumbprint=thumbprint(passport.key),
        tee=found.tee.value,
        tee_display=found.tee.display,
        simulated=found.simulated,
        hardware_attested=found.hardware_attested,
        tcb_status=found.tcb_status,
        ueid=claims.hardware.ueid,
        measurement=claims.hardware.measurement,
        issued_at=claims.issued_at,
        bundle_digest=claims.bundle[2],
        journal_seq=claims.journal_seq,
        journal_head=claims.journal_head,
        answers={answer.name: str(answer.status) for answer in found.answers},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A head that somebody else knows a boot to have had: the Observer, a kept passport."""

    boot_id: bytes
    signed: Signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A boot of the file with all that vouches for it.

    Attributes:
        vouched: its passports: the one in the file, if it had one, and those that were given.
        expected: what else is known of its chain.
    """

    row: BootRow
    vouched: tuple[Vouched, ...]
    expected: tuple[Signed, ...]

    @property
    def key(self) -> ec.EllipticCurvePublicKey | None:
        """What signs its checkpoints; None where no passport says."""
        return self.vouched[0].key if self.vouched else None


def check_owner(row: BootRow, vouched: Vouched, first: Vouched | None) -> None:
    """That a passport is of this boot, and of its key.

    Args:
        first: another passport of the boot, which was checked before.

    Raises:
        VerificationError: `boot.passport`, `boot.key`.
    """
    if vouched.boot_id != row.boot_id:
        raise VerificationError(
            "boot.passport", f"{vouched.passport_id} is of boot {vouched.boot_id.hex()}"
        )
    if first is not None and first.thumbprint != vouched.thumbprint:
        raise VerificationError(
            "boot.key",
            f"{vouched.passport_id} has another key than {first.passport_id}; the key of a boot"
            " never changes",
        )
