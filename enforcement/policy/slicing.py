"""Slicing: the policies that could decide a request, found by their scopes before Cedar is asked.

Cedar evaluates every policy of a set, about 0.6 µs for each whose scope does not match. An index
asks it only about those whose scope can match. A policy is left out only where its scope is
*provably* false; everything that is not understood stays in, so a slice can be too large and never
too small:

* `action == A` is false for another action. `action in …` is looked at only where the caller says
  that actions have no groups; else it stays.
* `principal == U` and `resource == U` are false for other entities; `is T` for other types.
  `in` depends on the entities: it stays.
* conditions are not looked at, and templates and their links always stay.

A scope cannot fail to evaluate, so what is left out would have given neither a reason nor an error.

An index may remember answers, in a bounded least-recently-used cache under the whole request. What
could not be evaluated is not remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from enforcement.policy.policies import (
    Answer,
    Entities,
    PolicyStore,
    Ruling,
    Schema,
    TemplateLink,
    Uid,
)
from enforcement.policy.policy_source import Est

MAX_SLICES: Final = 256  # of one index; past that, the whole set answers

Ids = frozenset[str]
Stores = dict[Ids, PolicyStore]  # one parsed set for all slices that hold the same policies


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What of a policy's scope can be judged without entities. None: anything.

    Attributes:
        actions: the actions that it can match.
        principal, resource: the one entity that it can match.
        principal_type, resource_type: the one type that it can match.
    """

    actions: frozenset[Uid] | None
    principal: Uid | None
    principal_type: str | None
    resource: Uid | None
    resource_type: str | None

    @classmethod
    def of(cls, policy: Est, *, action_groups: bool) -> Scope:
        """Read a policy in Cedar's JSON form.

        `action_groups`: whether actions may be members of others.
        """
        principal, principal_type = _entity(policy.get("principal"))
        resource, resource_type = _entity(policy.get("resource"))
        return cls(
            actions=_actions(policy.get("action"), action_groups=action_groups),
            principal=principal,
            principal_type=principal_type,
            resource=resource,
            resource_type=resource_type,
        )


# A principal or resource as far as scopes tell it from others: its type, and whether some policy
# names it after `==`. All named ones of a type share a slice.
_Side = tuple[str, bool]
_Key = tuple[Uid, _Side, _Side]


def _meets(side: _Side, uid: Uid | None, kind: str | None) -> bool:
    """Whether a scope that is bound to this entity or type can match."""
    if uid is not None:
        return side[1] and uid[0] == side[0]
    return kind is None or kind == side[0]


