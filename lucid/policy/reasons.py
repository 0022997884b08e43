"""Why a request is decided as it is: each policy, its scope and each of its conditions, alone.

Every part is put to Cedar by itself, with the whole context, so what is said of it is Cedar's own
answer. The verdict is the engine's.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

import cedarpy

from attestation.records import ClaimValue
from enforcement.outcome import Outcome, PolicyRequest, Verdict
from enforcement.policy.annotations import PolicyInfo
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from enforcement.policy.engine_parts import members_of
from enforcement.policy.policies import PolicyStore, Ruling
from enforcement.policy.policy_source import Est
from enforcement.policy.schema import NAMESPACE
from enforcement.policy.vocabulary import ClaimError
from lucid.policy.lint import conjuncts

_ALL: Final = {"op": "All"}
_BRACKETS: Final = re.compile(r"(?<!\w)\((\w+(?:\.\w+)*)\)")  # around a name alone
_CONDITION: Final = re.compile(r"when\s*\{(.*)\}\s*;\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a policy: `holds` None where it could not be evaluated."""

    text: str
    holds: bool | None
    claims: dict[str, ClaimValue | None]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"text": self.text, "holds": self.holds, "claims": _json(self.claims)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One policy.

    Attributes:
        applies: it matches this request.
        decided: it is among the reasons of the verdict.
        why: one line.
    """

    policy: PolicyInfo
    applies: bool
    decided: bool
    why: str
    parts: tuple[Part, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "id": self.policy.id,
            "effect": self.policy.effect,
            "outcome": self.policy.outcome.value,
            "file": self.policy.file,
            "line": self.policy.line,
            "applies": self.applies,
            "decided": self.decided,
            "why": self.why,
            "parts": [part.as_json() for part in self.parts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A verdict and every policy's part in it."""

    verdict: Verdict
    policies: tuple[Explained, ...]


def explain_request(bundle: Bundle, request: PolicyRequest) -> Explanation:
    """Decide a request and take the decision apart."""
    verdict = Engine(bundle, cache_size=0).decide(request)
    asker = _Asker(bundle, request)
    policies = tuple(asker.explain(policy, verdict) for policy in bundle.policies.values())
    return Explanation(verdict=verdict, policies=policies)


class _Asker:
    """Puts parts of policies to Cedar, for one request."""

    def __init__(self, bundle: Bundle, request: PolicyRequest) -> None:
        self._bundle = bundle
        self._request = request
        members = members_of(bundle)
        kind, name = request.principal
        grouped = bool(request.groups) and kind == "User"
        resource = (f"{NAMESPACE}::{request.resource[0]}", request.resource[1])
        self._entities = (
            members.entities(name, request.groups, resource) if grouped else members.base
        )
        self._claims: dict[str, ClaimValue] = {}
        for claim in bundle.vocabulary.of_phase(request.phase):
            value = request.claims.get(claim.name)
            if value is not None:
                try:
                    self._claims[claim.name] = claim.check(value)
                except ClaimError:
                    continue  # the verdict says so
        self._context = json.dumps(
            {
                "claims": self._claims,
                "phase": request.phase.value,
                "trace_id": request.trace_id,
                "platform": asdict(request.platform),
            }
        )

    def explain(self, policy: PolicyInfo, verdict: Verdict) -> Explained:
        phase = self._request.phase
        decided = policy.id in verdict.reasons
        if phase not in policy.phases:
            why = f"takes part only in phase {', '.join(sorted(policy.phases))}"
            return Explained(policy=policy, applies=False, decided=decided, why=why, parts=())
        parts = (*self._scope(policy.est), *self._conditions(policy))
        failing = [part for part in parts if part.holds is not True]
        if not failing:
            why = "applies"
            if not decided and policy.outcome is Outcome.PROCEED and verdict.outcome.strictness < 3:
                why += ", so it is not denied"
            elif not decided:
                why += ", and another policy overrides it"
        elif failing[0].holds is None:
            why = f"could not be evaluated: {failing[0].text}"
        else:
            why = f"does not apply: not {failing[0].text}"
        return Explained(policy=policy, applies=not failing, decided=decided, why=why, parts=parts)

    def _scope(self, est: Est) -> list[Part]:
        return [
            Part(
                text=_scope_text(part, est[part]),
                holds=self._holds({part: est[part]}, []),
                claims={},
            )
            for part in ("principal", "action", "resource")
            if est[part] != _ALL
        ]

    def _conditions(self, policy: PolicyInfo) -> list[Part]:
        found = []
        names = self._bundle.vocabulary.names()
        for wanted, node in conjuncts(policy.est):
            text = _text_of(node)
            kind = "when" if wanted else "unless"
            found.append(
                Part(
                    text=text if wanted else f"!({text})",
                    holds=self._holds({}, [{"kind": kind, "body": node}]),
                    claims={
                        name: self._claims.get(name)
                        for name in names
                        if re.search(rf"\b{name}\b", text)
                    },
                )
            )
        return found

    def _holds(self, scope: dict[str, Any], conditions: list[Any]) -> bool | None:
        est = {
            "effect": "permit",
            "principal": _ALL,
            "action": _ALL,
            "resource": _ALL,
            "conditions": conditions,
            **scope,
        }
        request = self._request
        answer = PolicyStore({"part": est}, entities=self._entities, schema=None).evaluate(
            principal=(f"{NAMESPACE}::{request.principal[0]}", request.principal[1]),
            action=(f"{NAMESPACE}::Action", request.action),
            resource=(f"{NAMESPACE}::{request.resource[0]}", request.resource[1]),
            context=self._context,
        )
        if answer.faults or answer.ruling is Ruling.NONE:
            return None
        return answer.allowed


def _text_of(node: Any) -> str:
    """An expression as Cedar writes it, on one line."""
    policy = {
        "effect": "permit",
        "principal": _ALL,
        "action": _ALL,
        "resource": _ALL,
        "conditions": [{"kind": "when", "body": node}],
    }
    document = {"staticPolicies": {"p": policy}, "templates": {}, "templateLinks": []}
    text = str(cedarpy.policies_from_json_str(json.dumps(document)))
    match = _CONDITION.search(text)
    text = " ".join((match[1] if match else text).split())
    before = ""
    while text != before:  # Cedar puts every operand into brackets
        before, text = text, _BRACKETS.sub(r"\1", text)
    return text


def _scope_text(part: str, scope: Any) -> str:
    policy = {"effect": "permit", "principal": _ALL, "action": _ALL, "resource": _ALL}
    policy |= {"conditions": [], part: scope}
    document = {"staticPolicies": {"p": policy}, "templates": {}, "templateLinks": []}
    text = " ".join(str(cedarpy.policies_from_json_str(json.dumps(document))).split())
    match = re.search(rf"\b{part} (==|in|is) .*?(?=, (?:action|resource)|\s*\);?$)", text)
    return match[0].strip() if match else text


def _json(claims: dict[str, ClaimValue | None]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in claims.items()
    }
