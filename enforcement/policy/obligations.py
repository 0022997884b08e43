"""Obligations: what must be done for a permission to hold.

    @max_tokens("512")        the model may write at most so many tokens
    @rate("10/minute")        for each principal: second, minute, hour or day
    @require_hardware         only where the platform is attested hardware, not a simulated TEE

They stand on a permit, or on a forbid that only warns or redacts, and bind when that policy is one
of those that decided; several together bind to the strictest: the least number of tokens, every
rate. They belong to the request's phase. What cannot be fulfilled denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

MAX_TOKENS: Final = 1_000_000_000
MAX_RATE: Final = 1_000_000

_SECONDS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_RATE: Final = re.compile(rf"([1-9][0-9]{{0,6}})/({'|'.join(_SECONDS)})")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,9}")

# Where each route says how much the model may write. The first is written where none is there.
_TOKEN_FIELDS: Final = {
    "chat.completions": ("max_tokens", "max_completion_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
# Words for it that are lowered on every route, where they are there: llama.cpp reads `n_predict`,
# then `max_completion_tokens`, then `max_tokens`, whatever the route.
_OTHER_WORDS: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "max_output_tokens"}
    | {"n_predict", "num_predict", "max_new_tokens"}
)
_WRITES_NOTHING: Final = frozenset({"models", "embeddings"})


class ObligationError(Exception):
    """An obligation that cannot be fulfilled. `code` is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Rate(msgspec.Struct, frozen=True, order=True):
    """So many requests of one principal in so many seconds. `policy` says whose it is."""

    policy: str
    count: int
    seconds: float

    def __str__(self) -> str:
        unit = next(name for name, seconds in _SECONDS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}"


class Obligations(msgspec.Struct, frozen=True, kw_only=True):
    """Those of one policy, or of several together."""

    max_tokens: int | None = None
    rates: tuple[Rate, ...] = ()
    require_hardware: bool = False

    def __bool__(self) -> bool:
        return self.max_tokens is not None or bool(self.rates) or self.require_hardware

    def as_record(self) -> dict[str, tuple[str, ...]]:
        """For the record of a decision."""
        found: dict[str, tuple[str, ...]] = {}
        if self.max_tokens is not None:
            found["max_tokens"] = (str(self.max_tokens),)
        if self.rates:
            found["rate"] = tuple(f"{rate.policy}: {rate}" for rate in self.rates)
        if self.require_hardware:
            found["require_hardware"] = ("true",)
        return found


NONE: Final = Obligations()


def together(obligations: Iterable[Obligations]) -> Obligations:
    """The strictest of all."""
    found = [each for each in obligations if each]
    if not found:
        return NONE
    limits = [each.max_tokens for each in found if each.max_tokens is not None]
    return Obligations(
        max_tokens=min(limits, default=None),
        rates=tuple(sorted({rate for each in found for rate in each.rates})),
        require_hardware=any(each.require_hardware for each in found),
    )


def read_max_tokens(value: str) -> int:
    """The value of `@max_tokens`.

    Raises:
        ValueError: it is none.
    """
    if not _NUMBER.fullmatch(value) or int(value) > MAX_TOKENS:
        raise ValueError(f"@max_tokens needs a whole number from 1 to {MAX_TOKENS}")
    return int(value)


def read_rate(value: str, policy: str) -> Rate:
    """The value of `@rate`.

    Raises:
        ValueError: it is none.
    """
    found = _RATE.fullmatch(value)
    if found is None or int(found[1]) > MAX_RATE:
        raise ValueError(f"@rate needs NUMBER/UNIT, of {', '.join(_SECONDS)}: e.g. 10/minute")
    return Rate(policy, int(found[1]), _SECONDS[found[2]])


def cap_tokens(route: str, body: Any, limit: int) -> None:
    """Lower what a request lets the model write, in place. A value that is no number of tokens
    (null, -1 for "without end", a text) becomes the limit.

    Raises:
        ObligationError: `max_tokens_unsupported`: nothing says where this route has it.
    """
    fields = _TOKEN_FIELDS.get(route)
    if fields is None:
        if route in _WRITES_NOTHING:
            return
        raise ObligationError("max_tokens_unsupported")
    present = [name for name in fields if name in body] or fields[:1]
    for name in _OTHER_WORDS.intersection(body).union(present):
        asked = body.get(name)
        fine = isinstance(asked, int) and not isinstance(asked, bool) and 0 < asked <= limit
        if not fine:
            body[name] = limit
