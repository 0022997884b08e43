"""The Cedar schema, generated from a bundle's claim vocabulary, one per phase.

Each phase has two forms of the same schema:

* the *validation* schema, against which policies are checked when a bundle loads. A required claim
  is a required attribute; an optional one is an optional attribute, so Cedar's validator insists
  on a `has` guard before it is read;
* the *request* schema, which every request conforms to. Every claim is an optional attribute: a
  claim that no applicable policy reads may be absent. That the claims which *are* read are there,
  and that all have their types, is checked before Cedar is asked (`enforcement/engine.py`), so
  Cedar itself checks only the bundle's entities and the engine's proof (`engine_parts.plain_store`)
  against it.
"""

from __future__ import annotations

from typing import Final

from enforcement.outcome import Phase
from enforcement.vocabulary import Vocabulary

NAMESPACE: Final = "Lucid"
PRINCIPALS: Final = frozenset({"User", "Agent", "APIKey"})
RESOURCES: Final = frozenset({"Agent", "Service"})
ACTIONS: Final = frozenset({"invoke", "access_data"})
# The same as `appliesTo` below, for whoever decides without asking Cedar about the schema.
APPLIES: Final = {
    "invoke": (frozenset({"User", "Agent", "APIKey"}), frozenset({"Agent"})),
    "access_data": (frozenset({"User", "Agent"}), frozenset({"Agent", "Service"})),
}

# Attributes are optional throughout: a principal that `entities.json` does not list has none, and
# reading a required attribute of an unknown entity would be an error, hence a denial.
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
  entity Organization;
  entity Workspace in [Organization];
  entity Group in [Organization];
  entity User in [Group, Organization] = { "email"?: String };
  entity Agent in [Workspace, Organization] = {
    "name"?: String,
    "model_id"?: String,
    "pii_authorized"?: Bool,
    "allowed_regions"?: Set<String>,
  };
  entity APIKey in [Workspace, Organization] = { "purpose"?: String };
  entity Service in [Workspace, Organization] = { "name"?: String };
  action "invoke" appliesTo {
    principal: [User, Agent, APIKey], resource: [Agent], context: Context
  };
  action "access_data" appliesTo {
    principal: [User, Agent], resource: [Agent, Service], context: Context
  };
}
"""


def validation_schema(vocabulary: Vocabulary, phase: Phase) -> str:
    """The schema that policies of one phase must satisfy, in Cedar's schema syntax."""
    return _FRAME % {
        "claims": "".join(
            f'"{claim.name}"{"?" if claim.optional else ""}: {claim.type.cedar}, '
            for claim in vocabulary.of_phase(phase)
        )
    }


def request_schema(vocabulary: Vocabulary, phase: Phase) -> str:
    """The schema that requests of one phase are evaluated with, in Cedar's schema syntax."""
    return _FRAME % {
        "claims": "".join(
            f'"{claim.name}"?: {claim.type.cedar}, ' for claim in vocabulary.of_phase(phase)
        )
    }
