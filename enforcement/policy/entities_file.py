"""`entities.json`: who is in which group, and what is known of principals and resources.

Cedar's JSON form of entities, with less freedom: no key that is not understood, no extension
values, each entity once. Cedar itself passes over unknown keys, and says of most mistakes only that
there is one ("error during entity deserialization"), so the form is checked here first and each
problem is named. What counts in the end is still that Cedar takes them, under the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from enforcement.policy.annotations import nearest
from enforcement.policy.bundle_files import LIMITS
from enforcement.policy.policies import CedarError, Entities, Schema
from enforcement.policy.problems import Problem
from enforcement.policy.schema import ENTITY_TYPES, NAMESPACE
from enforcement.policy.vocabulary import is_unicode

FILE: Final = "entities.json"
_KEYS: Final = ("uid", "attrs", "parents")
_UID: Final = '{"type": "' + NAMESPACE + '::User", "id": "alice"}'
_TYPES: Final = [f"{NAMESPACE}::{name}" for name in ENTITY_TYPES]
_WORDS: Final = {"String": "a string", "Bool": "true or false", "Set<String>": "a list of strings"}


def read_entities(content: bytes, schema: Schema) -> tuple[str, list[Problem]]:
    """The file as text for Cedar, and what is wrong with it."""
    try:
        text = content.decode("utf-8")
        listed = json.loads(text, object_pairs_hook=_no_duplicates)
    except UnicodeDecodeError as error:
        return _wrong(f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return _wrong(error.msg, error.lineno, error.colno)
    except (ValueError, RecursionError) as error:
        return _wrong(str(error))
    if not isinstance(listed, list):
        return _wrong("must be a list of entities")
    if len(listed) > LIMITS.entities:
        return _wrong(f"more than {LIMITS.entities} entities")
    problems: list[Problem] = []
    first: dict[tuple[str, str], int] = {}
    for number, entity in enumerate(listed, 1):
        complaints = list(_complaints(entity))
        if not complaints:
            uid = uid_of(entity["uid"])
            earlier = first.setdefault(uid, number)
            if earlier != number:
                complaints = [(f"is given twice; it is entity {earlier} too", "keep one of them")]
        problems += [
            Problem(file=FILE, message=f"{_name(number, entity)} {what}", fix=fix, rule="entities")
            for what, fix in complaints
        ]
    if not problems:
        try:
            Entities(text, schema)
        except CedarError as error:
            return _wrong(str(error))
    return ("[]" if problems else text), problems


def uid_of(value: Any) -> tuple[str, str]:
    """Type and id. Cedar takes both `{"type", "id"}` and `{"__entity": {"type", "id"}}`.

    Raises:
        ValueError: it is neither.
    """
    inner = value
    if isinstance(value, dict) and set(value) == {"__entity"}:
        inner = value["__entity"]
    match inner:
        case {"type": str(kind), "id": str(name), **rest} if not rest:
            return kind, name
    raise ValueError("not an entity's name")


def _complaints(entity: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with one entity, and the cure of each."""
    if not isinstance(entity, dict):
        yield "is not an object", f'write {{"uid": {_UID}, "attrs": {{}}, "parents": []}}'
        return
    for key in entity:
        if key not in _KEYS:
            yield f"has an unknown key `{key[:64]}`", nearest(key, _KEYS)
    for key in _KEYS:
        if key not in entity:
            yield f"has not all it needs: `{key}` is missing", _EMPTY[key]
    kind = None
    if "uid" in entity:
        kind, complaint = _kind(entity["uid"])
        if complaint:
            yield f"has a wrong `uid`: {complaint[0]}", complaint[1]
    yield from _parents(entity.get("parents", []), kind)
    yield from _attributes(entity.get("attrs", {}), kind)


_EMPTY: Final = {
    "uid": f'"uid": {_UID}',
    "attrs": 'add "attrs": {}',
    "parents": 'add "parents": []',
}


def _kind(uid: Any) -> tuple[str | None, tuple[str, str] | None]:
    """The type without its namespace, or what is wrong and the cure."""
    try:
        kind, name = uid_of(uid)
    except ValueError:
        return None, ("not a type and an id", f"write {_UID}")
    if not is_unicode(name):
        return None, ("its id is not valid Unicode text", "")
    if kind not in _TYPES:
        full = kind if "::" in kind else f"{NAMESPACE}::{kind}"
        return None, (f"there is no type {kind[:64]}", nearest(full, _TYPES))
    return kind.removeprefix(f"{NAMESPACE}::"), None


def _parents(parents: Any, kind: str | None) -> Iterator[tuple[str, str]]:
    if not isinstance(parents, list):
        yield "has `parents` that are no list", f'write "parents": [{_GROUP}]'
        return
    for number, uid in enumerate(parents, 1):
        parent, complaint = _kind(uid)
        if complaint:
            yield f"has a wrong parent {number}: {complaint[0]}", complaint[1].replace(_UID, _GROUP)
        elif kind is not None and parent not in ENTITY_TYPES[kind].parents:
            allowed = [f"{NAMESPACE}::{name}" for name in ENTITY_TYPES[kind].parents]
            yield (
                f"has a wrong parent {number}: it cannot be in a {NAMESPACE}::{parent}",
                f"only in a {' or '.join(allowed)}" if allowed else "it is in nothing",
            )


_GROUP: Final = '{"type": "' + NAMESPACE + '::Group", "id": "staff"}'


def _attributes(attributes: Any, kind: str | None) -> Iterator[tuple[str, str]]:
    if not isinstance(attributes, dict):
        yield "has `attrs` that are no object", _EMPTY["attrs"]
        return
    if kind is None:
        return
    known = ENTITY_TYPES[kind].attributes
    for name, value in attributes.items():
        if name not in known:
            yield f"has an unknown attribute `{name[:64]}`", nearest(name, known)
        elif not _is(value, known[name]):
            yield f"has a wrong attribute: `{name}` is not {_WORDS[known[name]]}", ""


def _is(value: Any, kind: str) -> bool:
    if kind == "Bool":
        return isinstance(value, bool)
    if kind == "String":
        return isinstance(value, str) and is_unicode(value)
    return isinstance(value, list) and all(_is(item, "String") for item in value)


def _name(number: int, entity: Any) -> str:
    uid = entity.get("uid") if isinstance(entity, dict) else None
    return f"entity {number}" + (f" ({json.dumps(uid)[:100]})" if uid is not None else "")


def _wrong(message: str, line: int = 0, column: int = 0) -> tuple[str, list[Problem]]:
    problem = Problem(file=FILE, line=line, column=column, message=message, rule="entities")
    return "[]", [problem]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:64]!r} stands twice in one object")
    return found
