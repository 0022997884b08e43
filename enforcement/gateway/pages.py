"""What the door serves itself, without a decision: the agent's passport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from enforcement.content.apierror import Refusal
from enforcement.gateway import replies

Page = Callable[[], Refusal]  # any reply of the door's own has this shape

PASSPORT_PATH: Final = "/.well-known/lucid/passport"
_FIELDS: Final = (
    (b"content-type", b"application/eat+cwt"),
    (b"cache-control", b"no-store"),  # it is renewed before a cache would notice
)


def passport_page(passport: Callable[[], bytes | None]) -> Page:
    """`/.well-known/lucid/passport`: the present passport as a CWT; 503 while there is none."""

    def page() -> Refusal:
        token = passport()
        if token is not None:
            return Refusal(status=200, headers=_FIELDS, body=token)
        return replies.refusal(
            "passport_unavailable", "the agent has no passport yet", 503, retry_after=1
        )

    return page
