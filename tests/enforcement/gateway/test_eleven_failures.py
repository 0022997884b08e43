"""How guards of model traffic have failed elsewhere, each as a test named after it.

Every one of these was seen in a product that was meant to prevent it: leaks on the routes and
fields that were forgotten, failures that let everything pass, records that said more than was done.
"""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from attestation.records import encode_record
from enforcement.admission import PolicyAdmission
from enforcement.apis.routes import ROUTES
from enforcement.detectors import DETECTORS
from enforcement.exchange import Exchange
from enforcement.http.limits import Limits
from enforcement.http.requests import RequestParser
from enforcement.identity.callers import Caller
from enforcement.outcome import Outcome
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.stream_guard import StreamGuard
from tests.enforcement import bundles
from tests.enforcement.exchanges import (
    always,
    chat_body,
    events,
    exchange,
    guard,
    route,
    run,
    texts,
    when_found,
)
from tests.enforcement.gateway.doors import (
    STREAM_HEAD,
    UpstreamSide,
    answering,
    chunk,
    event,
    house,
    http_reply,
    request,
)

MASK = when_found(Outcome.REDACT, *DETECTORS)
MASK_ALWAYS = always(Outcome.REDACT, *DETECTORS)
DENY = when_found(Outcome.DENY)
EMAIL = "bob@example.org"
LONG = "plain words that go on and on. " * 30


def json_reply(value: Any) -> bytes:
    return http_reply(json.dumps(value).encode())


# 1. A guard that is on one route, or on whole replies, and not on the others.


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/batch", "/invocations", "/tokenize", "/detokenize",
        "/generative_scoring", "/inference/v1/generate", "/v1/audio/transcriptions", "/v1/rerank",
        "/pooling", "/score",
        "/v1/chat/completions/", "/v1//chat/completions", "/v1/responses/resp_1/input_items",
        "/v1/engines/copilot-codex/completions", "/extras/tokenize", "/metrics",
    ],
)  # fmt: skip
async def test_failure_1_a_route_that_nobody_guards_is_refused(path: str) -> None:
    async with house(answering(json_reply({"text": EMAIL}))) as door:
        for method in ("POST", "GET"):
            reply = await door.ask(request(target=path, method=method))
            assert reply.status == 404
            assert reply.code == "unknown_route"
        assert door.upstream.seen == []


def test_failure_1_every_route_that_is_forwarded_has_a_table_for_both_directions() -> None:
    for each in ROUTES:
        assert each.refused is None
        assert each.reply is not None
        assert (each.request is None) == (each.method == "GET")


# 2. Text that stands elsewhere than in the first choice's content.

_CHAT: dict[str, Any] = {"index": 1, "message": {"role": "assistant", "content": "x"}}
_ELSEWHERE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"choices": [{"index": 0, "message": {}}, {
        **_CHAT, "message": {"content": EMAIL}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "message": {"reasoning": EMAIL}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "message": {"refusal": EMAIL}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "message": {"tool_calls": [
        {"function": {"name": "f", "arguments": json.dumps({"to": EMAIL})}}]}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "message": {"tool_calls": [
        {"function": {"name": "f", "arguments": '{"to": "bob\\u0040example.org"}'}}]}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "logprobs": {"content": [
        {"token": "bob@"}, {"token": "example"}, {"token": ".org"}]}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "logprobs": {"content": [
        {"token": "x", "bytes": list(EMAIL.encode())}]}}]}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "stop_reason": EMAIL}]}),
    ("/v1/chat/completions", {"choices": [_CHAT], "prompt_text": EMAIL}),
    ("/v1/chat/completions", {"choices": [{**_CHAT, "token_ids": list(EMAIL.encode())}]}),
    ("/v1/completions", {"choices": [{"index": 0, "text": "x"}, {"index": 1, "text": EMAIL}]}),
    ("/v1/responses", {"output": [{"type": "message", "content": [
        {"type": "output_text", "text": EMAIL}]}]}),
    ("/v1/responses", {"output": [{"type": "reasoning", "summary": [
        {"type": "summary_text", "text": EMAIL}]}]}),
    ("/v1/responses", {"output": [{"type": "function_call", "arguments": EMAIL}]}),
    ("/v1/responses", {"output": [], "instructions": EMAIL}),
    ("/v1/messages", {"content": [{"type": "text", "text": EMAIL}]}),
    ("/v1/messages", {"content": [{"type": "tool_use", "input": {"to": [EMAIL]}}]}),
    ("/v1/messages", {"content": [], "stop_sequence": EMAIL}),
    ("/v1/embeddings", {"data": [{"index": 0, "embedding": EMAIL}]}),
    ("/v1/models", {"data": [{"id": EMAIL}]}),
    ("/v1/chat/completions", {"error": {"message": f"no {EMAIL} here"}}),
    ("/v1/chat/completions", {"detail": [{"input": EMAIL}], "error": "x"}),
]  # fmt: skip


