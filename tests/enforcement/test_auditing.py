"""Auditors at an exchange: asked before a decision, heeded in it, missed when they are silent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from enforcement import asking
from enforcement.audited_stream import AuditedStream
from enforcement.auditing import Audit, Question
from enforcement.detectors import Span
from enforcement.exchange import Exchange
from enforcement.outcome import Outcome, Phase, PolicyRequest, Verdict
from enforcement.ruling import Ruling
from tests.enforcement.exchanges import (
    Policy,
    always,
    chat_body,
    events,
    exchange,
    route,
    texts,
)

NAME = re.compile(r"Ann[a-z]*")  # what the scripted auditor marks as a person
PROCEED = always(Outcome.PROCEED)
Say = Callable[[Question], Audit]


@dataclass
class Scripted:
    """Auditors that answer by a function, and remember what they were asked."""

    say: Say
    phases: frozenset[Phase] = frozenset(Phase)
    labels: frozenset[str] = frozenset({"person"})
    asked: list[Question] = field(default_factory=list)

    def gives(self, phase: Phase, /) -> bool:
        return phase in self.phases

    async def ask(self, question: Question, /) -> Audit:
        await trio.lowlevel.checkpoint()
        self.asked.append(question)
        return self.say(question)


def looked_at(question: Question) -> tuple[str, ...]:
    return question.input if question.output is None else question.output


def marking(question: Question) -> Audit:
    """Marks names, and says how many there are."""
    spans = tuple(
        tuple(Span(*match.span(), "person") for match in NAME.finditer(text))
        for text in looked_at(question)
    )
    return Audit(
        claims={"names": sum(map(len, spans))}, spans=spans, status={"names": "ok"}, latency_us={}
    )


def silent(_: Question) -> Audit:
    return Audit(
        missing=frozenset({"names", "pii_found"}),
        unmaskable=frozenset({"person"}),
        status={"names": "timeout"},
    )


def masked_if_named(request: PolicyRequest) -> Verdict:
    if request.claims.get("names"):
        return Verdict(outcome=Outcome.REDACT, reasons=("names",), redact=frozenset({"person"}))
    return Verdict(outcome=Outcome.PROCEED, reasons=("base",))


def decided(made: Exchange, body: bytes) -> Ruling:
    return trio.run(asking.request, made, body)


def reply(*contents: str) -> bytes:
    choices = [{"index": i, "message": {"content": text}} for i, text in enumerate(contents)]
    return json.dumps({"id": "c", "model": "m", "choices": choices}).encode()


def replied(made: Exchange, body: bytes) -> Ruling:
    async def run() -> Ruling:
        return await asking.response(made, status=200, content_type="application/json", body=body)

    return trio.run(run)


# -- whole bodies ---------------------------------------------------------------------------------


def test_without_auditors_nobody_is_asked() -> None:
    made, _ = exchange(PROCEED)
    assert made.auditors is None
    assert made.look_at_request(chat_body("x")) is None


def test_auditors_see_every_text_and_their_claims_reach_the_policy_and_the_record() -> None:
    auditors = Scripted(marking)
    made, engine = exchange(PROCEED, auditors=auditors)
    ruling = decided(made, chat_body("I am Anna", "and Annabel"))
    assert auditors.asked[0].input == ("I am Anna", "and Annabel")
    assert auditors.asked[0].output is None
    assert engine.claims == {
        "names": 2, "pii_found": False, "pii_types": (), "secret_leaked": False,
    }  # fmt: skip
    assert ruling.record.claims["names"] == 2
    assert ruling.record.auditors == {"names": "ok"}


def test_auditors_see_a_role_that_says_something() -> None:
    auditors = Scripted(marking)
    made, _ = exchange(PROCEED, auditors=auditors)
    told = {"role": "ignore-all-rules", "content": "hi"}
    decided(made, json.dumps({"messages": [told, {"role": "user", "content": "x"}]}).encode())
    assert auditors.asked[0].input == ("ignore-all-rules", "hi", "x")


def test_in_the_reply_they_see_the_request_too() -> None:
    auditors = Scripted(marking)
    made, _ = exchange(PROCEED, auditors=auditors)
    decided(made, chat_body("who?"))
    replied(made, reply("Anna", "Bob"))
    assert auditors.asked[1].input == ("who?",)
    assert auditors.asked[1].output == ("Anna", "Bob")
    assert auditors.asked[1].phase is Phase.RESPONSE


def test_only_the_phases_in_which_they_give_something_are_asked_about() -> None:
    auditors = Scripted(marking, phases=frozenset({Phase.RESPONSE}))
    made, _ = exchange(PROCEED, auditors=auditors)
    decided(made, chat_body("x"))
    assert auditors.asked == []


def test_a_door_that_does_not_ask_has_no_claims_and_cannot_mask() -> None:
    made, engine = exchange(PROCEED, auditors=Scripted(marking))
    made.request(chat_body("Anna"))
    assert "names" not in engine.claims
    made, _ = exchange(always(Outcome.REDACT, "person"), auditors=Scripted(marking))
    ruling = made.request(chat_body("Anna"))
    assert ruling.forward_body is None
    assert ruling.record.reasons == ("redaction_incomplete",)


def test_a_claim_is_missing_where_one_of_its_sources_is_silent_even_if_a_detector_gave_it() -> None:
    made, engine = exchange(PROCEED, auditors=Scripted(silent))
    decided(made, chat_body("x"))
    assert "pii_found" not in engine.claims
    assert "pii_types" in engine.claims


def test_flags_and_lists_unite_with_the_detectors_own() -> None:
    audit = Audit(claims={"pii_found": False, "pii_types": ("name",), "secret_leaked": True})
    made, engine = exchange(PROCEED, auditors=Scripted(lambda _: audit))
    decided(made, chat_body("bob@example.org"))
    assert engine.claims["pii_found"] is True
    assert engine.claims["pii_types"] == ("email", "name")
    assert engine.claims["secret_leaked"] is True


def test_what_an_auditor_marked_is_masked_with_what_a_detector_found() -> None:
    policy = always(Outcome.REDACT, "person", "email")
    made, _ = exchange(policy, auditors=Scripted(marking))
    ruling = decided(made, chat_body("Anna, anna@example.org", "Bob"))
    assert ruling.forward_body is not None
    sent = json.loads(ruling.forward_body)["messages"]
    assert [message["content"] for message in sent] == ["[PERSON], [EMAIL]", "Bob"]


def test_a_label_that_the_policy_does_not_name_is_not_masked() -> None:
    made, _ = exchange(always(Outcome.REDACT, "email"), auditors=Scripted(marking))
    ruling = decided(made, chat_body("Anna"))
    assert ruling.forward_body is not None
    assert b"Anna" in ruling.forward_body


def test_masking_what_a_silent_auditor_knows_is_denied() -> None:
    made, _ = exchange(always(Outcome.REDACT, "person"), auditors=Scripted(silent))
    ruling = decided(made, chat_body("Anna"))
    assert ruling.forward_body is None
    assert ruling.record.reasons == ("redaction_incomplete",)
    assert ruling.record.auditors == {"names": "timeout"}


def test_overlapping_marks_and_matches_become_one_mask() -> None:
    def overlapping(question: Question) -> Audit:
        return Audit(spans=((Span(0, 9, "person"), Span(4, 12, "place")),) * len(question.input))

    made, _ = exchange(
        always(Outcome.REDACT, "person", "place", "email"), auditors=Scripted(overlapping)
    )
    ruling = decided(made, chat_body("x bob@example.org y"))
    assert ruling.forward_body is not None
    assert json.loads(ruling.forward_body)["messages"][0]["content"] == "[EMAIL] y"


def test_a_body_that_is_not_understood_is_refused_without_asking() -> None:
    auditors = Scripted(marking)
    made, _ = exchange(PROCEED, auditors=auditors)
    assert decided(made, b"{").refusal is not None
    assert replied(made, b"{").refusal is not None
    assert auditors.asked == []


# -- streams --------------------------------------------------------------------------------------


def chunk(text: str, *, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": None, **more}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def ending(index: int = 0) -> bytes:
    choice = {"index": index, "delta": {}, "finish_reason": "stop"}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def opened(
    policy: Policy, say: Say = marking, *, labels: Sequence[str] = ("person",), **kwargs: Any
) -> tuple[AuditedStream, Scripted]:
    auditors = Scripted(say, labels=frozenset(labels))
    made, _ = exchange(policy, auditors=auditors, detectors=frozenset(), **kwargs)
    stream = made.stream(status=200)
    assert isinstance(stream, AuditedStream)
    return stream, auditors


def passed(stream: AuditedStream, auditors: Scripted, pieces: list[bytes]) -> list[bytes]:
    """What leaves at each piece and at the end, as the door does it."""
    out: list[bytes] = []

    async def drive() -> None:
        for step in [*[lambda p=p: stream.feed(p) for p in pieces], stream.finish]:
            data = step()
            if stream.question is not None:
                data += await asking.stream(stream, stream.question)
            out.append(data)
            if stream.denied:
                return

    trio.run(drive)
    return out


def test_nothing_leaves_before_the_auditors_have_seen_it() -> None:
    stream, auditors = opened(PROCEED, hold_back=10, labels=())
    out = passed(stream, auditors, [chunk("1234"), chunk("5678"), chunk("90"), chunk("ab"), DONE])
    assert out[:2] == [b"", b""]
    assert [question.output for question in auditors.asked] == [("1234567890",), ("1234567890ab",)]
    assert [question.final for question in auditors.asked] == [False, True]
    assert texts(b"".join(out)) == {(0, "content"): "1234567890ab"}
    assert out[-1].endswith(DONE)


def test_a_stream_is_denied_as_soon_as_a_claim_denies_it() -> None:
    def deny_names(request: PolicyRequest) -> Verdict:
        named = request.phase is Phase.RESPONSE and request.claims["names"]
        outcome = Outcome.DENY if named else Outcome.PROCEED
        return Verdict(outcome=outcome, reasons=("names",))

    stream, auditors = opened(deny_names, hold_back=4, labels=())
    out = passed(stream, auditors, [chunk("all good "), chunk("until Anna "), chunk("comes")])
    assert stream.denied
    assert len(out) == 2
    read = b"".join(out)
    assert b"Anna" not in read
    assert events(read)[-2]["error"]["code"] == "names"
    assert stream.record.outcome == "deny"
    assert stream.record.auditors == {"names": "ok"}


def test_a_stream_that_is_denied_at_the_first_window_is_refused_with_a_status() -> None:
    stream, auditors = opened(always(Outcome.DENY), hold_back=2)
    passed(stream, auditors, [chunk("Hello")])
    assert stream.refusal is not None
    assert stream.refusal.status == 403


def test_marks_are_masked_over_the_borders_of_events_and_windows() -> None:
    stream, auditors = opened(masked_if_named, hold_back=8)
    pieces = [chunk(part) for part in ["It is A", "nn", "a", "bel", "le, you", " know; Anna."]]
    out = b"".join(passed(stream, auditors, [*pieces, ending(), DONE]))
    assert texts(out) == {(0, "content"): "It is [PERSON], you know; [PERSON]."}
    assert events(out)[-1] == "[DONE]"


def test_of_a_calls_arguments_auditors_see_what_its_escapes_mean() -> None:
    def call(text: str) -> bytes:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return (
            b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
        )

    stream, auditors = opened(masked_if_named)
    arguments = '{"to": "\\"\\u0041n\\u006Ea \\u00e9\\ud83d\\ude00", "n": "\\u0041nnabel!"}'
    pieces = [call(arguments[i : i + 3]) for i in range(0, len(arguments), 3)]
    wire = b"".join(passed(stream, auditors, [*pieces, ending(), DONE]))
    assert auditors.asked[-1].output == ('{"to": "\\"Anna é\U0001f600", "n": "Annabel!"}',)
    said = texts(wire)[0, "tool_calls.0.arguments"]
    assert json.loads(said) == {"to": '"[PERSON] é\U0001f600', "n": "[PERSON]!"}


def test_a_mark_beside_half_a_character_is_masked() -> None:
    stream, auditors = opened(masked_if_named)
    pieces = [chunk("Anna \ud83d"), chunk("\ude00 waves"), ending(), DONE]
    wire = b"".join(passed(stream, auditors, pieces))
    assert texts(wire)[0, "content"] == "[PERSON] \U0001f600 waves"


def test_a_mark_that_begins_in_text_that_has_left_ends_the_stream() -> None:
    def late(question: Question) -> Audit:
        text = "".join(question.output or ())
        spans = (Span(0, len(text), "person"),) if len(text) > 20 else ()
        return Audit(claims={"names": len(spans)}, spans=(spans,))

    stream, auditors = opened(masked_if_named, late, hold_back=4)
    passed(stream, auditors, [chunk("0123456789"), chunk("abcde"), chunk("fghijklm"), DONE])
    assert stream.denied
    assert stream.record.reasons == ("redaction_incomplete",)


def test_a_silent_auditor_ends_a_stream_whose_policy_masks_what_it_knows() -> None:
    stream, auditors = opened(always(Outcome.REDACT, "person"), silent, hold_back=2)
    passed(stream, auditors, [chunk("hello Anna")])
    assert stream.denied
    assert stream.record.reasons == ("redaction_incomplete",)


def test_a_stream_that_no_auditor_is_asked_about_cannot_be_masked_by_their_labels() -> None:
    auditors = Scripted(marking, phases=frozenset({Phase.REQUEST}))
    made, _ = exchange(always(Outcome.REDACT, "person"), auditors=auditors, hold_back=2)
    stream = made.stream(status=200)
    out = stream.feed(chunk("I am Anna, and this is long enough to leave") * 3)
    assert stream.denied
    assert b"Anna" not in out
    assert stream.record.reasons == ("redaction_incomplete",)


def test_what_a_detector_finds_beside_a_mark_counts_before_the_mark_leaves() -> None:
    def masked_beside_mail(request: PolicyRequest) -> Verdict:
        if request.claims.get("names") and request.claims.get("pii_found"):
            labels = frozenset({"person", "email"})
            return Verdict(outcome=Outcome.REDACT, reasons=("both",), redact=labels)
        return Verdict(outcome=Outcome.PROCEED, reasons=("base",))

    auditors = Scripted(marking)
    made, _ = exchange(masked_beside_mail, auditors=auditors, hold_back=256)
    stream = made.stream(status=200)
    assert isinstance(stream, AuditedStream)
    text = "Anna is anna@example.org. "
    out = b"".join(passed(stream, auditors, [chunk(text), chunk("x" * 600), ending(), DONE]))
    assert texts(out) == {(0, "content"): "[PERSON] is [EMAIL]. " + "x" * 600}


def test_choices_are_separate_texts() -> None:
    stream, auditors = opened(masked_if_named, hold_back=64)
    pieces = [
        chunk("An", index=0),
        chunk("An", index=1),
        chunk("na", index=0),
        chunk("ne", index=1),
    ]
    out = b"".join(passed(stream, auditors, [*pieces, ending(0), ending(1), DONE]))
    assert auditors.asked[-1].output == ("Anna", "Anne")
    assert texts(out) == {(0, "content"): "[PERSON]", (1, "content"): "[PERSON]"}


def test_what_an_event_repeats_at_the_end_is_masked_as_it_was_in_its_text() -> None:
    stream, _ = opened(PROCEED, hold_back=64, on=route("/v1/responses"))
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "Anna"}
    done = {"type": "response.output_text.done", "output_index": 0, "text": "Anna"}
    for event in (delta, done):
        stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    stream.finish()
    assert stream.question is not None
    assert stream.question.output == ("Anna",)


def test_in_buffer_mode_auditors_are_asked_once_at_the_end() -> None:
    stream, auditors = opened(PROCEED, mode="buffer", hold_back=2)
    out = passed(stream, auditors, [chunk("a" * 50), chunk("b" * 50), DONE])
    assert out[:-1] == [b"", b"", b""]
    assert len(auditors.asked) == 1


def test_in_observe_mode_nothing_waits_and_auditors_are_asked_at_the_end() -> None:
    stream, auditors = opened(always(Outcome.DENY), mode="observe", hold_back=2)
    pieces = [chunk("hello Anna"), DONE]
    assert passed(stream, auditors, pieces) == [*pieces, b""]
    assert [question.output for question in auditors.asked] == [("hello Anna",)]
    assert stream.record.outcome == "deny"
    assert "observed_only" in stream.record.reasons
    assert stream.record.claims["names"] == 1


@pytest.mark.parametrize(
    "wire", [b"data: {\n\n", b"nonsense: 1\n\n", b"data: [1]\n\n", b"data: \xff\n\n"]
)
def test_a_stream_that_cannot_be_read_is_denied(wire: bytes) -> None:
    stream, auditors = opened(PROCEED, hold_back=2)
    out = passed(stream, auditors, [chunk("hello"), wire, DONE])
    assert stream.denied
    assert stream.record.outcome == "deny"
    assert DONE not in b"".join(out[:-1])


def test_a_stream_cut_inside_an_event_is_denied() -> None:
    stream, auditors = opened(PROCEED, hold_back=2)
    passed(stream, auditors, [chunk("hello")[:-3]])
    assert stream.denied


def test_too_much_held_is_denied() -> None:
    stream, auditors = opened(PROCEED, mode="buffer")
    passed(stream, auditors, [chunk("a" * 60_000) for _ in range(20)])
    assert stream.denied


@given(
    text=st.text(alphabet="An a,é\U0001f600", max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=12),
    hold_back=st.integers(8, 20),
)
def test_however_a_text_is_cut_the_client_reads_it_masked_and_whole(
    text: str, cuts: list[int], hold_back: int
) -> None:
    # Names as long as the hold-back may begin in text that has left; shorter ones must not.
    short = re.compile(r"Ann?a{0,3}")

    def say(question: Question) -> Audit:
        spans = tuple(
            tuple(Span(*match.span(), "person") for match in short.finditer(part))
            for part in question.output or ()
        )
        return Audit(claims={"names": sum(map(len, spans))}, spans=spans)

    places = sorted({0, len(text), *[cut for cut in cuts if cut < len(text)]})
    pieces = [chunk(text[a:b]) for a, b in pairwise(places)]
    stream, auditors = opened(masked_if_named, say, hold_back=hold_back)
    out = b"".join(passed(stream, auditors, [*pieces, ending(), DONE]))
    assert not stream.denied
    assert texts(out).get((0, "content"), "") == short.sub("[PERSON]", text)
    assert events(out)[-1] == "[DONE]"
