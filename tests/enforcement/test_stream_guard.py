"""Streams: whatever the chunking, nothing leaves that the policy holds back or masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.outcome import Outcome
from tests.enforcement.exchanges import always, events, guard, route, run, texts, when_found

PROCEED = always(Outcome.PROCEED)
MASK = when_found(Outcome.REDACT, "email", "card")
SECRETS = (b"alice@example.com", b"4111")

CAPTURES = (
    "llama-cpp-python-0.3.36-chat-pii.sse",
    "llama-cpp-python-0.3.36-chat-plain.sse",
    "llama-cpp-python-0.3.36-chat-utf8.sse",
    "vllm-0.32.0-chat-continuous-usage.sse",
    "vllm-0.32.0-chat-pii.sse",
    "vllm-0.32.0-chat-plain.sse",
    "vllm-0.32.0-chat-stream-n2-logprobs.sse",
    "vllm-0.32.0-chat-stream-usage.sse",
    "vllm-0.32.0-chat-utf8.sse",
    "vllm-0.32.0-completions-stream.sse",
)


def of(name: str) -> dict[str, object]:
    completions = name.startswith("vllm-0.32.0-completions")
    return {"on": route("/v1/completions")} if completions else {}


@pytest.fixture(params=CAPTURES)
def capture(request: pytest.FixtureRequest, vectors: Path) -> tuple[str, bytes]:
    return request.param, (vectors / "sse" / request.param).read_bytes()


def stream(*deltas: dict[str, Any], done: bool = True, index: int = 0) -> bytes:
    out = b""
    for delta in deltas:
        finish = delta.pop("finish_reason", None)
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        event = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
        out += b"data: " + json.dumps(event).encode() + b"\n\n"
    return out + (b"data: [DONE]\n\n" if done else b"")


def content(*pieces: str) -> bytes:
    return stream(
        {"role": "assistant", "content": ""},
        *({"content": piece} for piece in pieces),
        {"finish_reason": "stop"},
    )


def test_a_reply_that_may_proceed_keeps_every_text(capture: tuple[str, bytes]) -> None:
    name, wire = capture
    made, _ = guard(PROCEED, **of(name))
    assert texts(run(made, [wire])) == texts(wire)


def test_the_end_and_the_usage_of_a_stream_are_kept(capture: tuple[str, bytes]) -> None:
    name, wire = capture
    made, _ = guard(PROCEED, **of(name))
    out, before = events(run(made, [wire])), events(wire)
    assert out[-1] == before[-1] == "[DONE]"

    def ends(found: list[object]) -> list[object]:
        return [
            (c["index"], c["finish_reason"])
            for e in found
            if isinstance(e, dict)
            for c in e["choices"]
            if c.get("finish_reason")
        ]

    assert sorted(ends(out)) == sorted(ends(before))  # type: ignore[type-var]
    last = [e["usage"] for e in before if isinstance(e, dict) and e.get("usage")]
    if last:
        assert [e["usage"] for e in out if isinstance(e, dict) and e.get("usage")][-1] == last[-1]


def test_chunk_borders_make_no_difference(capture: tuple[str, bytes]) -> None:
    name, wire = capture
    whole, _ = guard(MASK, **of(name))
    expected = texts(run(whole, [wire]))
    for size in (1, 2, 3, 7, 64, 1000):
        made, _ = guard(MASK, **of(name))
        pieces = [wire[i : i + size] for i in range(0, len(wire), size)]
        assert texts(run(made, pieces)) == expected


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_border_anywhere_makes_a_difference(vectors: Path, data: st.DataObject) -> None:
    wire = (vectors / "sse" / "vllm-0.32.0-chat-pii.sse").read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=30)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    made, _ = guard(MASK)
    out = run(made, pieces)
    assert not any(secret in out for secret in SECRETS)
    assert "[EMAIL]" in texts(out)[0, "content"]


def test_personal_data_never_leaves_in_any_form(capture: tuple[str, bytes]) -> None:
    name, wire = capture
    if "pii" not in name and "n2" not in name:
        return
    for hold_back in (256, 300):
        made, _ = guard(MASK, hold_back=hold_back, **of(name))
        out = run(made, [wire[i : i + 40] for i in range(0, len(wire), 40)])
        for text in (out, *(t.encode() for t in texts(out).values())):
            assert not any(secret in text for secret in SECRETS)


def test_text_around_what_is_masked_is_kept() -> None:
    made, _ = guard(MASK)
    out = run(made, [content("Write to al", "ice@exam", "ple.com; card 4111 1111", " 1111 1111.")])
    assert texts(out)[0, "content"] == "Write to [EMAIL]; card [CARD]."
    assert made.record.outcome == "redact"
    assert made.record.obligations == {"redact": ("card", "email")}


def test_a_mask_leaves_whole_so_that_lengths_say_nothing() -> None:
    made, _ = guard(MASK)
    long = "x" * 400
    out = run(made, [content(long, " bob@example.org ", *long)])
    pieces = [
        c["delta"].get("content", "")
        for e in events(out)
        if isinstance(e, dict)
        for c in e["choices"]
    ]
    assert any("[EMAIL]" in piece for piece in pieces)


def test_an_escaped_address_is_seen_decoded() -> None:
    wire = content("PLACE").replace(b"PLACE", b"bob\\u0040example.org")
    made, _ = guard(MASK)
    assert texts(run(made, [wire]))[0, "content"] == "[EMAIL]"


def test_long_text_leaves_before_the_end_but_for_the_window() -> None:
    made, _ = guard(PROCEED, hold_back=64)
    early = made.feed(stream({"content": "word " * 400}, done=False))
    left = len(texts(early)[0, "content"])
    assert 1000 < left <= 2000 - 64


def test_in_buffer_mode_nothing_leaves_before_the_end() -> None:
    made, _ = guard(PROCEED, mode="buffer")
    assert texts(made.feed(stream({"content": "word " * 400}, done=False))) == {}
    assert len(texts(made.finish())[0, "content"]) == 2000


def test_in_observe_mode_everything_passes_and_is_recorded() -> None:
    made, _ = guard(always(Outcome.DENY), mode="observe")
    wire = content("bob@example.org")
    assert run(made, [wire[:100], wire[100:]]) == wire
    assert made.record.outcome == "deny"
    assert "observed_only" in made.record.reasons


def test_a_forbid_that_needs_no_text_denies_before_any_byte_leaves() -> None:
    made, _ = guard(always(Outcome.DENY))
    out = made.feed(content("hello")[:400])
    assert made.denied
    assert made.refusal is not None
    assert made.refusal.status == 403
    assert b"hello" not in out


def test_a_denial_mid_stream_ends_with_the_apis_error_event() -> None:
    made, _ = guard(when_found(Outcome.DENY), hold_back=32, detectors=frozenset({"email"}))
    out = made.feed(stream({"role": "assistant"}, {"content": "fine words " * 60}, done=False))
    assert texts(out)
    out = made.feed(stream({"content": "bob@example.org" + " and more" * 60}, done=False))
    assert made.denied
    error, done = events(out)[-2:]
    assert error["error"]["type"] == "policy_denied"
    assert error["error"]["decision_id"] == made.record.decision_id
    assert done == "[DONE]"
    assert b"bob@" not in out
    assert made.refusal is None
    assert not made.record.coverage.complete


def test_after_a_denial_nothing_more_leaves() -> None:
    made, _ = guard(always(Outcome.DENY))
    made.feed(content("hello"))
    assert made.feed(content("more")) == b""
    assert made.finish() == b""


def test_the_last_bytes_wait_for_finish() -> None:
    made, _ = guard(PROCEED)
    out = made.feed(content("hello"))
    assert b"[DONE]" not in out
    assert b'"stop"' not in out
    with pytest.raises(RuntimeError):
        _ = made.record
    assert b"[DONE]" in made.finish()
    assert made.record.coverage.complete


def test_text_and_end_in_one_event_stay_in_order() -> None:
    made, _ = guard(PROCEED, hold_back=32)
    wire = stream({"content": "a" * 100}, {"content": "b" * 100, "finish_reason": "stop"})
    out = run(made, [wire])
    assert texts(out)[0, "content"] == "a" * 100 + "b" * 100
    ends = [
        i
        for i, e in enumerate(events(out))
        if isinstance(e, dict) and e["choices"][0]["finish_reason"]
    ]
    assert ends == [len(events(out)) - 2]


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning", "refusal"])
def test_every_text_of_a_delta_is_guarded(field: str) -> None:
    made, _ = guard(MASK)
    wire = stream({field: "mail bob@exa"}, {field: "mple.org"}, {"finish_reason": "stop"})
    assert texts(run(made, [wire]))[0, field] == "mail [EMAIL]"


def test_arguments_of_tool_calls_are_guarded() -> None:
    made, _ = guard(MASK)
    first = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "send", "arguments": ""},
    }
    more = [
        {"index": 0, "function": {"arguments": part}} for part in ('{"to": "bob@ex', 'ample.org"}')
    ]
    wire = stream(
        {"tool_calls": [first]},
        *({"tool_calls": [part]} for part in more),
        {"finish_reason": "tool_calls"},
    )
    out = texts(run(made, [wire]))
    assert out[0, "tool_calls.0.arguments"] == '{"to": "[EMAIL]"}'
    assert out[0, "tool_calls.0.name"] == "send"


def test_choices_do_not_mix() -> None:
    made, _ = guard(MASK)
    one = stream({"content": "mail bob@exa"}, done=False)
    two = stream({"content": "just text "}, done=False, index=1)
    three = stream({"content": "mple.org"}, {"finish_reason": "stop"}, done=False)
    four = stream({"content": "and more"}, {"finish_reason": "stop"}, index=1)
    out = texts(run(made, [one, two, three, four]))
    assert out == {(0, "content"): "mail [EMAIL]", (1, "content"): "just text and more"}


def test_copies_of_tokens_never_pass(vectors: Path) -> None:
    wire = (vectors / "sse" / "vllm-0.32.0-chat-stream-n2-logprobs.sse").read_bytes()
    assert b'"token"' in wire
    made, _ = guard(PROCEED)
    assert b'"token"' not in run(made, [wire])


def test_keep_alive_comments_pass_without_their_text() -> None:
    made, _ = guard(PROCEED)
    assert made.feed(b": bob@example.org\n\n") == b": keep-alive\n\n"


@pytest.mark.parametrize(
    "wire",
    [
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"choices": "text"}\n\n',
        b'data: {"choices": [1]}\n\n',
        b'data: {"choices": [{"index": -1, "delta": {"content": "x"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "x", "p": [{"t": "y"}]}}]}\n\n',
        b'data: {"choices": [{"index": 0, "message": {"content": "x"}}]}\n\n',
        b"data: \xff\xfe\n\n",
        b"surprise: x\n\n",
        b"event: message_start\ndata: {}\n\n",
        b"data: [DONE]\n\ndata: {}\n\n",
    ],
)
def test_what_is_not_understood_is_denied(wire: bytes) -> None:
    made, _ = guard(PROCEED)
    made.feed(wire)
    assert made.denied
    assert made.record.reasons in (("malformed_stream",), ("unknown_field",))
    assert made.refusal is not None
    assert made.refusal.status == 503


def test_a_stream_cut_inside_an_event_is_denied() -> None:
    made, _ = guard(PROCEED)
    made.feed(content("hello")[:-3])
    made.finish()
    assert made.denied


def test_a_stream_that_ends_without_done_gives_what_it_held() -> None:
    made, _ = guard(PROCEED)
    out = run(made, [stream({"content": "half a sentence"}, done=False)])
    assert texts(out)[0, "content"] == "half a sentence"


def test_an_endless_event_is_refused() -> None:
    made, _ = guard(PROCEED)
    for _ in range(40):
        made.feed(b"data: " + b"x" * 40_000)
        if made.denied:
            return
    pytest.fail("an event without end was buffered")


def test_an_upstreams_error_event_is_guarded_text() -> None:
    made, _ = guard(MASK)
    wire = (
        b'data: {"error": {"message": "no bob@example.org here", "code": 500}}\n\ndata: [DONE]\n\n'
    )
    out = run(made, [wire])
    assert events(out)[0]["error"]["message"] == "no [EMAIL] here"


def test_a_client_that_goes_away_leaves_an_incomplete_record() -> None:
    made, _ = guard(PROCEED)
    made.feed(content("hello")[:300])
    made.aborted("client_gone")
    made.aborted("again")
    assert "aborted:client_gone" in made.record.reasons
    assert not made.record.coverage.complete


def test_the_policy_is_asked_when_something_new_is_known_and_not_for_each_token() -> None:
    made, engine = guard(MASK, hold_back=32)
    run(made, [content(*(["plain words "] * 300))])
    assert len(engine.asked) == 1
    made, engine = guard(MASK, hold_back=32)
    run(made, [content(*(["plain words "] * 50), "bob@example.org ", *(["plain "] * 200))])
    assert len(engine.asked) == 2


def test_coverage_counts_what_was_seen_and_released() -> None:
    made, _ = guard(MASK)
    run(made, [content("é bob@example.org")])
    coverage = made.record.coverage
    assert (coverage.seen, coverage.released) == (
        len("é bob@example.org".encode()),
        len("é [EMAIL]".encode()),
    )
    assert coverage.fields == 1
