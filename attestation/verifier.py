"""What a passport proves, checked offline: six separate answers, never one green light.

`examine_passport` runs every step in order and says for each answer how it ended;
`verify_passport` is the same and raises where a step did not hold. Nothing here reads a clock, a
file or a socket.

The passport's profile decides which roots may be used at all: the vendors' pinned ones for the real
one, the roots that the caller gave for the simulated one, and only if simulated passports were
allowed. The two sets never meet.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from attestation import cose
from attestation.anchors import TrustAnchors
from attestation.checks import Check, CheckStatus, passed, skipped
from attestation.claims_buffer import ClaimsBuffer
from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.hardware import (
    HardwarePolicy,
    Verified,
    appraise_hardware,
    debug_of,
    demands_on,
    is_about_chain_and_tcb,
    measurement_of,
    revoked_of,
    verify_evidence,
)
from attestation.passport import DEBUG_DISABLED, HardwareClaims, Passport
from attestation.snp.crl import Crl
from attestation.tee import TeeType

CLOCK_SKEW_SECONDS: Final = 60  # a passport may be this far from the future. A guess.
MAX_LIFETIME_SECONDS: Final = 86_400 + CLOCK_SKEW_SECONDS
# Nobody said which TCB is good enough; policies see this word and can refuse it.
TCB_NOT_APPRAISED: Final = "not_appraised"
TCB_APPRAISED: Final = "appraised"


class AnswerStatus(StrEnum):
    """How one question ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


