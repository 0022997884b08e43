"""What an AuthZEN request says (`enforcement.authzen`): its members checked, its names mapped, its
claims typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from attestation.records import ClaimValue
from enforcement import policy_view
from enforcement.outcome import Phase
from enforcement.policy.bundle import Bundle
from enforcement.policy.vocabulary import AUTHZEN, Claim, ClaimError, ClaimType, is_unicode, scaled

_PLACE: Final = re.compile(r"\$[a-z_.\[\]]*(?=`\Z)")
_PRINCIPALS: Final = {"user": "User", "agent": "Agent", "apikey": "APIKey", "api_key": "APIKey"}
_RESOURCES: Final = {"agent": "Agent", "service": "Service"}
_ACTIONS: Final = {"invoke": "invoke", "access_data": "access_data"}

Semantic = Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"]
Json = dict[str, Any]


class AuthzenError(Exception):
    """The request is not one (400). The message repeats none of it."""


class _Options(msgspec.Struct, frozen=True):
    evaluations_semantic: Semantic = "execute_all"


class Body(msgspec.Struct):
    """Unknown members are left out, as section 5 says."""

    subject: Json | None = None
    action: Json | None = None
    resource: Json | None = None
    context: Json | None = None
    evaluations: list[Json] | None = None
    options: _Options = _Options()

    def members(self) -> Json:
        """Those of one evaluation that are there."""
        names = ("subject", "action", "resource", "context")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Names:
    """Principal, action and resource of a request, or why it has none (`problem`)."""

    def __init__(self, bundle: Bundle, given: Json) -> None:
        self.bundle = bundle
        tables = bundle.authzen
        subject, resource = given["subject"], given["resource"]
        kind = _mapped(subject["type"], tables.subjects, _PRINCIPALS)
        what = _mapped(resource["type"], tables.resources, _RESOURCES)
        action = _mapped(given["action"]["name"], tables.actions, _ACTIONS)
        unknown = [
            name
            for name, found in (("subject", kind), ("action", action), ("resource", what))
            if found is None
        ]
        self.problem = (
            policy_view.denied(f"authzen_unknown:{unknown[0]}", evaluated=False)
            if unknown
            else None
        )
        self.principal = (kind or "User", subject["id"])
        self.action = action or "access_data"
        self.resource = (what or "Service", resource["id"])


def _mapped(name: str, table: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    return table.get(name) or own.get(name.lower()) or table.get("*")


def decode(body: bytes) -> Body:
    """Read a request, for one evaluation or several.

    Raises:
        AuthzenError: it is none.
    """
    try:
        return msgspec.json.decode(body, type=Body)
    except msgspec.ValidationError as error:
        # The place alone: where a word is none of those expected, the error repeats it.
        place = _PLACE.search(str(error))
        where = place[0] if place else "the body"
        raise AuthzenError(f"not an AuthZEN request: {where} is not what it must be") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise AuthzenError("the body is not valid JSON") from None


def check(given: Json) -> None:
    """Check one evaluation.

    Raises:
        AuthzenError: a member that must be there is not, or is of another type.
    """
    for name, members in (
        ("subject", ("type", "id")),
        ("action", ("name",)),
        ("resource", ("type", "id")),
    ):
        value = given.get(name)
        if not isinstance(value, dict):
            raise AuthzenError(f"{name} is missing, or is not an object")
        for member in members:
            text = value.get(member)
            if not isinstance(text, str) or not text or len(text) > 1024 or not is_unicode(text):
                raise AuthzenError(f"{name}.{member} is missing, or is not a text of at most 1024")
        if not isinstance(value.get("properties", {}), dict):
            raise AuthzenError(f"{name}.properties is not an object")
    if not isinstance(given.get("context", {}), dict):
        raise AuthzenError("context is not an object")


def texts_of(context: Json) -> dict[str, str]:
    """`input` and `output`, where they are there.

    Raises:
        AuthzenError: one is not a text.
    """
    found: dict[str, str] = {}
    for name in ("input", "output"):
        if name in context:
            if not isinstance(context[name], str):
                raise AuthzenError(f"context.{name} is not a text")
            found[name] = context[name]
    return found


def claims_of(bundle: Bundle, phase: Phase, given: Json) -> dict[str, ClaimValue]:
    """The claims that the request itself gives. What is not there is left out, and denies where a
    policy needs it.

    Raises:
        ClaimError: `claim_invalid:<name>`.
    """
    found: dict[str, ClaimValue] = {}
    for claim in bundle.vocabulary.of_phase(phase):
        path = claim.sources[0]
        if not path.startswith(AUTHZEN):
            continue
        value: Any = given
        for step in path.removeprefix(AUTHZEN).split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            found[claim.name] = _typed(claim, value)
    return found


def _typed(claim: Claim, value: object) -> ClaimValue:
    try:
        if claim.type in (ClaimType.SCORE, ClaimType.DECIMAL):
            return scaled(claim, value)
        return claim.check(value)
    except ClaimError:
        raise ClaimError(f"claim_invalid:{claim.name}") from None
