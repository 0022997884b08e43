"""What a passport proves, checked offline: six separate answers, never one green light.

`examine_passport` runs every step (`passport_steps`) in order and says for each answer how it ended
(`examination`); `verify_passport` is the same and raises where a step did not hold. Nothing here
reads a clock, a file or a socket.

The passport's profile decides which roots may be used at all: the vendors' pinned ones for the real
one, the roots that the caller gave for the simulated one, and only if simulated passports were
allowed. The two sets never meet.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Unpack

from attestation.checks import Check, CheckStatus
from attestation.errors import AttestationError, UncheckableError
from attestation.examination import (
    QUESTIONS,
    TCB_NOT_APPRAISED,
    Answer,
    AnswerStatus,
    Appraisal,
    Examination,
    tcb_status_of,
)
from attestation.hardware import is_about_chain_and_tcb
from attestation.passport import Passport
from attestation.passport_steps import Expectations, Steps


def examine_passport(
    token: bytes, *, now: datetime, **expected: Unpack[Expectations]
) -> Examination:
    """Run every step and report on each.

    Args:
        now: the moment at which everything must be valid; with a time zone.
        expected: see `Expectations`.

    Raises:
        MalformedError: the bytes are not a passport. What fails behind that is in `error`.
    """
    if now.tzinfo is None:
        raise ValueError("`now` needs a time zone")
    steps = Steps(passport=Passport.parse(token), now=now.astimezone(UTC), **expected)
    error, begun, broken = None, set(), ""
    for name, step in steps.in_order():
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
        tcb_status=TCB_NOT_APPRAISED
        if error
        else tcb_status_of(
            steps.verified, steps.hardware_policy, simulated=steps.passport.claims.simulated
        ),
    )


def verify_passport(token: bytes, *, now: datetime, **expected: Unpack[Expectations]) -> Appraisal:
    """Verify a passport: the same steps as `examine_passport`, raising where one does not hold.

    Raises:
        MalformedError: not a passport, or its evidence is not what it claims to be.
        VerificationError: a step does not hold.
        UncheckableError: a step could not run; simulated passports, unless they are allowed.
    """
    examination = examine_passport(token, now=now, **expected)
    if examination.error is not None:
        raise examination.error
    return examination


def _blamed(step: str, error: AttestationError) -> str:
    """The answer that an error belongs to; the report's verification spans three of them."""
    if step == "genuine_hardware":
        if error.code in ("snp.report_data.matches", "tdx.report_data.matches"):
            return "binding_and_freshness"
        if is_about_chain_and_tcb(error.code):
            return "chain_and_tcb"
    return step


def _answer(
    name: str, steps: Steps, begun: set[str], broken: str, error: AttestationError | None
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
