"""A candidate bundle beside the live one: it decides too, and nothing follows from it.

The candidate sees what the live bundle's detectors and auditors found. Where it would have decided
otherwise, the record says so, and the report counts it with some examples. A candidate that reads
a claim which the live bundle does not give denies here (`claim_missing:<name>`), as it would until
that claim had a source.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from enforcement.outcome import PolicyRequest, Redaction, Verdict
from enforcement.snapshot import BundleView, Decider

MAX_KINDS: Final = 256  # of differences that are counted apart
MAX_EXAMPLES: Final = 20  # decision ids for each
MAX_TEXT: Final = 256  # characters of what a record says


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way in which both decide differently."""

    phase: str
    live: str
    candidate: str
    live_reasons: tuple[str, ...]
    candidate_reasons: tuple[str, ...]
    live_obliges: tuple[str, ...]
    candidate_obliges: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Seen:
    count: int = 0
    examples: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_EXAMPLES))


class Shadow:
    """The candidate and what came of it. Used on one thread."""

    def __init__(self, bundle: BundleView, engine: Decider) -> None:
        self.bundle = bundle
        self._engine = engine
        self._same = 0
        self._seen: dict[Difference, _Seen] = {}
        self._other = 0  # differences of more kinds than are kept apart

    def verdict(self, request: PolicyRequest) -> Verdict:
        """What the candidate says. Never raises."""
        return self._engine.decide(request)

    def note(self, decision_id: str, phase: str, live: Verdict, candidate: Verdict) -> str:
        """Count one decision; what its record says of the candidate."""
        name = self.bundle.digest.hex()[:16]
        obliges = _obliges(live), _obliges(candidate)
        if candidate.outcome is live.outcome and obliges[0] == obliges[1]:
            self._same += 1
            return f"{name} same"
        difference = Difference(
            phase=phase,
            live=live.outcome.value,
            candidate=candidate.outcome.value,
            live_reasons=live.reasons,
            candidate_reasons=candidate.reasons,
            live_obliges=obliges[0],
            candidate_obliges=obliges[1],
        )
        seen = self._seen.get(difference)
        if seen is None and len(self._seen) < MAX_KINDS:
            seen = self._seen[difference] = _Seen()
        if seen is None:
            self._other += 1
        else:
            seen.count += 1
            seen.examples.append(decision_id)
        return f"{name} {difference.candidate} {','.join(candidate.reasons)}"[:MAX_TEXT]

    def report(self) -> dict[str, Any]:
        """Everything so far, JSON-ready, the most frequent difference first."""
        different = sum(seen.count for seen in self._seen.values()) + self._other
        return {
            "candidate": {
                "name": self.bundle.name,
                "version": self.bundle.version,
                "digest": self.bundle.digest.hex(),
            },
            "decisions": self._same + different,
            "same": self._same,
            "different": different,
            "differences": [
                {
                    "phase": difference.phase,
                    "live": difference.live,
                    "candidate": difference.candidate,
                    "live_reasons": list(difference.live_reasons),
                    "candidate_reasons": list(difference.candidate_reasons),
                    "live_obliges": list(difference.live_obliges),
                    "candidate_obliges": list(difference.candidate_obliges),
                    "count": seen.count,
                    "examples": list(seen.examples),
                }
                for difference, seen in sorted(self._seen.items(), key=lambda item: -item[1].count)
            ],
            "not_listed": self._other,
        }


def _obliges(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict obliges the door to, in the words of the annotations."""
    obliges, how = verdict.obliges, verdict.redact_with
    if not verdict.redact and not obliges:
        return ()
    found = [
        f"redact {label} ({how.get(label, Redaction.MASK).value})"
        for label in sorted(verdict.redact)
    ]
    found += sorted({f"rate {rate}" for rate in obliges.rates})
    if obliges.max_tokens is not None:
        found.append(f"max_tokens {obliges.max_tokens}")
    return tuple(found)
