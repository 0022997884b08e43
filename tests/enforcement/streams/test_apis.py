"""Streams of every API: held text leaves in order, ends are the API's own, memory is bounded."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcement.bodies.json_escapes import Places, Unescaper, unescape
from enforcement.detectors import DETECTORS
from enforcement.outcome import Outcome
from enforcement.stream_guard import StreamGuard
from tests.enforcement.exchanges import always, guard, route, run, when_found
from tests.leaks import streams
from tests.leaks.secrets import Secret

PROCEED = always(Outcome.PROCEED)
MASK = when_found(Outcome.REDACT, *DETECTORS)
DENY = when_found(Outcome.DENY)
EMAIL = "bob@example.org"
LONG = "plain words that go on and on. " * 30


def opened(path: str, policy: Any = MASK, **kwargs: Any) -> StreamGuard:
    made, _ = guard(policy, on=route(path), **kwargs)
    return made


def named(*values: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode())
        for value in values
    )


def values(wire: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Names and JSON of a stream's events."""
    out = []
    for block in wire.decode().split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            out.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return out


def block(text: str, index: int = 0, kind: str = "text") -> dict[str, Any]:
    key = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}[kind]
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": f"{kind}_delta", key: text},
    }


def message(*inner: dict[str, Any], end: bool = True) -> bytes:
    start = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
    last = (
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"n": 1}},
        {"type": "message_stop"},
    )
    return named({"type": "message_start", "message": start}, *inner, *(last if end else ()))


# -- Messages -------------------------------------------------------------------------------------


def begin(index: int, **what: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": what}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def test_blocks_of_a_message_end_before_the_next_begins() -> None:
    signature = {"type": "signature_delta", "signature": "QUJD"}
    wire = message(
        begin(0, type="thinking", thinking=""),
        block("I think of bob@exa", 0, "thinking"),
        block("mple.org", 0, "thinking"),
        {"type": "content_block_delta", "index": 0, "delta": signature},
        stop(0),
        begin(1, type="text", text=""),
        {"type": "ping"},
        block(f"write to {EMAIL}", 1),
        stop(1),
        begin(2, type="tool_use", id="t", name="send", input={}),
        block('{"to": "bob\\u00', 2, "input_json"),
        block('40example.org"}', 2, "input_json"),
        stop(2),
    )
    out = values(run(opened("/v1/messages"), [wire]))
    assert [name for name, _ in out] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "content_block_start", "ping", "content_block_delta",
        "content_block_stop", "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert out[2][1]["delta"]["thinking"] == "I think of [EMAIL]"
    assert out[3][1]["delta"]["signature"] == "QUJD"
    assert out[7][1]["delta"]["text"] == "write to [EMAIL]"
    assert out[10][1]["delta"]["partial_json"] == '{"to": "[EMAIL]"}'
    assert out[12][1]["usage"] == {"n": 1}


def test_the_last_block_of_a_message_waits_for_the_record() -> None:
    made = opened("/v1/messages")
    early = made.feed(message(begin(0, type="text", text=""), block("short"), stop(0)))
    assert [name for name, _ in values(early)] == ["message_start", "content_block_start"]
    assert [name for name, _ in values(made.finish())][-1] == "message_stop"


def test_a_message_denied_mid_stream_ends_with_anthropics_error_event() -> None:
    made = opened("/v1/messages", DENY)
    out = made.feed(message(begin(0, type="text", text=""), block(LONG), end=False))
    out += made.feed(named(block(f" {EMAIL} "), block(LONG)))
    assert made.denied
    name, error = values(out)[-1]
    assert (name, error["type"]) == ("error", "error")
    assert error["error"]["decision_id"] == made.record.decision_id
    assert b"[DONE]" not in out
    assert b"example" not in out


# -- Responses ------------------------------------------------------------------------------------


def response(*inner: dict[str, Any], text: str = "") -> bytes:
    where = {"item_id": "i", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "i", "role": "assistant", "content": [part]}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *({**each, **where} for each in inner),
        {"type": "response.output_text.done", **where, "text": text},
        {"type": "response.content_part.done", **where, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "r", "output": [item]}},
    ]
    return named(*({**each, "sequence_number": n} for n, each in enumerate(events)))


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text, "logprobs": [], "obfuscation": "x"}


def test_a_responses_repetitions_are_masked_as_its_text_and_numbers_have_no_gap() -> None:
    text = f"{LONG} write to {EMAIL} please"
    pieces = [delta(text[i : i + 5]) for i in range(0, len(text), 5)]
    out = values(run(opened("/v1/responses"), [response(*pieces, text=text)]))
    assert [value["sequence_number"] for _, value in out] == list(range(len(out)))
    masked = text.replace(EMAIL, "[EMAIL]")
    said = [value["delta"] for name, value in out if name == "response.output_text.delta"]
    assert "".join(said) == masked
    assert 3 < len(said) < len(pieces)
    by_name = dict(out)
    assert by_name["response.output_text.done"]["text"] == masked
    assert by_name["response.content_part.done"]["part"]["text"] == masked
    assert by_name["response.completed"]["response"]["output"][0]["content"][0]["text"] == masked
    assert not any("obfuscation" in value and value["obfuscation"] for _, value in out)
    assert [name for name, _ in out][-1] == "response.completed"


