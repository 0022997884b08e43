"""Cedar's evaluator, typed and shut: an answer that anything went wrong with is no permission.

This layer knows Cedar but nothing of claims, phases or outcomes; Cedar's own corpora run through
it unchanged. What it adds to the binding (cedarpy):

* policies have ids of our choice (their `@id`), so that reasons and errors name them;
* an answer permits only if Cedar allowed *and* no policy failed to evaluate. Cedar skips a policy
  that errors, so a `forbid` that errors would otherwise let the request pass;
* whatever else goes wrong becomes an answer too: `Ruling.NONE`, which nobody may read as a yes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

import cedarpy
import msgspec

from attestation.panics import is_fault
from enforcement.policy.policy_source import Est

Uid = tuple[str, str]  # full entity type, id

_FAULT: Final = "error while evaluating policy `"


class _Diagnostics(msgspec.Struct):
    reason: list[str]
    errors: list[str]


class _Result(msgspec.Struct):
    """What the binding's native half answers, as JSON."""

    decision: str
    diagnostics: _Diagnostics


# Cedarpy's own wrapper around its native half copies the request and reads the answer with a slower
# parser: 8 µs of 40. So the native half is called as the wrapper calls it. That is no public name,
# and the version is pinned exactly; the corpora run through here, and whatever an answer lacks is
# an exception, which denies.
authorize: Any = cedarpy._internal.is_authorized_batch  # noqa: SLF001
_decode: Final = msgspec.json.Decoder(_Result).decode


class CedarError(Exception):
    """Cedar refused a schema, entities or a policy set. The message is Cedar's own."""


class Ruling(StrEnum):
    """What Cedar said, before anybody reads an outcome into it."""

    ALLOW = "allow"
    DENY = "deny"
    NONE = "none"  # the request could not be evaluated


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that failed during evaluation; `policy` is None where it was not one policy.

    The message is Cedar's and may quote values of the request: not for logs.
    """

    policy: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Cedar's answer. `reasons` are the ids of the policies that decided, sorted."""

    ruling: Ruling
    reasons: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def allowed(self) -> bool:
        """The only way to read permission: allowed, and no policy was skipped."""
        return self.ruling is Ruling.ALLOW and not self.faults


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLink:
    """A template filled in: `values` maps `?principal` and `?resource` to uids."""

    template: str
    link: str
    values: Mapping[str, Uid]


class Schema:
    """A parsed schema, reusable."""

    def __init__(self, text: str) -> None:
        """From Cedar's schema syntax.

        Raises:
            CedarError: it does not parse.
        """
        try:
            self.handle: Any = cedarpy.Schema.from_str(text)
        except ValueError as error:
            raise CedarError(str(error)) from error

    def validate(self, policies: str) -> list[str]:
        """What Cedar's validator (strict mode) has against policies, as messages."""
        result = cedarpy.validate_policies(policies, self.handle, release_gil=True)
        messages = [error.error for error in result.errors]
        return messages if messages or result.validation_passed else ["does not validate"]


class Entities:
    """Parsed entities, reusable."""

    def __init__(self, text: str, schema: Schema | None = None) -> None:
        """From Cedar's JSON form; checked against the schema, if there is one.

        Raises:
            CedarError: they do not parse, or do not conform.
        """
        try:
            self.handle: Any = cedarpy.Entities.from_json_str(
                text, schema.handle if schema else None, release_gil=True
            )
        except ValueError as error:
            raise CedarError(str(error)) from error
        self.inner: Any = self.handle._inner  # noqa: SLF001  # for the native half


class PolicyStore:
    """Policies, entities and schema as reusable handles. Immutable; safe to share."""

    def __init__(
        self,
        policies: Mapping[str, Est],
        *,
        entities: Entities,
        schema: Schema | None,
        templates: Mapping[str, Est] | None = None,
        links: Iterable[TemplateLink] = (),
    ) -> None:
        """Policies by the ids that reasons will name. With a schema, requests must conform to it.

        Raises:
            CedarError: the set cannot be built.
        """
        self._policies = dict(policies)
        self._entities = entities
        self._schema = schema
        self._templates = dict(templates or {})
        self._links = tuple(links)
        document = {
            "staticPolicies": self._policies,
            "templates": self._templates,
            "templateLinks": [
                {
                    "templateId": link.template,
                    "newId": link.link,
                    "values": {
                        slot: {"__entity": {"type": uid[0], "id": uid[1]}}
                        for slot, uid in link.values.items()
                    },
                }
                for link in self._links
            ],
        }
        try:
            self._set: Any = cedarpy.PolicySet.from_json_str(json.dumps(document), release_gil=True)
        except (ValueError, RecursionError) as error:
            raise CedarError(str(error)) from error
        # Longest first: an id may contain another one and a backquote.
        ids = {*self._policies, *(link.link for link in self._links)}
        self._ids = sorted(ids, key=len, reverse=True)

    def __len__(self) -> int:
        return len(self._ids)

    def without(self, ids: frozenset[str]) -> Self:
        """The same store with fewer policies."""
        return type(self)(
            {key: est for key, est in self._policies.items() if key not in ids},
            entities=self._entities,
            schema=self._schema,
            templates=self._templates,
            links=(link for link in self._links if link.link not in ids),
        )

    def evaluate(
        self,
        *,
        principal: Uid,
        action: Uid,
        resource: Uid,
        context: str,
        entities: Entities | None = None,
    ) -> Answer:
        """Ask Cedar. `context` is a JSON object. Never raises: what goes wrong is `Ruling.NONE`.

        `entities` stand for the store's own.

        The caller answers for the context: `{"__entity": …}` and `{"__extn": …}` in it mean
        something to Cedar, so nothing of a client's own JSON may stand there.
        """
        try:
            [text] = authorize(
                [
                    {
                        "principal": {"type": principal[0], "id": principal[1]},
                        "action": {"type": action[0], "id": action[1]},
                        "resource": {"type": resource[0], "id": resource[1]},
                        "context": context,
                    }
                ],
                self._set,
                (entities or self._entities).inner,
                self._schema.handle if self._schema else None,
                False,
            )
            return self._answer(_decode(text))
        except BaseException as error:  # any failure at all must read as "no"
            if not is_fault(error):
                raise
            return _failed(type(error).__name__ if isinstance(error, Exception) else "panic")

    def _answer(self, result: _Result) -> Answer:
        diagnostics = result.diagnostics
        faults = tuple([self._fault(message) for message in diagnostics.errors])
        if result.decision == "Allow":
            ruling = Ruling.ALLOW
        elif result.decision == "Deny":
            ruling = Ruling.DENY
        else:
            return Answer(ruling=Ruling.NONE, faults=faults)
        return Answer(ruling=ruling, reasons=tuple(sorted(diagnostics.reason)), faults=faults)

    def _fault(self, message: str) -> Fault:
        if message.startswith(_FAULT):
            rest = message.removeprefix(_FAULT)
            for policy in self._ids:
                if rest.startswith(f"{policy}`: "):
                    return Fault(policy=policy, message=rest.removeprefix(f"{policy}`: "))
        return Fault(policy=None, message=message)


def _failed(what: str) -> Answer:
    return Answer(
        ruling=Ruling.NONE, faults=(Fault(policy=None, message=f"the engine failed: {what}"),)
    )