class _NoAnswerError(Exception):
    """Carries an answer past the cache: what could not be evaluated now may be later."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class PolicyIndex:
    """Policies with one evaluator for each kind of request. Same answers as one `PolicyStore`.

    Slices are built when they are first needed, or before (`prepare`). Immutable but for that;
    safe to share between threads.
    """

    def __init__(
        self,
        policies: Mapping[str, Est],
        *,
        entities: Entities,
        schema: Schema | None = None,
        templates: Mapping[str, Est] | None = None,
        links: Iterable[TemplateLink] = (),
        action_groups: bool = True,
        stores: Stores | None = None,
        cache_size: int = 0,
    ) -> None:
        """As for `PolicyStore`.

        `stores`: parsed sets to share with other indexes over the same policies and entities.
        `cache_size`: answers to remember; 0: none.

        Raises:
            CedarError: the set cannot be built.
        """
        self._policies = dict(policies)
        self._parts: dict[str, Any] = {
            "entities": entities,
            "schema": schema,
            "templates": templates,
            "links": tuple(links),
        }
        self._scopes = {
            name: Scope.of(policy, action_groups=action_groups)
            for name, policy in self._policies.items()
        }
        scopes = self._scopes.values()
        self._principals = {scope.principal for scope in scopes} - {None}
        self._resources = {scope.resource for scope in scopes} - {None}
        self._stores: Stores = {} if stores is None else stores
        self._slices: dict[_Key, PolicyStore] = {}
        self.whole = self._store(frozenset(self._policies))
        self._remembered = functools.lru_cache(maxsize=cache_size)(self._ask)

    def __len__(self) -> int:
        return len(self.whole)

    def evaluate(
        self,
        *,
        principal: Uid,
        action: Uid,
        resource: Uid,
        context: str,
        entities: Entities | None = None,
    ) -> Answer:
        """Ask Cedar about the policies that could decide. Never raises (`PolicyStore.evaluate`).

        `entities` stand for the index's own; the cache tells them apart as objects.

        The cache tells contexts apart by their text, so a caller that wants hits writes equal ones
        in one way.
        """
        try:
            return self._remembered(principal, action, resource, context, entities)
        except _NoAnswerError as error:
            return error.answer

    def cache_counts(self) -> tuple[int, int]:
        """Hits and misses so far."""
        info = self._remembered.cache_info()
        return info.hits, info.misses

    def _ask(
        self,
        principal: Uid,
        action: Uid,
        resource: Uid,
        context: str,
        entities: Entities | None,
    ) -> Answer:
        answer = self.slice(principal, action, resource).evaluate(
            principal=principal,
            action=action,
            resource=resource,
            context=context,
            entities=entities,
        )
        if answer.ruling is Ruling.NONE:
            raise _NoAnswerError(answer)
        return answer

    def slice(self, principal: Uid, action: Uid, resource: Uid) -> PolicyStore:
        """The evaluator for one kind of request."""
        key = (
            action,
            (principal[0], principal in self._principals),
            (resource[0], resource in self._resources),
        )
        found = self._slices.get(key)
        if found is not None:
            return found
        if len(self._slices) >= MAX_SLICES:
            return self.whole
        return self._slices.setdefault(key, self._store(self._matching(*key)))

    def prepare(
        self, actions: Iterable[Uid], principals: Iterable[str], resources: Iterable[str]
    ) -> None:
        """Build the slices for these actions and these types of principals and resources now."""
        sides = [
            [(kind, named) for kind in kinds for named in (False, True)[: 1 + bool(known)]]
            for kinds, known in (
                (sorted(principals), self._principals),
                (sorted(resources), self._resources),
            )
        ]
        for action in actions:
            for principal in sides[0]:
                for resource in sides[1]:
                    key = (action, principal, resource)
                    if len(self._slices) < MAX_SLICES:
                        self._slices[key] = self._store(self._matching(*key))

    def _matching(self, action: Uid, principal: _Side, resource: _Side) -> Ids:
        return frozenset(
            name
            for name, scope in self._scopes.items()
            if (scope.actions is None or action in scope.actions)
            and _meets(principal, scope.principal, scope.principal_type)
            and _meets(resource, scope.resource, scope.resource_type)
        )

    def _store(self, ids: Ids) -> PolicyStore:
        found = self._stores.get(ids)
        if found is None:
            policies = {name: est for name, est in self._policies.items() if name in ids}
            found = self._stores[ids] = PolicyStore(policies, **self._parts)
        return found


def _entity(scope: Any) -> tuple[Uid | None, str | None]:
    """The entity or the type that a principal or resource scope is bound to."""
    match scope:
        case {"op": "==", "entity": {"type": str(kind), "id": str(name)}}:
            return (kind, name), kind
        case {"op": "is", "entity_type": str(kind)}:  # `is T in G` has the group beside it
            return None, kind
        case _:
            return None, None


def _actions(scope: Any, *, action_groups: bool) -> frozenset[Uid] | None:
    match scope:
        case {"op": "==", "entity": {"type": str(kind), "id": str(name)}}:
            return frozenset({(kind, name)})
        case {"op": "in", "entities": list(entities)} if not action_groups:
            return _uids(entities)
        case {"op": "in", "entity": dict(entity)} if not action_groups:
            return _uids([entity])
        case _:
            return None


def _uids(entities: Iterable[Any]) -> frozenset[Uid] | None:
    found: set[Uid] = set()
    for entity in entities:
        match entity:
            case {"type": str(kind), "id": str(name)}:
                found.add((kind, name))
            case _:
                return None
    return frozenset(found)