def test_a_response_denied_mid_stream_ends_with_an_error_on_which_clients_raise() -> None:
    made = opened("/v1/responses", DENY)
    text = LONG + EMAIL + LONG
    out = made.feed(response(*(delta(text[i : i + 5]) for i in range(0, len(text), 5)), text=text))
    assert made.denied
    name, error = values(out)[-1]
    assert (name, error["type"], error["code"]) == ("error", "error", "found")
    assert error["error"]["decision_id"] == made.record.decision_id
    assert b"example" not in out


def test_more_text_of_an_output_that_came_whole_is_not_taken() -> None:
    item = {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}
    more = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "x"}
    made = opened("/v1/responses")
    made.feed(named({"type": "response.output_item.added", "output_index": 0, "item": item}, more))
    assert made.denied


@pytest.mark.parametrize(
    "begun",
    [
        begin(0, type="text", text="write to bob@exa"),
        begin(0, type="thinking", thinking="write to bob@exa"),
        begin(0, type="tool_use", id="t", name="send", input={"to": "bob@exa"}),
        {"type": "message_start", "message": {"content": [{"type": "text", "text": "bob@exa"}]}},
    ],
)
@pytest.mark.parametrize("kind", ["text", "thinking", "input_json"])
def test_more_text_of_a_block_that_came_with_text_is_not_taken(
    begun: dict[str, Any], kind: str
) -> None:
    """Clients join them; nothing here has looked at the two together."""
    made = opened("/v1/messages")
    out = made.feed(named(begun, block("mple.org", kind=kind)))
    assert made.denied
    assert b"mple.org" not in out + (made.refusal.body if made.refusal else b"")


@pytest.mark.parametrize(
    "deltas",
    [
        [{"tool_calls": [{"function": {"name": "4111"}}]}] * 2
        + [{"tool_calls": [{"function": {"name": "1111"}}]}],
        [{"tool_calls": [{"function": {"name": "4"}}, {"index": 0, "function": {"name": "1"}}]}],
        [{"tool_calls": [{"custom": {"name": "4"}}]}, {"tool_calls": [{"custom": {"name": "1"}}]}],
        [{"function_call": {"name": "4111"}}, {"function_call": {"name": "1111"}}],
        [{"role": "4111"}, {"role": "1111", "content": "x"}],
    ],
)  # fmt: skip
def test_a_name_that_comes_in_pieces_is_not_taken(deltas: list[dict[str, Any]]) -> None:
    """Clients join the strings of all deltas; of names nothing is held back."""
    made = opened("/v1/chat/completions")
    for delta in deltas:
        assert not made.denied
        choice = {"index": 0, "delta": delta}
        made.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert made.denied


def test_of_many_ids_of_a_call_the_first_goes_on() -> None:
    made = opened("/v1/chat/completions")
    wire = b""
    for number in range(3):
        function = {"name": "f", "arguments": "x" * 900}
        call = {"index": 0, "id": f"call-{number}", "function": function}
        choice = {"index": 0, "delta": {"tool_calls": [call]}}
        wire += made.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert b"call-0" in wire
    assert b"call-1" not in wire
    assert not made.denied


# -- what no API has ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/v1/messages", {"type": "new_event", "text": EMAIL}),
        ("/v1/messages", {"type": "content_block_delta", "index": 0, "delta": {"type": "new"}}),
        ("/v1/messages", {"type": "content_block_start", "index": 0,
                          "content_block": {"type": "redacted_thinking", "data": "x"}}),
        ("/v1/messages", {"type": "content_block_delta", "index": -1,
                          "delta": {"type": "text_delta", "text": "x"}}),
        ("/v1/responses", {"type": "response.new", "text": EMAIL}),
        ("/v1/responses", {"type": "response.output_item.added", "output_index": 0,
                           "item": {"type": "web_search_call", "id": "x"}}),
        ("/v1/responses", {"type": "response.audio.delta", "delta": "AAAA"}),
        ("/v1/responses", {"type": "response.output_text.delta", "delta": 5}),
    ],
)  # fmt: skip
def test_events_that_are_not_known_end_the_stream(path: str, event: dict[str, Any]) -> None:
    made = opened(path, PROCEED)
    out = made.feed(named(event))
    assert made.denied
    assert EMAIL.encode() not in out


def test_a_route_without_streams_takes_none() -> None:
    made = opened("/v1/embeddings", PROCEED)
    made.feed(b'data: {"text": "x"}\n\n')
    assert made.denied


def test_an_event_under_another_name_than_its_own_is_refused() -> None:
    made = opened("/v1/messages", PROCEED)
    made.feed(b'event: ping\ndata: {"type": "message_stop"}\n\n')
    assert made.denied


