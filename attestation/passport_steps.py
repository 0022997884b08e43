"""The steps by which a passport is verified, in order. Nothing reads a clock, a file or a socket.

Raised are VerificationError (a check does not hold), UncheckableError (it could not run) and
MalformedError (the evidence is not what it claims to be).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Required, TypedDict

from attestation import cose
from attestation.anchors import TrustAnchors
from attestation.certificates import utc
from attestation.checks import Check, passed, skipped
from attestation.claims_buffer import ClaimsBuffer
from attestation.errors import UncheckableError, VerificationError
from attestation.hardware import (
    HardwarePolicy,
    Verified,
    appraise_hardware,
    debug_of,
    demands_on,
    is_about_chain_and_tcb,
    left_out_of,
    measurement_of,
    revoked_of,
    verify_evidence,
)
from attestation.passport import DEBUG_DISABLED, HardwareClaims, Passport
from attestation.snp.crl import Crl

CLOCK_SKEW_SECONDS: Final = 60  # a passport may be this far from the future. A guess.
MAX_LIFETIME_SECONDS: Final = 86_400 + CLOCK_SKEW_SECONDS


class Expectations(TypedDict, total=False):
    """What a caller believes, allows and expects.

    Attributes:
        anchors: the roots that count.
        nonce, audience: what the caller challenged with, and as whom.
        measurement: the launch measurement (48 bytes) that is expected.
        bundle_digest: the policy bundle's digest (32 bytes) that is expected.
        crls_at: the moment at which a list of `crls` must be fresh; None: the same as all else.
    """

    anchors: Required[TrustAnchors]
    allow_simulated: bool
    nonce: bytes | None
    audience: str | None
    measurement: bytes | None
    bundle_digest: bytes | None
    hardware_policy: HardwarePolicy | None
    crls: Sequence[Crl]
    crls_at: datetime | None


@dataclass(slots=True, kw_only=True)
class Steps:
    """Each step adds the checks that held to its answer, and raises at the first that does not.

    Attributes:
        verified: the report with its chain, once `hardware` has held.
        checks: by answer.
    """

    passport: Passport
    now: datetime
    anchors: TrustAnchors
    allow_simulated: bool = False
    nonce: bytes | None = None
    audience: str | None = None
    measurement: bytes | None = None
    bundle_digest: bytes | None = None
    hardware_policy: HardwarePolicy | None = None
    crls: Sequence[Crl] = ()
    crls_at: datetime | None = None
    verified: Verified | None = None
    checks: dict[str, list[Check]] = field(default_factory=dict)

    def in_order(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Every step with the answer that it belongs to."""
        return (
            ("genuine_hardware", self.hardware),
            ("chain_and_tcb", self.repeated),
            ("chain_and_tcb", self.appraisal),
            ("binding_and_freshness", self.binding),
            ("binding_and_freshness", self.signature),
            ("binding_and_freshness", self.freshness),
            ("code_measured", self.code),
            ("policy_enforced", self.policy),
        )

    def note(self, answer: str, check: Check) -> None:
        self.checks.setdefault(answer, []).append(check)

    def require(self, answer: str, code: str, *, holds: bool, otherwise: str) -> None:
        if not holds:
            raise VerificationError(code, otherwise)
        self.note(answer, passed(code))

    # 1. Whether this kind of passport may be looked at, and the hardware's part: roots, chain,
    #    report signature, report_data = SHA-512 of the claims buffer.
    def hardware(self) -> None:
        if self.passport.claims.simulated and not self.allow_simulated:
            raise UncheckableError(
                "passport.simulated",
                "a passport of a simulated TEE: it proves nothing about hardware",
                remedy="to accept it for development: --allow-simulated --simulated-root FILE",
            )
        verified = verify_evidence(
            self.passport.evidence,
            simulated=self.passport.claims.simulated,
            anchors=self.anchors,
            now=self.now,
            crls=self.crls,
            crls_at=self.crls_at,
        )
        for check in verified.checks:
            chain = is_about_chain_and_tcb(check.name)
            self.note("chain_and_tcb" if chain else "genuine_hardware", check)
        self.verified = verified

    # Whether what the report says is good enough, where somebody said what is.
    def appraisal(self) -> None:
        assert self.verified is not None
        if self.hardware_policy is None:
            for name in demands_on(self.passport.evidence.format):
                self.note("chain_and_tcb", skipped(name, "no policy for the hardware was given"))
            return
        for check in appraise_hardware(self.verified, self.hardware_policy):
            if check not in self.verified.checks:
                self.note("chain_and_tcb", check)

    # 2. What the passport repeats of the report is what the report says, the guest is not open to
    #    its host, and its vendor has not given the platform up.
    def repeated(self) -> None:
        assert self.verified is not None
        claims = self.passport.claims
        self.require(
            "chain_and_tcb",
            "passport.debug",
            holds=not debug_of(self.verified) and claims.hardware.dbgstat == DEBUG_DISABLED,
            otherwise="the guest allows debugging: its host can read and change its memory",
        )
        if (revoked := revoked_of(self.verified)) is not None:
            self.require(
                "chain_and_tcb",
                "passport.revoked",
                holds=not revoked,
                otherwise="the vendor has revoked the TCB of this platform: what it signs may be"
                " forged",
            )
        self.require(
            "chain_and_tcb",
            "passport.hardware_claims",
            holds=HardwareClaims.of(self.verified, claims.tenant_salt) == claims.hardware,
            otherwise="the passport states other hardware than its evidence proves",
        )

    # 3. The quote is about this key, boot, policy and journal, and for this purpose.
    def binding(self) -> None:
        claims, name = self.passport.claims, "binding_and_freshness"
        buffer = ClaimsBuffer.decode(self.passport.evidence.claims_buffer)
        purpose = "passport" if claims.nonce is None else "challenge"
        thumbprint = cose.thumbprint(self.passport.key)
        kid = self.passport.message.protected[cose.KID]
        for code, holds, otherwise in (
            ("passport.purpose", buffer.purpose == purpose, "the quote is for another purpose"),
            ("passport.kid", kid == thumbprint, "the message names another key than its own"),
            (
                "passport.key",
                hmac.compare_digest(buffer.key_thumbprint, thumbprint),
                "the quote binds another key than the passport's",
            ),
            (
                "passport.nonce",
                buffer.nonce == (claims.nonce or b""),
                "the quote is over another nonce than the passport states",
            ),
            (
                "passport.boot_seed",
                buffer.boot_seed == claims.boot_seed,
                "the quote is of another boot than the passport states",
            ),
            (
                "passport.bundle",
                buffer.bundle_digest == claims.bundle[2],
                "the quote is over another policy than the passport states",
            ),
            (
                "passport.journal",
                buffer.journal_head == claims.journal_head,
                "the quote is over another journal head than the passport states",
            ),
        ):
            self.require(name, code, holds=holds, otherwise=otherwise)

    # 4. The key that the quote binds signed all of this, in the one form that we issue.
    def signature(self) -> None:
        message, name = self.passport.message, "binding_and_freshness"
        message.verify(self.passport.key)
        self.require(
            name,
            "passport.signature",
            holds=cose.has_low_s(message.signature, cose.ES256),
            otherwise="the signature is in its second form, which is never issued",
        )

    # 5. It is valid now, and for whom and what was asked.
    def freshness(self) -> None:
        claims, name = self.passport.claims, "binding_and_freshness"
        assert self.verified is not None
        now = self.now.timestamp()
        lifetime = claims.expires_at - claims.issued_at
        for code, holds, otherwise in (
            (
                "passport.expired",
                now < claims.expires_at,
                f"the passport has expired: {_when(claims.expires_at)}, it is {utc(self.now)}",
            ),
            (
                "passport.not_yet",
                claims.issued_at <= now + CLOCK_SKEW_SECONDS,
                f"the passport is of {_when(claims.issued_at)}, it is {utc(self.now)}",
            ),
            (
                "passport.lifetime",
                0 < lifetime <= MAX_LIFETIME_SECONDS,
                "the passport's lifetime is not one that is issued",
            ),
            (
                "passport.outlives",
                claims.expires_at <= self.verified.not_after.timestamp(),
                "the passport outlives the certificates under it",
            ),
        ):
            self.require(name, code, holds=holds, otherwise=otherwise)
        if self.nonce is None:
            reason = "no nonce was asked for: fresh only within its lifetime"
            self.note(name, skipped("passport.asked_nonce", reason))
        else:
            self.require(
                name,
                "passport.asked_nonce",
                holds=claims.nonce is not None and hmac.compare_digest(claims.nonce, self.nonce),
                otherwise="the passport does not answer the nonce that was asked"
                if claims.nonce is not None
                else "this passport answers no nonce: it is the one that all get",
            )
        if self.audience is None and claims.audience is not None:
            # RFC 8392 section 3.1.3: who is not named as audience must reject.
            raise VerificationError(
                "passport.audience",
                "the passport is for somebody else",
                remedy="if it is for you, say who you are (--audience)",
            )
        self.require(
            name,
            "passport.audience",
            holds=self.audience == claims.audience,
            otherwise="the passport is for somebody else"
            if claims.audience is not None
            else "the passport names no audience: it is the one that all get",
        )

    # 6. What the caller expects of code and policy.
    def code(self) -> None:
        if self.measurement is None:
            reason = "no measurement was given to compare with"
            self.note("code_measured", skipped("passport.measurement", reason))
            return
        assert self.verified is not None
        self.require(
            "code_measured",
            "passport.measurement",
            holds=hmac.compare_digest(measurement_of(self.verified), self.measurement),
            otherwise="other code was launched than expected:"
            f" {measurement_of(self.verified).hex()}",
        )
        if left_out := left_out_of(self.verified, self.hardware_policy):
            self.note("code_measured", skipped("passport.booted", left_out))

    def policy(self) -> None:
        if self.bundle_digest is None:
            reason = "the digest is bound to the quote; none was given to compare with"
            self.note("policy_enforced", skipped("passport.bundle_digest", reason))
            return
        self.require(
            "policy_enforced",
            "passport.bundle_digest",
            holds=hmac.compare_digest(self.passport.claims.bundle[2], self.bundle_digest),
            otherwise="another policy is enforced than expected:"
            f" {self.passport.claims.bundle[2].hex()}",
        )


def _when(seconds: int) -> str:
    """A claim's moment for people. It is whatever the sender wrote."""
    try:
        return utc(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"
