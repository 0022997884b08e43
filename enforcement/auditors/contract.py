"""The auditors' contract 2.0 without I/O, and what an auditor says of itself.

`question` writes what `/claims` is sent, `answer` reads what it says.

    POST /claims    {"data": {"input", "output"?,
                              "metadata": {"model_id", "session_id", "user_id"}},
                     "phase": "request" | "response",
                     "lucid_context": {"trace_id", "agent_id", "workspace_id", "auditor_config"}}
    200             {"status": "success", "claims": [{"name", "type", "value", "timestamp",
                     "confidence"?, "metadata"?, "provenance"?}]}
                    {"status": "error", "error": {"code", "message"}}
    GET /vocabulary {"claims": [{"name", "type", "phases"}], "labels"?: ["person", …]}
    GET /health     {"status": "healthy", "auditor_id", "version", "ready": true}

`input` and `output` are the texts of the request and of the reply so far, joined by line feeds. A
claim's `metadata.spans` say where something is: `{"part": "input" | "output", "start", "end",
"label"}`, offsets in code points of that string.

An answer is believed whole or not at all: a claim of another type than the vocabulary says, a value
out of range or a span that is not in the text makes all of it `invalid`. Claims that the vocabulary
does not have, and labels that the bundle does not, are left out: an auditor may say more than one
bundle uses. Nothing an auditor wrote as free text is kept: of its provenance only numbers, flags
and short identifiers reach the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from enforcement.policy.vocabulary import ClaimType, Vocabulary

MAX_ENTRIES: Final = 256  # of one vocabulary


# How the contract and the auditors' own libraries call the types of claims.
TYPE_NAMES: Final[Mapping[ClaimType, frozenset[str]]] = {
    ClaimType.BOOL: frozenset({"bool", "boolean", "score_binary"}),
    ClaimType.STRING: frozenset({"string", "category"}),
    ClaimType.STRING_LIST: frozenset({"string_list", "string[]", "category_list"}),
    ClaimType.INTEGER: frozenset({"integer", "number", "quantity", "categorical_count"}),
    ClaimType.SCORE: frozenset({"score", "score_normalized", "number"}),
    ClaimType.DECIMAL: frozenset({"decimal", "number", "score_normalized", "score"}),
}


class AnswerError(Exception):
    """An answer that cannot be used. `status` is stable and holds nothing of the answer's text."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Entry(msgspec.Struct, frozen=True):
    """One claim that an auditor can give."""

    name: str
    type: str
    phases: list[str] = msgspec.field(default_factory=lambda: ["request", "response"])


class SelfDescription(msgspec.Struct, frozen=True):
    """The answer of `GET /vocabulary`."""

    claims: list[Entry]
    labels: list[str] = []


class Health(msgspec.Struct, frozen=True):
    """The answer of `GET /health`."""

    status: str
    ready: bool
    auditor_id: str = ""
    version: str = ""


def read_vocabulary(body: bytes) -> SelfDescription:
    """Read the answer of `GET /vocabulary`.

    Raises:
        AnswerError: it is none.
    """
    try:
        said = msgspec.json.decode(body, type=SelfDescription)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise AnswerError("invalid:vocabulary") from None
    if len(said.claims) > MAX_ENTRIES:
        raise AnswerError("invalid:vocabulary")
    return said


def read_health(body: bytes) -> Health:
    """Read the answer of `GET /health`.

    Raises:
        AnswerError: it is none, or the auditor says that it is not ready.
    """
    try:
        health = msgspec.json.decode(body, type=Health)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise AnswerError("invalid:health") from None
    if health.status != "healthy" or not health.ready:
        raise AnswerError("not_ready")
    return health


def shortfalls(name: str, vocabulary: Vocabulary, said: SelfDescription) -> list[tuple[str, str]]:
    """What a bundle wants of an auditor and it does not give: (claim, what is wrong)."""
    entries = {entry.name: entry for entry in said.claims}
    found = []
    for claim_name in vocabulary.names():
        claim = vocabulary[claim_name]
        if name not in claim.auditors:
            continue
        entry = entries.get(claim_name)
        if entry is None:
            found.append((claim_name, "is not in its vocabulary"))
        elif entry.type not in TYPE_NAMES[claim.type]:
            found.append((claim_name, f"is not a {claim.type.value} there"))
        elif missing := sorted({phase.value for phase in claim.phases} - set(entry.phases)):
            found.append((claim_name, f"is not given there in phase {','.join(missing)}"))
    return found
