"""The Cedar schema, generated from a bundle's claim vocabulary, one per phase.

Each phase has two forms of the same schema:

* the *validation* schema, against which policies are checked when a bundle loads. A required claim
  is a required attribute; an optional one is an optional attribute, so Cedar's validator insists
  on a `has` guard before it is read;
* the *request* schema, which every request conforms to. Every claim is an optional attribute: a
  claim that no applicable policy reads may be absent. That the claims which *are* read are there,
  and that all have their types, is checked before Cedar is asked (`engine`), so
  Cedar itself checks only the bundle's entities and the engine's proof (`engine_parts.plain_store`)
  against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from attestation.records import PLATFORM_FIELDS
from enforcement.outcome import Phase
from enforcement.policy.vocabulary import Vocabulary

NAMESPACE: Final = "Lucid"
PRINCIPALS: Final = frozenset({"User", "Agent", "APIKey"})
RESOURCES: Final = frozenset({"Agent", "Service"})
ACTIONS: Final = frozenset({"invoke", "access_data"})
# The same as `appliesTo` below, for whoever decides without asking Cedar about the schema.
APPLIES: Final = {
    "invoke": (frozenset({"User", "Agent", "APIKey"}), frozenset({"Agent"})),
    "access_data": (frozenset({"User", "Agent"}), frozenset({"Agent", "Service"})),
}

_STRING: Final = "String"
_BOOL: Final = "Bool"
_STRINGS: Final = "Set<String>"


@dataclass(frozen=True, slots=True)
class EntityType:
    """What entities of one type may have.

    Attributes:
        parents: types that they may be in.
        attributes: Cedar type of each, by name. All are optional: a principal that `entities.json`
            does not list has none, and to read a required attribute of an unknown entity would be
            an error, hence a denial.
    """

    parents: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


ENTITY_TYPES: Final[Mapping[str, EntityType]] = {
    "Organization": EntityType(),
    "Workspace": EntityType(("Organization",)),
    "Group": EntityType(("Organization",)),
    "User": EntityType(("Group", "Organization"), {"email": _STRING}),
    "Agent": EntityType(
        ("Workspace", "Organization"),
        {
            "name": _STRING,
            "model_id": _STRING,
            "pii_authorized": _BOOL,
            "allowed_regions": _STRINGS,
        },
    ),
    "APIKey": EntityType(("Workspace", "Organization"), {"purpose": _STRING}),
    "Service": EntityType(("Workspace", "Organization"), {"name": _STRING}),
}
# What the context has beside the claims.
FRAME: Final = frozenset(
    {"claims", "phase", "trace_id", "platform"} | {f"platform.{name}" for name in PLATFORM_FIELDS}
)

_FRAME: Final = """\
namespace Lucid {
  type Claims = {%(claims)s};
  type Platform = {
    "tee_type": String,
    "hardware_attested": Bool,
    "tcb_status": String,
    "simulated": Bool,
  };
  type Context = {
    "claims": Claims,
    "phase": String,
    "trace_id": String,
    "platform": Platform,
  };
  %(entities)s
  action "invoke" appliesTo {
    principal: [User, Agent, APIKey], resource: [Agent], context: Context
  };
  action "access_data" appliesTo {
    principal: [User, Agent], resource: [Agent, Service], context: Context
  };
}
"""


def _declared(name: str, kind: EntityType) -> str:
    parents = f" in [{', '.join(kind.parents)}]" if kind.parents else ""
    attributes = ", ".join(f'"{key}"?: {type_}' for key, type_ in kind.attributes.items())
    return f"entity {name}{parents}" + (f" = {{ {attributes} }};" if attributes else ";")


_ENTITIES: Final = "\n  ".join(_declared(name, kind) for name, kind in ENTITY_TYPES.items())


def validation_schema(vocabulary: Vocabulary, phase: Phase) -> str:
    """The schema that policies of one phase must satisfy, in Cedar's schema syntax."""
    return _FRAME % {
        "entities": _ENTITIES,
        "claims": "".join(
            f'"{claim.name}"{"?" if claim.optional else ""}: {claim.type.cedar}, '
            for claim in vocabulary.of_phase(phase)
        ),
    }


def request_schema(vocabulary: Vocabulary, phase: Phase) -> str:
    """The schema that requests of one phase are evaluated with, in Cedar's schema syntax."""
    return _FRAME % {
        "entities": _ENTITIES,
        "claims": "".join(
            f'"{claim.name}"?: {claim.type.cedar}, ' for claim in vocabulary.of_phase(phase)
        ),
    }
