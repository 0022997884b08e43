"""What an exchange asks of auditors, and what they answer.

An exchange is synchronous and does no I/O. Where the bundle has auditors, a door looks first
(`Exchange.look_at_request`, `look_at_response`, `StreamGuard.question`), waits for the answer, and
decides with it; `enforcement.asking` does that in one step. Where the bundle has none
(`Exchange.auditors` is None), a door decides at once and nothing here is called. A door that
forgets to ask fails closed: the auditors' claims are missing then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from attestation.records import ClaimValue
from enforcement.detectors import Span
from enforcement.outcome import Phase


class Question(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Texts that auditors are to look at.

    Attributes:
        input: the texts of the request, in order.
        output: the texts of the reply so far; None in the request phase.
        final: no more text follows (always, except inside a stream).
    """

    auditors: Auditors
    phase: Phase
    input: tuple[str, ...]
    output: tuple[str, ...] | None
    model: str
    principal: tuple[str, str]
    agent_id: str
    trace_id: str
    request_id: str
    final: bool = True


class Audit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the auditors said. Checked against the vocabulary and the texts; never half an answer.

    Attributes:
        claims: by name, in the vocabulary's form (scores times 10 000).
        missing: required claims that not all of their sources gave; what others said of them
            does not count.
        spans: for each text of the question's phase, what can be masked in it (code points);
            empty where nothing can be, or a tuple of empty ones.
        unmaskable: labels whose auditor gave no answer, so that nobody knows where they are.
        status: for the record, by auditor: `ok …` or a stable code.
        latency_us: microseconds by auditor.
    """

    claims: Mapping[str, ClaimValue] = msgspec.field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    spans: tuple[tuple[Span, ...], ...] = ()
    unmaskable: frozenset[str] = frozenset()
    status: Mapping[str, str] = msgspec.field(default_factory=dict)
    latency_us: Mapping[str, int] = msgspec.field(default_factory=dict)

    def add_to(self, claims: dict[str, ClaimValue]) -> dict[str, ClaimValue]:
        """The built-in claims with the auditors': a flag is set if anyone sets it, lists unite."""
        merged = {name: value for name, value in claims.items() if name not in self.missing}
        for name, value in self.claims.items():
            own = claims.get(name)
            if isinstance(own, tuple) and isinstance(value, tuple):
                merged[name] = tuple(sorted({*own, *value}))
            else:
                merged[name] = (own or value) if own is not None else value
        return merged


class Auditors(Protocol):
    """Everyone who gives claims that are not built in."""

    @property
    def labels(self) -> frozenset[str]:
        """What they can mark in texts."""

    def gives(self, phase: Phase, /) -> bool:
        """Whether any auditor has something to say in this phase."""

    async def ask(self, question: Question, /) -> Audit:
        """Ask all at once. Never raises: what failed is in the answer. Bounded in time."""
