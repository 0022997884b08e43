"""What the door serves itself, without a decision: the agent's passport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from enforcement import replies
from enforcement.http1 import Header

Page = Callable[[], tuple[int, tuple[Header, ...], bytes]]  # status, fields, body

PASSPORT_PATH: Final = "/.well-known/lucid/passport"
_FIELDS: Final = (
    (b"content-type", b"application/eat+cwt"),
    (b"cache-control", b"no-store"),  # it is renewed before a cache would notice
)


def passport_page(passport: Callable[[], bytes | None]) -> Page:
    """`/.well-known/lucid/passport`: the present passport as a CWT; 503 while there is none."""

    def page() -> tuple[int, tuple[Header, ...], bytes]:
        token = passport()
        if token is None:
            refusal = replies.refusal(
                "passport_unavailable", "the agent has no passport yet", 503, retry_after=1
            )
            return refusal.status, refusal.headers, refusal.body
        return 200, _FIELDS, token

    return page
