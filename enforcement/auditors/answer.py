"""What an auditor answers (`enforcement.auditors.contract`), believed whole or not at all."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from attestation.records import ClaimValue
from enforcement.auditors.contract import TYPE_NAMES, AnswerError
from enforcement.auditors.question import SEPARATOR, Outgoing
from enforcement.detectors import Span
from enforcement.policy.vocabulary import Claim, ClaimError, ClaimType, scaled

MAX_CLAIMS: Final = 256  # in one answer
MAX_SPANS: Final = 10_000  # in one answer
MAX_STATUS: Final = 512  # characters about one auditor in a record

_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/+-]{0,63}")


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
        # As a text: msgspec would pass over octets that are no UTF-8 where it keeps nothing.
        answer = _ANSWER.decode(body.decode())
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
