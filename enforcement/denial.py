"""How a policy's denial is told: a status and body, or the words for an event."""

from __future__ import annotations

import math
from typing import Final

from enforcement.apis.routes import Style
from enforcement.content.apierror import Headers, Refusal, error_body
from enforcement.outcome import Verdict

RETRY_AFTER_SECONDS: Final = 1
RATE_LIMITED: Final = "rate_limited:"  # and the policy whose rate is used up


def policy_refusal(
    style: Style,
    verdict: Verdict,
    decision_id: str,
    headers: Headers,
    *,
    retry_after: float = RETRY_AFTER_SECONDS,
) -> Refusal:
    """What a client gets for a policy's denial: 403, 429 where a rate is used up, or 503 where none
    could be evaluated.

    `retry_after`: seconds, told with 429 and 503.
    """
    status, kind, message = describe_denial(verdict)
    body = error_body(
        style,
        status=status,
        kind=kind,
        code=verdict.reasons[0] if verdict.reasons else "denied",
        message=message,
        decision_id=decision_id,
    )
    fields: Headers = ((b"content-type", b"application/json"), *headers)
    if status in (429, 503):
        fields = (*fields, (b"retry-after", b"%d" % max(math.ceil(retry_after), 1)))
    return Refusal(status=status, body=body, headers=fields)


def describe_denial(verdict: Verdict) -> tuple[int, str, str]:
    """Status, type and message of a denial. The message names reasons and no text."""
    reasons = ", ".join(verdict.reasons) or "no policy permits it"
    if verdict.reasons and verdict.reasons[0].startswith(RATE_LIMITED):
        return 429, "rate_limit_exceeded", f"too many requests: {reasons}"
    if verdict.evaluated:
        return 403, "policy_denied", f"denied by policy: {reasons}"
    return 503, "policy_unavailable", f"the policy could not be evaluated: {reasons}"
