"""Redaction: what stands for a secret, and that nothing of it is left."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.content.redact import (
    DROPPED,
    PLAIN,
    RedactionIncompleteError,
    Redactor,
    apply,
    mask,
    united,
)
from enforcement.detectors import DETECTORS, Span, scan
from enforcement.outcome import Outcome, Phase, PolicyRequest, Redaction, Verdict, strictest
from tests.enforcement.detectors.labelled import LABELLED
from tests.enforcement.exchanges import Policy, chat_body, exchange, guard, run, texts

CARD = "4111 1111 1111 1111"
MAIL = "bob@example.org"
KEY = b"k" * 32


def by(method: Redaction, key: bytes = KEY) -> Redactor:
    return Redactor(key=key, methods=dict.fromkeys(DETECTORS, method))


def redacting(method: Redaction, *labels: str) -> Policy:
    """Redacts in replies where something is found."""

    def decide(request: PolicyRequest) -> Verdict:
        if request.phase is Phase.RESPONSE and request.claims["pii_found"]:
            return Verdict(
                outcome=Outcome.REDACT,
                reasons=("found",),
                redact=frozenset(labels),
                redact_with=dict.fromkeys(labels, method),
            )
        return Verdict(outcome=Outcome.PROCEED, reasons=("base",))

    return decide


# -- what stands for a secret ---------------------------------------------------------------------


def test_a_mask_names_the_kind_and_a_drop_does_not() -> None:
    text = f"pay {CARD} to {MAIL}."
    assert mask(text, DETECTORS) == "pay [CARD] to [EMAIL]."
    assert mask(text, DETECTORS, how=by(Redaction.DROP)) == f"pay {DROPPED} to {DROPPED}."


def test_a_hash_is_one_token_for_all_ways_to_write_a_secret() -> None:
    ways = (CARD, "4111-1111-1111-1111", "4111111111111111", "４１１１ １１１１ １１１１ １１１１")
    tokens = {mask(way, DETECTORS, how=by(Redaction.HASH)) for way in ways}
    assert len(tokens) == 1
    assert re.fullmatch(r"\[CARD:[a-p]{12}\]", tokens.pop())
    mails = {mask(way, DETECTORS, how=by(Redaction.HASH)) for way in (MAIL, MAIL.upper())}
    assert len(mails) == 1


def test_another_secret_another_key_and_another_kind_have_other_tokens() -> None:
    how = by(Redaction.HASH)
    tokens = {
        how.replacement("email", MAIL),
        how.replacement("email", "eve@example.org"),
        by(Redaction.HASH, b"other boot").replacement("email", MAIL),
        how.replacement("phone", MAIL).replace("PHONE", "EMAIL"),
    }
    assert len(tokens) == 4


def test_without_a_key_nothing_is_hashed() -> None:
    with pytest.raises(ValueError, match="key"):
        by(Redaction.HASH, b"")
    assert "kkkk" not in repr(by(Redaction.HASH))


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=40), st.sampled_from(sorted(DETECTORS)))
def test_a_token_is_never_taken_for_a_secret(key: bytes, label: str) -> None:
    token = by(Redaction.HASH, key).replacement(label, CARD)
    assert scan(f"{label}: {token} {token}{token}", DETECTORS) == []


@pytest.mark.parametrize("method", list(Redaction))
def test_of_all_labelled_texts_nothing_is_left(method: Redaction) -> None:
    for text, wanted in LABELLED:
        redacted = mask(text, DETECTORS, how=by(method))
        assert scan(redacted, DETECTORS) == []
        for span in scan(text, DETECTORS):
            assert text[span.start : span.end] not in redacted, wanted


def test_what_a_drop_leaves_beside_it_does_not_join() -> None:
    text = f"4111 1111 {MAIL} 1111 1111 and 4111 1111{MAIL}"
    redacted = mask(text, DETECTORS, how=by(Redaction.DROP))
    assert scan(redacted, DETECTORS) == []


def test_an_incomplete_redaction_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def echo(_self: Redactor, _label: str, words: str, _also: object = ()) -> str:
        return words

    monkeypatch.setattr(Redactor, "replacement", echo)
    with pytest.raises(RedactionIncompleteError):
        mask(MAIL, DETECTORS)


# -- spans ----------------------------------------------------------------------------------------


def test_marks_of_auditors_and_matches_merge() -> None:
    text = f"Ann <{MAIL}> of Ulm"
    marks = [Span(0, 3, "person"), Span(0, 21, "contact"), Span(25, 28, "place")]
    assert mask(text, DETECTORS, marks) == "[EMAIL] of [PLACE]"
    (first, second) = united([*scan(text, DETECTORS), *marks])
    assert (first.start, first.end, first.also) == (0, 21, ("contact", "person"))
    assert second == Span(25, 28, "place")


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 9), st.sampled_from(["email", "person"])),
        max_size=8,
    )
)
def test_merged_spans_cover_what_they_were_made_of(marks: list[tuple[int, int, str]]) -> None:
    spans = [Span(start, start + size, label) for start, size, label in marks]
    merged = united(spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(merged))
    covered = {place for span in spans for place in range(span.start, span.end)}
    assert covered == {place for span in merged for place in range(span.start, span.end)}
    for span in spans:
        (home,) = [m for m in merged if m.start <= span.start and span.end <= m.end]
        assert span.label in {home.label, *home.also}


def test_of_merged_kinds_the_strictest_method_counts() -> None:
    how = Redactor(key=KEY, methods={"email": Redaction.HASH, "person": Redaction.DROP})
    assert how.replacement("email", MAIL, ("person",)) == DROPPED
    assert how.replacement("email", MAIL, ("place",)) == "[EMAIL]"
    assert apply(MAIL, [Span(0, 15, "email", ("person",))], how) == DROPPED


def test_of_several_demands_the_strictest_counts() -> None:
    hashed = {"email": Redaction.HASH, "card": Redaction.HASH}
    demands = [(("email", "card"), hashed), (("card",), {}), (("ssn",), {"ssn": Redaction.DROP})]
    assert strictest(demands) == {
        "email": Redaction.HASH,
        "card": Redaction.MASK,
        "ssn": Redaction.DROP,
    }
    assert strictest([]) == {}
    order = (Redaction.HASH, Redaction.MASK, Redaction.DROP)
    assert [method.strictness for method in order] == [0, 1, 2]


# -- through an exchange --------------------------------------------------------------------------


def reply_of(policy: Policy, content: str) -> str:
    made, _ = exchange(policy)
    made.request(chat_body("x"))
    body = json.dumps({"choices": [{"index": 0, "message": {"content": content}}]}).encode()
    ruling = made.response(status=200, content_type="application/json", body=body)
    assert ruling.forward_body is not None
    assert ruling.record.obligations["redact"] == ("card", "email")
    text = json.loads(ruling.forward_body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def streamed(policy: Policy, content: str, size: int) -> str:
    wire = b"".join(
        b"data: %b\n\n"
        % json.dumps(
            {"choices": [{"index": 0, "delta": {"content": content[i : i + size]}}]}
        ).encode()
        for i in range(0, len(content), size)
    )
    stream, _ = guard(policy)
    return texts(run(stream, [wire + b"data: [DONE]\n\n"]))[0, "content"]


CONTENT = f"write to {MAIL} or pay {CARD}, " + "and so on " * 60 + f"then {MAIL.upper()} again"


@pytest.mark.parametrize("size", [1, 5, 900])
@pytest.mark.parametrize("method", list(Redaction))
def test_a_stream_is_redacted_as_a_whole_reply_is(method: Redaction, size: int) -> None:
    policy = redacting(method, "card", "email")
    whole = reply_of(policy, CONTENT)
    assert streamed(policy, CONTENT, size) == whole
    assert whole == mask(CONTENT, DETECTORS, how=by(method, b"s" * 32))
    if method is Redaction.HASH:
        first, again = re.findall(r"\[EMAIL:[a-p]{12}\]", whole)
        assert first == again


def test_the_record_says_how_it_was_redacted() -> None:
    made, _ = exchange(redacting(Redaction.HASH, "email", "card"))
    made.request(chat_body("x"))
    body = json.dumps({"choices": [{"index": 0, "text": MAIL}]}).encode()
    ruling = made.response(status=200, content_type="application/json", body=body)
    assert ruling.record.obligations == {
        "redact": ("card", "email"),
        "redact_with": ("card=hash", "email=hash"),
    }


def test_a_verdict_that_asks_for_no_method_masks() -> None:
    verdict = Verdict(outcome=Outcome.REDACT, reasons=(), redact=frozenset({"email"}))
    assert Redactor.of(verdict, b"") is PLAIN
