"""Recorded decisions as requests, to be decided again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from enforcement.outcome import Phase, Platform, PolicyRequest
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
)


def request_of(decision: Mapping[str, Any], platform: Mapping[str, Any]) -> PolicyRequest:
    """The request of a record. A record does not hold the platform: the agent's present one is
    taken.

    Raises:
        AgentError: this is not what an agent answers.
    """
    try:
        return PolicyRequest(
            principal=(str(decision["principal"][0]), str(decision["principal"][1])),
            action=str(decision["action"]),
            resource=(str(decision["resource"][0]), str(decision["resource"][1])),
            phase=Phase(decision["phase"]),
            claims={
                str(name): tuple(value) if isinstance(value, list) else value
                for name, value in decision["claims"].items()
            },
            trace_id=str(decision["trace_id"]),
            platform=Platform(
                tee_type=str(platform["tee_type"]),
                hardware_attested=bool(platform["hardware_attested"]),
                tcb_status=str(platform["tcb_status"]),
                simulated=bool(platform["simulated"]),
            ),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise AgentError(f"the agent's answer is not understood: {error!r}") from None


def by_policy(decision: Mapping[str, Any], policies: Iterable[str]) -> bool:
    """Whether policies decided this, and not the door before they were asked."""
    known = set(policies)
    return any(reason in known or str(reason).startswith(_ENGINE) for reason in decision["reasons"])
