"""The auditors' contract 2.0 without I/O: what `/claims` is sent, and what its answers may say.

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

import bisect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from attestation.records import ClaimValue
from enforcement.auditing import Question
from enforcement.detectors import Span
from enforcement.vocabulary import Claim, ClaimError, ClaimType, Vocabulary, is_unicode, scaled

MAX_CLAIMS: Final = 256  # in one answer
MAX_SPANS: Final = 10_000  # in one answer
MAX_STATUS: Final = 512  # characters about one auditor in a record
MAX_ENTRIES: Final = 256  # of one vocabulary
SEPARATOR: Final = "\n"

_encode: Final = msgspec.json.Encoder().encode
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/+-]{0,63}")

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


# -- what is sent ---------------------------------------------------------------------------------


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A question as it is sent: the parts that are the same for every auditor, encoded once.

    Attributes:
        starts: for each text of the question's phase, where it begins in its part.
        length: code points of that part.
        size: code points of all parts.
        before, after: what stands around an auditor's configuration.
    """

    part: Literal["input", "output"]
    starts: tuple[int, ...]
    length: int
    size: int
    before: bytes
    after: bytes

    def body(self, config: bytes) -> bytes:
        """The request's body for one auditor; `config`: its `auditor_config` as JSON."""
        return b"%b%b%b" % (self.before, config, self.after)


def outgoing(question: Question) -> Outgoing:
    """Encode a question."""
    texts = question.input if question.output is None else question.output
    starts, place = [], 0
    for text in texts:
        starts.append(place)
        place += len(text) + len(SEPARATOR)
    given = _joined(question.input)
    size = len(given)
    data: dict[str, Any] = {"input": given}
    if question.output is not None:
        data["output"] = written = _joined(question.output)
        size += len(written)
    kind, name = question.principal
    data["metadata"] = {
        "model_id": _encodable(question.model),
        "session_id": question.request_id,
        "user_id": _encodable(f"{kind}::{name}"),
    }
    # The configuration of each auditor stands at the very end, so that the rest is made once.
    message = {
        "data": data,
        "phase": question.phase.value,
        "lucid_context": {
            "trace_id": question.trace_id,
            "agent_id": question.agent_id,
            "workspace_id": "",
        },
    }
    return Outgoing(
        part="input" if question.output is None else "output",
        starts=tuple(starts),
        length=max(place - len(SEPARATOR), 0),
        size=size,
        before=_encode(message)[:-2] + b',"auditor_config":',
        after=b"}}",
    )


def _joined(texts: tuple[str, ...]) -> str:
    return _encodable(texts[0] if len(texts) == 1 else SEPARATOR.join(texts))


def _encodable(text: str) -> str:
    """Lone surrogates have no UTF-8 form; what stands for them has the same length."""
    return text if is_unicode(text) else _SURROGATES.sub("\ufffd", text)


# -- what comes back ------------------------------------------------------------------------------


class _Span(msgspec.Struct):
    part: str
    start: int
    end: int
    label: str


class _Metadata(msgspec.Struct):
    spans: list[_Span] = []


class _Claim(msgspec.Struct):
    name: str
    type: str
    value: bool | int | float | str | list[str]
    confidence: float | None = None
    metadata: _Metadata | None = None
    provenance: msgspec.Raw = msgspec.Raw(b"")


class _Error(msgspec.Struct):
    code: str = ""


class _Answer(msgspec.Struct):
    status: str
    claims: list[_Claim] = []
    error: _Error | None = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class Said(msgspec.Struct, frozen=True, gc=False):
    """What one auditor said, checked.

    Attributes:
        spans: by text of the question's phase.
        note: for the record: the claims' values and where they come from.
    """

    claims: Mapping[str, ClaimValue]
    spans: Mapping[int, list[Span]] = msgspec.field(default_factory=dict)
    note: str = ""