# Name in JSON → title for people, in the order in which they are answered.
QUESTIONS: Final = {
    "genuine_hardware": "Genuine Hardware",
    "chain_and_tcb": "Chain And TCB",
    "binding_and_freshness": "Binding And Freshness",
    "code_measured": "Code Measured As Expected",
    "policy_enforced": "Policy Enforced",
    "simulated": "Simulated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One of the six answers. For `simulated`, `status` is `true` or `false`."""

    name: str
    status: str
    detail: str = ""
    checks: tuple[Check, ...] = ()

    @property
    def title(self) -> str:
        """The name for people."""
        return QUESTIONS[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything that was found out about one passport.

    Attributes:
        error: the first check that did not hold or could not run; None: all held.
        verified: the report with its chain; None where that failed.
    """

    passport: Passport
    answers: tuple[Answer, ...]
    error: AttestationError | None
    verified: Verified | None
    tcb_status: str = TCB_NOT_APPRAISED

    @property
    def simulated(self) -> bool:
        """The passport says of itself that it proves nothing about hardware."""
        return self.passport.claims.simulated

    @property
    def passport_id(self) -> str:
        """`pass-` and hex."""
        return self.passport.claims.text_id

    @property
    def tee(self) -> TeeType:
        """The TEE that the passport is of."""
        return TeeType.SIMULATED if self.simulated else TeeType(self.passport.evidence.format)

    def answer(self, name: str) -> Answer:
        """One answer by its name."""
        return next(answer for answer in self.answers if answer.name == name)

    @property
    def hardware_attested(self) -> bool:
        """Computed from what was verified: genuine hardware, chain and binding; not simulated."""
        names = ("genuine_hardware", "chain_and_tcb", "binding_and_freshness")
        held = all(self.answer(name).status == AnswerStatus.PASSED for name in names)
        return held and self.error is None and not self.simulated

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values; every check, the skipped ones included."""
        claims = self.passport.claims
        return {
            "passport_id": self.passport_id,
            "hardware_attested": self.hardware_attested,
            "tee": self.tee.value,
            "tee_display": self.tee.display,
            "simulated": self.simulated,
            "valid": self.error is None,
            "error": None
            if self.error is None
            else {
                "code": self.error.code,
                "message": str(self.error),
                "remedy": self.error.remedy,
            },
            "subject": claims.subject,
            "issued_at": claims.issued_at,
            "expires_at": claims.expires_at,
            "bundle": {
                "name": claims.bundle[0],
                "version": claims.bundle[1],
                "digest": claims.bundle[2].hex(),
            },
            "measurement": claims.hardware.measurement.hex(),
            "journal": {"head": claims.journal_head.hex(), "seq": claims.journal_seq},
            "tcb_status": self.tcb_status,
            "answers": {
                answer.name: {
                    "status": answer.status,
                    "detail": answer.detail,
                    "checks": [
                        {"name": c.name, "status": c.status.value, "detail": c.detail}
                        for c in answer.checks
                    ],
                }
                for answer in self.answers
            },
        }


Appraisal = Examination  # of a passport for which every step held


@dataclass(slots=True, kw_only=True)
class _Steps:
    """The steps, each with the answer that it belongs to; run in order by `examine_passport`."""

    passport: Passport
    now: datetime
    anchors: TrustAnchors
    allow_simulated: bool
    nonce: bytes | None
    audience: str | None
    measurement: bytes | None
    bundle_digest: bytes | None
    hardware_policy: HardwarePolicy | None
    crls: Sequence[Crl]
    verified: Verified | None = None
    checks: dict[str, list[Check]] = field(default_factory=dict)

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
            ("passport.expired", now < claims.expires_at, "the passport has expired"),
            (
                "passport.not_yet",
                claims.issued_at <= now + CLOCK_SKEW_SECONDS,
                "the passport is from the future",
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
                otherwise="the passport does not answer the nonce that was asked",
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
            otherwise="the passport is for somebody else",
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
            otherwise="other code was launched than expected",
        )

    def policy(self) -> None:
        if self.bundle_digest is None:
            reason = "the digest is bound to the quote; none was given to compare with"
            self.note("policy_enforced", skipped("passport.bundle_digest", reason))
            return
        self.require(
            "policy_enforced",
            "passport.bundle_digest",
            holds=hmac.compare_digest(self.passport.claims.bundle[2], self.bundle_digest),
            otherwise="another policy is enforced than expected",
        )


def examine_passport(
    token: bytes,
    *,
    now: datetime,
    anchors: TrustAnchors,
    allow_simulated: bool = False,
    nonce: bytes | None = None,
    audience: str | None = None,
    measurement: bytes | None = None,
    bundle_digest: bytes | None = None,
    hardware_policy: HardwarePolicy | None = None,
    crls: Sequence[Crl] = (),
) -> Examination:
    """Run every step and report on each.

    Args:
        now: the moment at which everything must be valid; with a time zone.
        nonce, audience: what the caller challenged with, and as whom.
        measurement: the launch measurement (48 bytes) that is expected.
        bundle_digest: the policy bundle's digest (32 bytes) that is expected.

    Raises:
        MalformedError: the bytes are not a passport. What fails behind that is in `error`.
    """
    if now.tzinfo is None:
        raise ValueError("`now` needs a time zone")
    steps = _Steps(
        passport=Passport.parse(token),
        now=now.astimezone(UTC),
        anchors=anchors,
        allow_simulated=allow_simulated,
        nonce=nonce,
        audience=audience,
        measurement=measurement,
        bundle_digest=bundle_digest,
        hardware_policy=hardware_policy,
        crls=crls,
    )
    order: tuple[tuple[str, Callable[[], None]], ...] = (
        ("genuine_hardware", steps.hardware),
        ("chain_and_tcb", steps.repeated),
        ("chain_and_tcb", steps.appraisal),
        ("binding_and_freshness", steps.binding),
        ("binding_and_freshness", steps.signature),
        ("binding_and_freshness", steps.freshness),
        ("code_measured", steps.code),
        ("policy_enforced", steps.policy),
    )
    error, begun, broken = None, set(), ""
    for name, step in order:
        begun.add(name)
        try:
            step()
        except AttestationError as caught:
            error, broken = caught, _blamed(name, caught)
            break
    answers = tuple(_answer(name, steps, begun, broken, error) for name in QUESTIONS)
    return Examination(
        passport=steps.passport,
        answers=answers,
        error=error,
        verified=steps.verified,
        tcb_status=TCB_NOT_APPRAISED if hardware_policy is None or error else TCB_APPRAISED,
    )


def _blamed(step: str, error: AttestationError) -> str:
    """The answer that an error belongs to; the report's verification spans three of them."""
    if step == "genuine_hardware":
        if error.code in ("snp.report_data.matches", "tdx.report_data.matches"):
            return "binding_and_freshness"
        if is_about_chain_and_tcb(error.code):
            return "chain_and_tcb"
    return step


def _answer(
    name: str, steps: _Steps, begun: set[str], broken: str, error: AttestationError | None
) -> Answer:
    simulated = steps.passport.claims.simulated
    if name == "simulated":
        return Answer(name=name, status="true" if simulated else "false")
    checks = tuple(steps.checks.get(name, ()))
    unproven = steps.verified is None and name in ("genuine_hardware", "chain_and_tcb")
    if error is not None and (name == broken or name not in begun or unproven):
        failed = name == broken and not isinstance(error, UncheckableError)
        status = AnswerStatus.FAILED if failed else AnswerStatus.NOT_CHECKED
        detail = str(error) if name == broken else "an earlier check did not hold"
        if name == broken:
            kind = CheckStatus.FAILED if failed else CheckStatus.SKIPPED
            checks = (*checks, Check(name=error.code, status=kind, detail=str(error)))
        return Answer(name=name, status=status, detail=detail, checks=checks)
    if name == "genuine_hardware" and simulated:
        detail = "a simulated TEE is not hardware"
        return Answer(name=name, status=AnswerStatus.FAILED, detail=detail, checks=checks)
    ran = [check for check in checks if check.status is CheckStatus.PASSED]
    left = [check for check in checks if check.status is CheckStatus.SKIPPED]
    if not ran:
        detail = left[0].detail if left else "no check ran"
        return Answer(name=name, status=AnswerStatus.NOT_CHECKED, detail=detail, checks=checks)
    reasons = dict.fromkeys(check.detail or check.name for check in left)
    detail = "not checked: " + "; ".join(reasons)
    return Answer(
        name=name, status=AnswerStatus.PASSED, detail=detail if left else "", checks=checks
    )


def verify_passport(
    token: bytes,
    *,
    now: datetime,
    anchors: TrustAnchors,
    allow_simulated: bool = False,
    nonce: bytes | None = None,
    audience: str | None = None,
    measurement: bytes | None = None,
    bundle_digest: bytes | None = None,
    hardware_policy: HardwarePolicy | None = None,
    crls: Sequence[Crl] = (),
) -> Appraisal:
    """Verify a passport: the same steps as `examine_passport`, raising where one does not hold.

    Raises:
        MalformedError: not a passport, or its evidence is not what it claims to be.
        VerificationError: a step does not hold.
        UncheckableError: a step could not run; simulated passports, unless they are allowed.
    """
    examination = examine_passport(
        token,
        now=now,
        anchors=anchors,
        allow_simulated=allow_simulated,
        nonce=nonce,
        audience=audience,
        measurement=measurement,
        bundle_digest=bundle_digest,
        hardware_policy=hardware_policy,
        crls=crls,
    )
    if examination.error is not None:
        raise examination.error
    return examination
