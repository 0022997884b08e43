"""Recorded decisions as requests, to be decided again.

A record holds what its bundle could see: claims always; groups and platform where some policy of it
can tell them apart (docs/adr/0020). Where something is missing that matters, it is assumed, and
whoever shows the decision says so (`Basis`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from enforcement.outcome import Phase, Platform, PolicyRequest
from enforcement.policy.bundle import Bundle
from lucid.policy.agent_client import AgentError

# Reasons that the engine gives itself; every other one that is no policy's id is the door's.
_ENGINE: Final = (
    "claim_missing:",
    "claim_invalid:",
    "policy_error:",
    "unknown_annotation:",
    "default_deny",
    "no_decision",
    "engine_error",
    "hardware_required",
)
RECORDED: Final = "recorded"
NOT_READ: Final = "not read"  # by any policy of the bundles
ASSUMED: Final = "assumed: "
# What a policy that does not ask cannot see; should one, it finds no real hardware.
_NOWHERE: Final = {
    "tee_type": "",
    "hardware_attested": False,
    "tcb_status": "",
    "simulated": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Where the facts come from that a record need not hold; each in words, `assumed: …` where it
    may have been otherwise."""

    platform: str
    groups: str

    @property
    def exact(self) -> bool:
        """Whether nothing was assumed."""
        return not any(text.startswith(ASSUMED) for text in (self.platform, self.groups))

    def as_json(self) -> dict[str, str]:
        """All of it."""
        return {"platform": self.platform, "groups": self.groups}

    def lines(self) -> list[str]:
        """What is assumed, for people."""
        return [
            f"{name} {text}"
            for name, text in (("platform", self.platform), ("groups", self.groups))
            if text.startswith(ASSUMED)
        ]


def request_of(
    decision: Mapping[str, Any],
    standing: Mapping[str, Any],
    bundles: Sequence[Bundle],
    *,
    deciding: Bundle | None = None,
) -> tuple[PolicyRequest, Basis]:
    """The request of a record, and where its facts come from.

    `standing`: what the agent answers at /v1/policy. `bundles`: those that will be asked; with
    `deciding`, which decided then, they say whether what is missing can matter.

    Raises:
        AgentError: this is not what an agent answers, or it is needed and it does not know it yet.
    """
    try:
        platform, whence = _platform(decision, standing, bundles)
        groups, membership = _groups(decision, bundles, deciding)
        request = PolicyRequest(
            principal=(str(decision["principal"][0]), str(decision["principal"][1])),
            action=str(decision["action"]),
            resource=(str(decision["resource"][0]), str(decision["resource"][1])),
            phase=Phase(decision["phase"]),
            claims={
                str(name): tuple(value) if isinstance(value, list) else value
                for name, value in decision["claims"].items()
            },
            trace_id=str(decision["trace_id"]),
            platform=platform,
            groups=groups,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise AgentError(f"the agent's answer is not understood: {error!r}") from None
    return request, Basis(platform=whence, groups=membership)


def _platform(
    decision: Mapping[str, Any], standing: Mapping[str, Any], bundles: Sequence[Bundle]
) -> tuple[Platform, str]:
    recorded, present, in_force = (
        decision.get("platform"),
        standing["platform"],
        standing["in_force"],
    )
    if recorded is not None:
        return _as_platform(recorded), RECORDED
    if not any(bundle.reads_platform for bundle in bundles):
        return _as_platform(_NOWHERE), NOT_READ
    if present is None:
        raise AgentError("the record does not hold the platform, and the agent is not attested yet")
    if in_force is not None and in_force["passport"] == decision["passport"]:
        return _as_platform(present), "of the same passport"
    return _as_platform(present), f"{ASSUMED}the agent's present one"


def _as_platform(value: Mapping[str, Any]) -> Platform:
    return Platform(
        tee_type=str(value["tee_type"]),
        hardware_attested=bool(value["hardware_attested"]),
        tcb_status=str(value["tcb_status"]),
        simulated=bool(value["simulated"]),
    )


def _groups(
    decision: Mapping[str, Any], bundles: Sequence[Bundle], deciding: Bundle | None
) -> tuple[tuple[str, ...], str]:
    asked = frozenset[str]().union(*(bundle.groups for bundle in bundles))
    listed = decision.get("groups")
    groups = () if listed is None else tuple(str(group) for group in listed)
    if not asked or decision["principal"][0] != "User":
        return groups, NOT_READ
    if listed is None:
        return groups, f"{ASSUMED}none"
    for bundle in (*bundles, *([] if deciding is None else [deciding])):
        if bundle.digest.hex() == decision["bundle"]["digest"] and asked <= bundle.groups:
            return groups, RECORDED
    return groups, f"{ASSUMED}none but those that the deciding bundle names"


def by_policy(decision: Mapping[str, Any], policies: Iterable[str]) -> bool:
    """Whether policies decided this, and not the door before they were asked."""
    known = set(policies)
    return any(reason in known or str(reason).startswith(_ENGINE) for reason in decision["reasons"])
