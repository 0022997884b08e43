"""What was found out about a passport: six separate answers, never one green light."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from attestation.checks import Check
from attestation.errors import AttestationError
from attestation.hardware import HardwarePolicy, Verified, tcb_word_of
from attestation.passport import Passport
from attestation.tee import TeeType

# Nobody said which TCB is good enough, nor is there a word of the vendor's; policies see this word
# and can refuse it.
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
        tcb_status: `appraised`: the caller's hardware policy is met; else Intel's word for a TDX
            platform (`UpToDate`, …); else `not_appraised`.
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


def tcb_status_of(
    verified: Verified | None, policy: HardwarePolicy | None, *, simulated: bool
) -> str:
    """The TCB status of evidence for which everything held: by the policy that it met, or else the
    vendor's own word. A simulated vendor's word counts for nothing.
    """
    if policy is not None:
        return TCB_APPRAISED
    word = None if verified is None or simulated else tcb_word_of(verified)
    return word or TCB_NOT_APPRAISED


Appraisal = Examination  # of a passport for which every step held