# -- halves of characters -------------------------------------------------------------------------


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def test_a_character_split_over_two_events_arrives_whole() -> None:
    wire = chunk("smile \ud83d") + chunk("\ude00 and \ud83d") + chunk("x") + b"data: [DONE]\n\n"
    out = streams.read(run(opened("/v1/chat/completions"), [wire]))
    assert out == {(0, "content"): "smile 😀 and \ufffdx"}


@given(st.text(max_size=30), st.lists(st.integers(0, 200), max_size=8), st.integers(0, 2**32))
def test_escapes_are_resolved_the_same_however_they_are_cut(
    text: str, cuts: list[int], seed: int
) -> None:
    rng = Random(seed)
    written = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 0x10000 and rng.random() < 0.5 else json.dumps(c)[1:-1]
        for c in text
    )
    whole = unescape(written)
    assert json.loads(f'"{whole}"', strict=False) == json.loads(f'"{written}"')
    assert unescape(whole) == whole
    unescaper = Unescaper()
    places = sorted({0, len(written), *(cut for cut in cuts if cut < len(written))})
    pieces = [unescaper.add(written[a:b]) for a, b in pairwise(places)]
    assert "".join(pieces) + unescaper.add("", last=True) == whole


# -- bounds ---------------------------------------------------------------------------------------


@given(pieces=st.lists(st.text(st.sampled_from('\\\\u0041deDC8"/nx😀'), max_size=9), max_size=9))
def test_every_character_that_escapes_mean_has_its_place(pieces: list[str]) -> None:
    """Whatever is cut out by places in the text stands for what is cut out of its meaning."""
    places, text = Places(), ""
    for piece in pieces:
        places.add(piece)
        text += piece
        assert places.plain == unescape(text)
    whole = [places.place(offset) for offset in range(len(places.plain) + 1)]
    assert (whole[0], whole[-1]) == (0, len(text))
    for offset, (start, end) in enumerate(pairwise(whole)):
        character = places.plain[offset]
        assert text[start:end] == character or unescape(text[start:end]) == character


def test_an_endless_text_is_held_by_no_more_than_its_window() -> None:
    made = opened("/v1/chat/completions", hold_back=256)
    for _ in range(20_000):
        made.feed(chunk("words "))
    editor = made._editor
    assert sum(window.waiting for window in editor._windows.values()) < 1000
    assert editor.tail == b""
    assert not made.denied


@pytest.mark.parametrize("text", ["a@" + "b" * 5000, "sk-" + "A1b2C3d4" * 1000, "1 " * 5000])
def test_an_endless_candidate_for_a_match_does_not_grow_without_end(text: str) -> None:
    made = opened("/v1/chat/completions", hold_back=256)
    for _ in range(40):
        made.feed(chunk(text))
        if made.denied:
            break
    held = sum(window.waiting for window in made._editor._windows.values())
    assert held < 100_000


def test_endless_events_after_the_end_are_refused() -> None:
    made = opened("/v1/chat/completions", PROCEED)
    end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    made.feed(chunk("x") + b"data: " + json.dumps(end).encode() + b"\n\n")
    usage = b'data: {"id": "c", "choices": [], "usage": {"n": [%s]}}\n\n' % (b"1," * 9000 + b"1")
    for _ in range(400):
        made.feed(usage)
        if made.denied:
            break
    assert made.record.reasons == ("stream_too_large",)


def test_endless_new_texts_are_refused() -> None:
    made = opened("/v1/chat/completions", PROCEED)
    for index in range(1000):
        choice = {"index": index, "delta": {"content": "x"}}
        made.feed(b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n")
        if made.denied:
            break
    assert made.denied
    assert index < 300


def test_an_endless_reply_in_buffer_mode_is_refused() -> None:
    made = opened("/v1/chat/completions", PROCEED, mode="buffer")
    for _ in range(200):
        made.feed(chunk("word " * 10_000))
        if made.denied:
            break
    assert made.record.reasons == ("stream_too_large",)


def test_a_storm_of_comments_is_one_keep_alive_for_each_piece() -> None:
    made = opened("/v1/chat/completions", PROCEED)
    assert made.feed(b": x\n" * 10_000) == b": keep-alive\n\n"


def test_a_secret_over_the_end_of_one_stream_of_many_is_found() -> None:
    """The generator of the leak hunt, once for each API, in the default suite."""
    secret = Secret("email", "gkwqvt@mrtzkpq.net")
    for seed in range(30):
        rng = Random(seed)
        for path, script in (
            ("/v1/chat/completions", streams.chat(rng, secret, completion=False)),
            ("/v1/completions", streams.chat(rng, secret, completion=True)),
            ("/v1/responses", streams.responses(rng, secret)),
            ("/v1/messages", streams.messages(rng, secret)),
        ):
            made = opened(path)
            out = run(made, streams.cut(streams.wire(script, rng), rng))
            assert not made.denied, made.record.reasons
            assert b"gkwqvt" not in out
            assert "[EMAIL]" in "".join(streams.read(out).values()) + out.decode()
