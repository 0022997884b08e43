"""A principal's groups as Cedar entities: those of its credential beside those of the bundle.

The bundle's `entities.json` says who is in which group, for everybody that it lists. A token says
so for its bearer. Both count: the principal's parents are the union, and the groups' own parents
(an organisation) are the bundle's. Made once for each principal and set of groups, and remembered.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final

from enforcement.policy.entities_file import uid_of
from enforcement.policy.policies import Entities, Schema
from enforcement.policy.schema import NAMESPACE

REMEMBERED: Final = 1024  # sets of entities

Uid = tuple[str, str]


class Members:
    """The entities of a bundle, with one principal's groups added when asked.

    Attributes:
        base: the bundle's entities alone.
    """

    def __init__(self, text: str, base: Entities, schema: Schema) -> None:
        """`text`: the bundle's entities in Cedar's JSON form, which `base` is parsed from."""
        self.base = base
        self._schema = schema
        self._listed: dict[Uid, dict[str, Any]] = {
            uid_of(entity["uid"]): entity for entity in json.loads(text)
        }
        self.entities = functools.lru_cache(maxsize=REMEMBERED)(self._entities)

    def _entities(self, principal: tuple[str, str], groups: tuple[str, ...]) -> Entities:
        """The bundle's entities, with this principal in these groups.

        Raises:
            CedarError: they do not conform to the schema.
        """
        uid = (f"{NAMESPACE}::{principal[0]}", principal[1])
        listed = self._listed.get(uid)
        parents = [{"type": f"{NAMESPACE}::Group", "id": group} for group in groups]
        if listed is None:
            entity = {"uid": {"type": uid[0], "id": uid[1]}, "attrs": {}, "parents": parents}
            return self.base.with_member(json.dumps([entity]), self._schema)
        merged = {**listed, "parents": [*listed.get("parents", []), *parents]}
        others = [entity for key, entity in self._listed.items() if key != uid]
        return Entities(json.dumps([*others, merged]), self._schema)
