"""What a door must do about a request or a reply, and the record of why."""

from __future__ import annotations

import msgspec

from attestation.records import DecisionRecord
from enforcement.content.apierror import Headers, Refusal
from enforcement.outcome import Verdict


class Ruling(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the door must do, and the record of why.

    Attributes:
        record: append it; where `refusal` is set it must be durable before the refusal is sent.
        forward_body: the body that goes on (upstream in the request phase, to the client in the
            response phase); None where there is none (GET) or where `refusal` is set.
        refusal: what the client gets instead, or None.
        headers: to add to the reply to the client. A response ruling repeats those of the
            request's, so the last ruling's headers are all of them. A refusal has them already.
    """

    verdict: Verdict
    record: DecisionRecord
    forward_body: bytes | None
    refusal: Refusal | None
    headers: Headers