def read_answer(
    body: bytes,
    *,
    wanted: Mapping[str, Claim],
    sent: Outgoing,
    labels: frozenset[str],
) -> Said:
    """Read an answer.

    Args:
        wanted: the claims that this auditor gives in this phase, by name.
        labels: those of its labels that the bundle knows.

    Raises:
        AnswerError: `error:<CODE>` where it says so itself, `invalid:<what>` where it is no answer.
    """
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise AnswerError("invalid:json") from None
    if answer.status == "error":
        code = answer.error.code if answer.error is not None else ""
        raise AnswerError(f"error:{code}" if _CODE.fullmatch(code) else "error")
    if answer.status != "success":
        raise AnswerError("invalid:status")
    if len(answer.claims) > MAX_CLAIMS:
        raise AnswerError("invalid:too_many_claims")
    claims: dict[str, ClaimValue] = {}
    spans: dict[int, list[Span]] = {}
    notes: list[str] = []
    count = 0
    for given in answer.claims:
        claim = wanted.get(given.name)
        if claim is None:
            continue
        value = _value(claim, given)
        claims[claim.name] = _with(claim, claims.get(claim.name), value)
        notes.append(_note(claim, given, value))
        if given.metadata is not None:
            count += len(given.metadata.spans)
            if count > MAX_SPANS:
                raise AnswerError("invalid:too_many_spans")
            _place(given.metadata.spans, sent, labels, spans)
    return Said(claims, spans, ", ".join(notes)[:MAX_STATUS])


def _value(claim: Claim, given: _Claim) -> ClaimValue:
    """The value in the vocabulary's form. A score of 0.7 is 7000; a whole number may be 3.0."""
    value: object = given.value
    if given.type not in TYPE_NAMES[claim.type]:
        raise AnswerError(f"invalid:{claim.name}")
    try:
        if claim.type in (ClaimType.SCORE, ClaimType.DECIMAL):
            return scaled(claim, value)
        if claim.type is ClaimType.INTEGER and isinstance(value, float) and value.is_integer():
            value = int(value)
        return claim.check(value)
    except ClaimError:
        raise AnswerError(f"invalid:{claim.name}") from None


def _with(claim: Claim, before: ClaimValue | None, value: ClaimValue) -> ClaimValue:
    """One auditor that gives a claim twice, merged by the rule for two auditors."""
    if before is None:
        return value
    try:
        return claim.merged(before, value)
    except ClaimError:
        raise AnswerError(f"invalid:{claim.name}") from None


def _place(
    given: Iterable[_Span], sent: Outgoing, labels: frozenset[str], spans: dict[int, list[Span]]
) -> None:
    """Put spans of the joined text where they are in the single texts."""
    starts = sent.starts
    ends = [*starts[1:], sent.length + len(SEPARATOR)]
    placed = 0
    for span in given:
        if span.part not in ("input", "output"):
            raise AnswerError("invalid:span")
        if span.part != sent.part:
            continue  # the request's texts, in the reply's phase: they have left
        if not 0 <= span.start < span.end <= sent.length:
            raise AnswerError("invalid:span")
        if span.label not in labels:
            continue
        index = bisect.bisect_right(starts, span.start) - 1
        while index < len(starts) and starts[index] < span.end:
            start = starts[index]
            low, high = max(span.start, start), min(span.end, ends[index] - len(SEPARATOR))
            if low < high:
                spans.setdefault(index, []).append(Span(low - start, high - start, span.label))
            index += 1
            placed += 1
            if placed > 2 * MAX_SPANS:  # each over many texts
                raise AnswerError("invalid:too_many_spans")


def _note(claim: Claim, given: _Claim, value: ClaimValue) -> str:
    """`name=value (confidence=…, threshold=…)`; of texts, only how long they are."""
    shown = str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, (str, tuple)):
        shown = len(value)
    marks = [] if given.confidence is None else [f"confidence={given.confidence:.4g}"]
    marks += _provenance(given.provenance)
    return f"{claim.name}={shown}" + (f" ({', '.join(marks)})" if marks else "")


def _provenance(raw: msgspec.Raw) -> list[str]:
    data = bytes(raw)
    if not data or len(data) > MAX_STATUS:
        return []
    try:
        values = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        return []
    return [
        f"{key}={value}"
        for key, value in values.items()
        if _IDENTIFIER.fullmatch(key)
        and (
            isinstance(value, (bool, int, float))
            or (isinstance(value, str) and _IDENTIFIER.fullmatch(value))
        )
    ]


# -- what it says of itself -----------------------------------------------------------------------


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
