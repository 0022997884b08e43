"""A principal's groups as Cedar entities: those of its credential beside those of the bundle.

The bundle's `entities.json` says who is in which group, for everybody that it lists. A token says
so for its bearer. Both count: the principal's parents are the union, and the groups' own parents
(an organisation) are the bundle's. Made once for each principal and set of groups, and remembered.
"""

from __future__ import annotations

import functools
import json
from typing import Final

from enforcement.policy.entities_file import uid_of
from enforcement.policy.policies import Entities, Schema
from enforcement.policy.schema import NAMESPACE

REMEMBERED: Final = 1024  # sets of entities
_USER: Final = f"{NAMESPACE}::User"

Uid = tuple[str, str]


class Members:
    """The entities of a bundle, with one principal's groups added when asked.

    Other users are left out then, unless a policy names them: no policy could look at them (no
    attribute is an entity, and nobody is in a user), and a directory of thousands would be copied
    for everybody who has groups.

    Attributes:
        base: the bundle's entities alone.
    """

    def __init__(
        self, text: str, base: Entities, schema: Schema, *, named: frozenset[str] = frozenset()
    ) -> None:
        """`text`: the bundle's entities in Cedar's JSON form, which `base` is parsed from.
        `named`: ids of the users that policies name.

        Raises:
            CedarError: they do not conform to the schema.
        """
        self.base = base
        self._schema = schema
        listed = {uid_of(entity["uid"]): entity for entity in json.loads(text)}
        self._users = {uid: entity for uid, entity in listed.items() if uid[0] == _USER}
        self._kept = {
            uid: entity for uid, entity in listed.items() if uid[0] != _USER or uid[1] in named
        }
        self._others = Entities(json.dumps(list(self._kept.values())), schema)
        self.entities = functools.lru_cache(maxsize=REMEMBERED)(self._entities)

    def _entities(self, user: str, groups: tuple[str, ...]) -> Entities:
        """What there is to know where a user asks who is in these groups, too.

        Raises:
            CedarError: the entities do not conform to the schema.
        """
        uid = (_USER, user)
        listed = self._users.get(uid, {"attrs": {}, "parents": []})
        parents = [{"type": f"{NAMESPACE}::Group", "id": group} for group in groups]
        entity = {
            "uid": {"type": uid[0], "id": uid[1]},
            "attrs": listed["attrs"],
            "parents": [*listed["parents"], *parents],
        }
        if uid not in self._kept:
            return self._others.with_member(json.dumps([entity]), self._schema)
        others = [other for key, other in self._kept.items() if key != uid]
        return Entities(json.dumps([*others, entity]), self._schema)
