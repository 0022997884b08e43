"""What one exchange is decided with, taken once and held to its end.

A reload of the bundle or a new passport makes a new snapshot; exchanges that have begun keep the
one they began with, so that all records of an exchange name the same bundle digest.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from enforcement.auditing import Auditors
from enforcement.outcome import Phase, Platform, PolicyRequest, Verdict
from enforcement.policy.rates import RateLimiter


class Decider(Protocol):
    """What an exchange needs of the policy engine."""

    def decide(self, request: PolicyRequest, /) -> Verdict:
        """Answer one question. Never raises; fails closed."""


class StreamRules(Protocol):
    """How streamed replies are guarded (`[stream]` of the bundle)."""

    @property
    def mode(self) -> str:
        """`window`, `buffer` or `observe`."""

    @property
    def hold_back(self) -> int:
        """Characters of decoded text per choice that stay behind the release point."""


class BundleView(Protocol):
    """What an exchange needs of the policy bundle."""

    @property
    def name(self) -> str:
        """The bundle's name, for the record."""

    @property
    def version(self) -> str:
        """The bundle's version, for the record."""

    @property
    def digest(self) -> bytes:
        """SHA-256 over the bundle's files."""

    @property
    def anonymous(self) -> bool:
        """Whether clients that show nothing are let in, as `User::"anonymous"`."""

    @property
    def stream(self) -> StreamRules:
        """How streamed replies are guarded."""

    @property
    def detectors(self) -> AbstractSet[str]:
        """Labels of the built-in detectors that are on."""

    @property
    def groups(self) -> AbstractSet[str]:
        """Ids of the groups that can change a decision."""

    @property
    def reads_platform(self) -> bool:
        """Whether the platform can change a decision."""

    def gives(self, phase: Phase, /) -> AbstractSet[str]:
        """Names of the claims that policies can read in one phase."""


class Candidate(Protocol):
    """What an exchange needs of a shadow bundle (`enforcement.shadow.Shadow` is one)."""

    def verdict(self, request: PolicyRequest) -> Verdict:
        """What it would say. Never raises."""

    def note(self, decision_id: str, phase: str, live: Verdict, candidate: Verdict) -> str:
        """Count one decision; what its record says of the candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Engine, bundle and the agent's own standing at one moment.

    Attributes:
        passport_id: `pass-` and hex; empty where there is no passport.
        platform: what policies may ask of the hardware.
        agent_id: the id of the resource `Lucid::Agent` that is invoked.
        rates: what principals have used of their rates; one for the life of the agent.
        auditors: who gives the claims that are not built in; None where the bundle has no such.
        shadow: a candidate that is asked, too, without effect; None where there is none.
    """

    engine: Decider
    bundle: BundleView
    passport_id: str
    platform: Platform
    agent_id: str
    auditors: Auditors | None = None
    rates: RateLimiter = field(default_factory=RateLimiter)
    shadow: Candidate | None = None
