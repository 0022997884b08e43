"""The contract with auditors: what is sent, and that an answer is believed whole or not at all."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcement.auditing import Auditors, Question
from enforcement.auditors import contract
from enforcement.auditors.answer import Said, read_answer
from enforcement.auditors.contract import AnswerError
from enforcement.auditors.question import outgoing
from enforcement.detectors import Span
from enforcement.outcome import Phase
from enforcement.policy.vocabulary import Claim, ClaimType, Merge, Vocabulary
from tests.enforcement.auditors import peers
from tests.enforcement.auditors.peers import claim, error, success

BOTH = frozenset(Phase)
CLAIMS = [
    Claim(name=kind.value, type=kind, sources=("auditor:a",), phases=BOTH) for kind in ClaimType
]
WANTED = {one.name: one for one in CLAIMS}
LABELS = frozenset({"person"})


NOBODY = cast("Auditors", None)  # is asked here


def question(*texts: str, output: tuple[str, ...] | None = None) -> Question:
    return peers.question(NOBODY, *texts, output=output)


def read(answer: object, asked: Question | None = None) -> Said:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_answer(
        body, wanted=WANTED, sent=outgoing(asked or question("hello")), labels=LABELS
    )


def refused(answer: object, asked: Question | None = None) -> str:
    with pytest.raises(AnswerError) as info:
        read(answer, asked)
    return info.value.status


# -- questions ------------------------------------------------------------------------------------


def test_a_question_has_the_shape_of_the_contract() -> None:
    sent = outgoing(question("one", "two", output=("three",)))
    assert json.loads(sent.body(b'{"threshold":1}')) == {
        "data": {
            "input": "one\ntwo",
            "output": "three",
            "metadata": {"model_id": "m", "session_id": "req-1", "user_id": "User::alice"},
        },
        "phase": "response",
        "lucid_context": {
            "trace_id": "0" * 32,
            "agent_id": "agent",
            "workspace_id": "",
            "auditor_config": {"threshold": 1},
        },
    }


def test_without_a_reply_there_is_no_output() -> None:
    assert "output" not in json.loads(outgoing(question("one")).body(b"{}"))["data"]


@given(st.lists(st.text(st.characters(codec=None), max_size=20), max_size=6))
def test_every_text_can_be_sent_and_keeps_its_offsets(texts: list[str]) -> None:
    sent = outgoing(question(*texts))
    joined = json.loads(sent.body(b"{}"))["data"]["input"]
    assert len(joined) == sent.length or not texts
    for start, text in zip(sent.starts, texts, strict=True):
        piece = joined[start : start + len(text)]
        assert len(piece) == len(text)
        assert all(a == b or "\ud800" <= b <= "\udfff" for a, b in zip(piece, text, strict=True))


# -- claims ---------------------------------------------------------------------------------------


def test_claims_are_read_in_the_vocabularys_form() -> None:
    said = read(
        success(
            claim("bool", "boolean", True),
            claim("score", "score_normalized", 0.7, confidence=0.9),
            claim("decimal", "number", -12.34567),
            claim("integer", "number", 3.0),
            claim("string", "string", "en"),
            claim("string_list", "string[]", ["b", "a", "b"]),
        )
    )
    assert said.claims == {
        "bool": True,
        "score": 7000,
        "decimal": -123457,
        "integer": 3,
        "string": "en",
        "string_list": ("a", "b"),
    }


def test_claims_that_the_bundle_does_not_know_are_left_out_unread() -> None:
    assert read(success(claim("colour", "odd", {"a": [1]} and 1.5))).claims == {}


def test_a_claim_given_twice_is_merged_and_without_a_rule_refused() -> None:
    double = Claim(
        name="risk", type=ClaimType.SCORE, sources=("auditor:a", "auditor:b"), phases=BOTH,
        merge=Merge.MAX,
    )  # fmt: skip
    body = json.dumps(success(claim("risk", "score", 0.2), claim("risk", "score", 0.9))).encode()
    said = read_answer(
        body, wanted={"risk": double}, sent=outgoing(question("x")), labels=frozenset()
    )
    assert said.claims == {"risk": 9000}
    twice = success(claim("string", "string", "en"), claim("string", "string", "de"))
    assert refused(twice) == "invalid:string"


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("bool", "boolean", 1),
        ("bool", "boolean", "true"),
        ("bool", "string", True),
        ("score", "score_normalized", 1.01),
        ("score", "score_normalized", -0.1),
        ("score", "score_normalized", True),
        ("score", "score_normalized", "0.5"),
        ("score", "score_percentage", 50),
        ("decimal", "number", 1e300),
        ("decimal", "number", [1.0] and "1"),
        ("integer", "integer", 1.5),
        ("integer", "integer", 2**63),
        ("integer", "integer", "3"),
        ("string", "string", 3),
        ("string", "string", "x" * 1025),
        ("string_list", "string_list", "a"),
        ("string_list", "string_list", ["x"] * 257),
        ("string_list", "boolean", ["x"]),
    ],
)
def test_a_claim_of_another_type_makes_the_whole_answer_invalid(
    name: str, kind: str, value: object
) -> None:
    good = claim("bool" if name != "bool" else "string", "boolean", True)
    if name == "bool":
        good = claim("string", "string", "en")
    assert refused(success(good, claim(name, kind, value))) == f"invalid:{name}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"status":"success","claims":{}}',
        b'{"status":"success","claims":[{"name":"bool"}]}',
        b'{"status":"success","claims":[{"name":"bool","type":"boolean","value":null}]}',
        b'{"status":"success","claims":[{"name":"score","type":"number","value":NaN}]}',
        b'{"status":"success","claims":[{"name":"score","type":"number","value":1e999}]}',
        b'{"status":"success","claims":[{"name":"bool","type":"boolean","value":{"a":1}}]}',
        b'{"status":"success","claims":[],"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    assert refused(body) == "invalid:json"


def test_errors_in_band_keep_their_code_and_nothing_else() -> None:
    assert refused(error("MODEL_LOADING")) == "error:MODEL_LOADING"
    assert refused(error("my secret is 123")) == "error"
    assert refused({"status": "error"}) == "error"
    assert refused({"status": "ok", "claims": []}) == "invalid:status"
    assert refused({"status": "deny", "decision": "proceed"}) == "invalid:status"


def test_counts_are_bounded() -> None:
    assert refused(success(*[claim("x", "boolean", True)] * 257)) == "invalid:too_many_claims"
    span = {"part": "input", "start": 0, "end": 1, "label": "person"}
    many = claim("bool", "boolean", True, metadata={"spans": [span] * 10_001})
    assert refused(success(many)) == "invalid:too_many_spans"


def test_spans_over_thousands_of_texts_take_no_time() -> None:
    asked = question(*["a"] * 20_000)
    span = {"part": "input", "start": 0, "end": 39_999, "label": "person"}
    start = time.process_time()
    wide = claim("bool", "boolean", True, metadata={"spans": [span] * 1_000})
    assert refused(success(wide), asked) == "invalid:too_many_spans"
    assert time.process_time() - start < 2


# -- spans ----------------------------------------------------------------------------------------


def marked(*spans: tuple[str, int, int, str]) -> dict[str, object]:
    listed = [dict(zip(("part", "start", "end", "label"), span, strict=True)) for span in spans]
    return success(claim("bool", "boolean", True, metadata={"spans": listed, "more": {"x": 1}}))


def test_spans_are_placed_in_the_single_texts_and_split_at_their_borders() -> None:
    asked = question("Ann and", "Bob", "", "x")
    said = read(marked(("input", 0, 3, "person"), ("input", 4, 10, "person")), asked)
    assert said.spans == {
        0: [Span(0, 3, "person"), Span(4, 7, "person")],
        1: [Span(0, 2, "person")],
    }


def test_a_span_over_nothing_but_a_border_is_nothing() -> None:
    assert read(marked(("input", 1, 2, "person")), question("a", "b")).spans == {}


def test_spans_of_the_request_do_not_count_in_the_reply() -> None:
    asked = question("Ann", output=("Bob",))
    said = read(marked(("input", 0, 3, "person"), ("output", 1, 3, "person")), asked)
    assert said.spans == {0: [Span(1, 3, "person")]}


def test_labels_that_the_bundle_does_not_know_are_left_out() -> None:
    assert read(marked(("input", 0, 2, "planet"))).spans == {}


@pytest.mark.parametrize(
    "span",
    [
        ("input", -1, 2, "person"),
        ("input", 2, 2, "person"),
        ("input", 3, 2, "person"),
        ("input", 0, 6, "person"),
        ("body", 0, 1, "person"),
    ],
)
def test_a_span_that_is_not_in_the_text_makes_the_whole_answer_invalid(
    span: tuple[str, int, int, str],
) -> None:
    assert refused(marked(("input", 0, 1, "person"), span)) == "invalid:span"


@given(
    texts=st.lists(st.text(alphabet="ab\n", max_size=8), min_size=1, max_size=5),
    data=st.data(),
)
def test_a_span_covers_the_same_characters_apart_as_joined(texts: list[str], data: Any) -> None:
    asked = question(*texts)
    joined = "\n".join(texts)
    if len(joined) < 1:
        return
    start = data.draw(st.integers(0, len(joined) - 1))
    end = data.draw(st.integers(start + 1, len(joined)))
    said = read(marked(("input", start, end, "person")), asked)
    sent = outgoing(asked)
    covered = {
        sent.starts[index] + place
        for index, spans in said.spans.items()
        for span in spans
        for place in range(span.start, span.end)
    }
    borders = {begin - 1 for begin in sent.starts[1:]}
    assert covered == set(range(start, end)) - borders


# -- provenance -----------------------------------------------------------------------------------


def test_of_the_provenance_numbers_flags_and_identifiers_are_kept_and_no_text() -> None:
    said = read(
        success(
            claim(
                "score", "score", 0.25, confidence=0.5,
                provenance={
                    "threshold": 0.8, "model": "deberta-v3", "fast": True,
                    "matched": "my password is hunter2", "4111": 1, "nested": {"a": 1},
                },
            ),
            claim("string", "string", "my password"),
            claim("string_list", "string_list", ["a", "b"]),
        )
    )  # fmt: skip
    assert said.note == (
        "score=2500 (confidence=0.5, threshold=0.8, model=deberta-v3, fast=True), "
        "string=11, string_list=2"
    )


@pytest.mark.parametrize("place", [b'"provenance":{"a":"\xff"}', b'"provenance":{"\xff":1}'])
def test_what_is_no_utf_8_makes_all_of_it_invalid(place: bytes) -> None:
    whole = json.dumps(success(claim("bool", "boolean", True, provenance={"a": 1}))).encode()
    broken = whole.replace(b'"provenance": {"a": 1}', place)
    assert broken != whole
    assert refused(broken) == "invalid:json"


@pytest.mark.parametrize("provenance", [[1], "x", 3, {"x": "y" * 600}])
def test_provenance_that_is_none_is_left_out(provenance: object) -> None:
    assert read(success(claim("bool", "boolean", True, provenance=provenance))).note == "bool=true"


# -- vocabularies ---------------------------------------------------------------------------------


def test_a_bundle_is_held_against_what_an_auditor_says_it_gives() -> None:
    said = contract.read_vocabulary(
        json.dumps(
            {
                "auditor_id": "a",
                "claims": [
                    {"name": "bool", "type": "string"},
                    {"name": "score", "type": "score_normalized", "phases": ["request"]},
                    {"name": "string", "type": "string", "description": "more"},
                ],
            }
        ).encode()
    )
    vocabulary = Vocabulary(
        claim for claim in CLAIMS if claim.name in ("bool", "score", "string", "integer")
    )
    assert contract.shortfalls("a", vocabulary, said) == [
        ("bool", "is not a bool there"),
        ("integer", "is not in its vocabulary"),
        ("score", "is not given there in phase response"),
    ]
    assert contract.shortfalls("b", vocabulary, said) == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"claims":1}', b'{"claims":[{"name":1,"type":"x"}]}', b'{"claims":null}']
)
def test_what_is_no_vocabulary_is_refused(body: bytes) -> None:
    with pytest.raises(AnswerError, match="invalid:vocabulary"):
        contract.read_vocabulary(body)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", "invalid:health"),
        (b'{"status":"healthy","ready":"yes"}', "invalid:health"),
        (b'{"status":"healthy","ready":false}', "not_ready"),
        (b'{"status":"sick","ready":true}', "not_ready"),
    ],
)
def test_an_auditor_that_is_not_ready_is_not_taken_for_healthy(body: bytes, status: str) -> None:
    with pytest.raises(AnswerError, match=status):
        contract.read_health(body)