def asked(path: str, policy: Any = MASK, **kwargs: Any) -> Exchange:
    on = route(path, "GET" if path == "/v1/models" else "POST")
    made, _ = exchange(policy, on=on, **kwargs)
    body: dict[str, Any] = {"model": "m", "input": "x", "prompt": "x"}
    if path in ("/v1/chat/completions", "/v1/messages"):
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    if path == "/v1/completions":
        del body["input"]
    if path in ("/v1/responses", "/v1/embeddings"):
        del body["prompt"]
    ruling = made.request(b"" if path == "/v1/models" else json.dumps(body).encode())
    assert ruling.refusal is None, ruling.refusal
    return made


@pytest.mark.parametrize(("path", "value"), _ELSEWHERE)
def test_failure_2_text_outside_the_first_choices_content_is_guarded(
    path: str, value: dict[str, Any]
) -> None:
    ruling = asked(path).response(
        status=200, content_type="application/json", body=json.dumps(value).encode()
    )
    out = (ruling.forward_body or b"") + (ruling.refusal.body if ruling.refusal else b"")
    assert b"example" not in out
    assert b"98,111,98" not in out


# 3. What is looked for comes in pieces.


@pytest.mark.parametrize("size", [1, 3, 40, 10_000])
def test_failure_3_what_is_split_over_tokens_and_chunks_is_found(vectors: Path, size: int) -> None:
    for name in ("vllm-0.32.0-chat-pii.sse", "llama-cpp-python-0.3.36-chat-pii.sse"):
        wire = (vectors / "sse" / name).read_bytes()
        made, _ = guard(MASK)
        out = run(made, [wire[i : i + size] for i in range(0, len(wire), size)])
        text = texts(out)[0, "content"]
        assert "[EMAIL]" in text
        assert "[CARD]" in text
        assert b"alice" not in out
        assert b"4111" not in out


# 4. The text is masked, and copies, counts or lengths of it are not.


def stream_of(secret: str) -> bytes:
    words = f"{LONG}write to {secret} please. {LONG}"
    out = b""
    for number, start in enumerate(range(0, len(words), 4)):
        choice: dict[str, Any] = {"index": 0, "delta": {"content": words[start : start + 4]}}
        choice["logprobs"] = {"content": [{"token": words[start : start + 4], "logprob": -1}]}
        value = {"id": "c", "choices": [choice], "usage": {"completion_tokens": number}}
        out += b"data: " + json.dumps(value).encode() + b"\n\n"
    end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    total = {"id": "c", "choices": [], "usage": {"completion_tokens": 999}}
    closing: tuple[dict[str, Any], ...] = (end, total)
    for value in closing:
        out += b"data: " + json.dumps(value).encode() + b"\n\n"
    return out + b"data: [DONE]\n\n"


def shown(secret: str) -> list[tuple[str, Any]]:
    made, _ = guard(MASK)
    wire = stream_of(secret)
    out = events(run(made, [piece + b"\n\n" for piece in wire.split(b"\n\n") if piece]))
    return [
        (event["choices"][0]["delta"].get("content", ""), event.get("usage"))
        for event in out
        if isinstance(event, dict) and event["choices"]
    ] + [("", event["usage"]) for event in out if isinstance(event, dict) and not event["choices"]]


def test_failure_4_neither_lengths_nor_copies_nor_running_counts_tell_of_what_is_masked() -> None:
    short = shown("al@example.org")
    long = shown("alice.wonderland.of.the.long.name@mail.research.example.org")
    sizes = [len(text) for text, _ in short]
    assert sizes == [len(text) for text, _ in long]
    assert len(set(sizes[1:-2])) <= 3  # blocks of one size, but for the one that holds the mask
    masked = next(i for i, (text, _) in enumerate(long) if "[EMAIL]" in text)
    assert all(usage is None for _, usage in long[masked:-1])
    assert long[-1][1] == {"completion_tokens": 999}
    made, _ = guard(MASK)
    assert b'"token"' not in run(made, [stream_of("al@example.org")])


# 5. The guard and the server read one message differently.


async def test_failure_5_what_is_encoded_escaped_doubled_or_cut_is_read_as_it_will_be() -> None:
    async with house(policy=MASK_ALWAYS) as door:
        doubled = (
            b'{"model": "m", "messages": [{"content": "x", "content": "bob\\u0040example.org"}]}'
        )
        reply = await door.ask(request(doubled, headers=("Accept-Encoding: gzip, br",)))
        assert reply.status == 200
        seen = door.upstream.seen[-1]
        assert seen.values("accept-encoding") in ([], ["identity"])
        assert b"[EMAIL]" in seen.body
        assert b"example" not in seen.body
        assert seen.body.count(b'"content"') == 1
        cut = b'{"model": "m", "messages": [{"content": "bob@exa'
        assert (await door.ask(request(cut))).status == 400
        packed = request(gzip.compress(doubled), headers=("Content-Encoding: gzip",))
        assert (await door.ask(packed)).status == 415
        assert len(door.upstream.seen) == 1
    compressed = http_reply(headers=("Content-Type: application/json", "Content-Encoding: gzip"))
    async with house(answering(compressed)) as door:
        assert (await door.ask()).status == 502


# 6. Buffering takes the streaming away; monitoring gets in the way.


def test_failure_6_a_window_lets_text_go_on_and_observing_neither_holds_nor_fails() -> None:
    made, _ = guard(MASK)
    first = 0
    for number, piece in enumerate(stream_of(EMAIL).split(b"\n\n")):
        if texts(made.feed(piece + b"\n\n")):
            first = number
            break
    assert 0 < first < 100  # of some 500 events
    for wire in (stream_of(EMAIL), b"data: {broken\n\n", b"\xff\xfe\x00", b"data: [1]\n\n"):
        made, _ = guard(always(Outcome.DENY), mode="observe")
        for piece in (wire[:7], wire[7:20], wire[20:]):
            assert made.feed(piece) == piece
        assert made.finish() == b""
        assert not made.denied
        assert "observed_only" in made.record.reasons


# 7. Failing open.


def test_failure_7_an_error_of_any_kind_denies(tmp_path: Path) -> None:
    unguarded = (
        bundles.PERMIT + '@id("risk") forbid (principal, action, resource)\n'
        "when { context.claims.tokens + 9223372036854775807 > 5 };"
    )
    engine = bundles.engine(tmp_path, unguarded)
    assert engine.decide(bundles.ask()).outcome is Outcome.DENY
    assert engine.decide(bundles.ask(without=("tokens",))).outcome is Outcome.DENY


def test_failure_7_an_obligation_that_is_not_known_is_no_bundle(tmp_path: Path) -> None:
    strange = '@id("x") @obligation("notify") permit (principal, action, resource);'
    with pytest.raises(BundleError):
        Bundle.load(bundles.write(tmp_path, strange))


@pytest.mark.parametrize("end", [b"", b"data: {", b"data: \xff\n\n"])
def test_failure_7_a_stream_that_ends_badly_gives_nothing_that_was_held(end: bytes) -> None:
    made, _ = guard(MASK)
    wire = stream_of(EMAIL)[:-20] + end
    out = run(made, [wire])
    assert b"example" not in out
    assert made.denied or b"[EMAIL]" in out


# 8. A record that says "allowed" of what nobody looked at.


def test_failure_8_the_record_says_what_was_not_looked_at() -> None:
    made, _ = guard(always(Outcome.PROCEED), mode="observe")
    made.feed(stream_of(EMAIL)[:400] + b"data: {broken\n\n" + stream_of(EMAIL)[400:])
    made.finish()
    assert not made.record.coverage.complete
    assert any(reason.startswith("not_scanned:") for reason in made.record.reasons)

    picture = [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    blind, _ = exchange(always(Outcome.PROCEED))
    ruling = blind.request(chat_body(picture))
    assert ruling.refusal is not None  # no policy of this bundle could see a picture
    assert json.loads(ruling.refusal.body)["error"]["code"] == "content_not_supported"
    seeing, engine = exchange(always(Outcome.PROCEED), claims=frozenset({"has_image"}))
    record = seeing.request(chat_body(picture)).record
    assert engine.claims["has_image"] is True
    assert not record.coverage.complete
    assert "not_scanned:image" in record.reasons


def test_failure_8_what_was_held_when_a_stream_was_denied_was_not_released() -> None:
    for mode in ("window", "buffer"):
        made, _ = guard(DENY, mode=mode)
        left = made.feed(event(LONG))
        left += made.feed(event(f"more {EMAIL} ") + event(LONG))
        if not made.denied:
            made.finish()
        assert made.denied
        shown = "".join(texts(left).values())
        assert made.record.coverage.released == len(shown.encode())
        assert bool(shown) == (mode == "window")


def test_failure_8_a_stream_that_was_cut_is_not_complete() -> None:
    made, _ = guard(MASK)
    made.feed(stream_of(EMAIL)[:2000])
    made.aborted("client_gone")
    coverage = made.record.coverage
    assert not coverage.complete
    assert coverage.released < coverage.seen


# 9. A denial in the middle of a stream that the client takes for the end, or the engine ignores.


async def test_failure_9_a_denial_mid_stream_is_an_error_and_stops_the_engine() -> None:
    stopped = trio.Event()

    async def script(side: UpstreamSide) -> None:
        await side.next()
        await side.send(STREAM_HEAD)
        with suppress(OSError, trio.BrokenResourceError):
            for text in (LONG, LONG, f" write to {EMAIL} ", LONG, LONG):
                await side.send(chunk(event(text)))
                await trio.testing.wait_all_tasks_blocked()
            await side.closed()
        stopped.set()

    async with house(script, policy=DENY) as door:
        reply = await door.ask()
        *_, error, done = events(reply.body)
        assert error["error"]["type"] == "policy_denied"
        assert done == "[DONE]"
        assert not any(
            c.get("finish_reason") for e in events(reply.body)[:-2] for c in e["choices"]
        )
        with trio.fail_after(5):
            await stopped.wait()
        assert door.outcomes[-1] == ("response", "deny")


# 10. Decision logs that lose records, or hold prompts.


async def test_failure_10_no_record_no_reply_and_no_text_in_a_record() -> None:
    async with house(policy=MASK_ALWAYS) as door:
        await door.ask(request(chat_body(f"my words {EMAIL}")))
        for number, record in enumerate(door.journal.records):
            data = encode_record(
                record, agent="a", boot=bytes(16), seq=number, wall_ns=0, boot_ns=0
            )
            assert b"my words" not in data
            assert b"example" not in data
        door.journal.append_fails = True
        assert (await door.ask()).status == 503
    held = trio.Event()
    async with house() as door:  # a slow journal slows the replies: nothing is dropped
        door.journal.hold = held
        client = await door.connect()
        await client.send(request())
        await trio.testing.wait_all_tasks_blocked()
        assert client.buffer == b""
        held.set()
        assert (await client.reply()).status == 200
        assert len(door.journal.records) == 2


# 11. Another policy in the middle of an exchange.


def test_failure_11_a_reload_does_not_change_an_exchange_that_has_begun() -> None:
    made, _ = exchange(MASK)
    first = made._asked.snapshot
    second = replace(first, bundle=replace(first.bundle, digest=b"2" * 32))  # type: ignore[type-var]
    current = [first]
    admission = PolicyAdmission(
        snapshot=lambda: current[0],
        gate=lambda: None,  # type: ignore[arg-type, return-value]  # not asked here
        recorder=None,  # type: ignore[arg-type]  # not asked here
        identify=lambda *_: Caller(("User", "alice")),
        clock=lambda: 0,
    )
    head = RequestParser(Limits()).parse(request().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    begun = admission.begin(head)
    assert isinstance(begun, Exchange)
    ruling = begun.request(chat_body("x"))
    stream = begun.stream(status=200)
    assert isinstance(stream, StreamGuard)
    wire = stream_of(EMAIL)
    out = stream.feed(wire[:3000])
    current[0] = second
    out += stream.feed(wire[3000:]) + stream.finish()
    assert b"[EMAIL]" in out
    assert ruling.record.bundle[2] == stream.record.bundle[2] == first.bundle.digest
    after = admission.begin(head)
    assert isinstance(after, Exchange)
    assert after.request(chat_body("x")).record.bundle[2] == second.bundle.digest
