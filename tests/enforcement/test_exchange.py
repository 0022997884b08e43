"""One exchange: what goes on is what was decided on; what is not understood is refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from enforcement.bodies.reading import MAX_VALUES
from enforcement.exchange import Exchange, refuse_unknown_route
from enforcement.outcome import Outcome, Phase, Verdict
from enforcement.ruling import Ruling
from tests.enforcement.exchanges import (
    Engine,
    always,
    chat_body,
    exchange,
    route,
    when_found,
)

PROCEED = always(Outcome.PROCEED)
MASK = always(Outcome.REDACT, "email", "card")
SECRET = "bob@example.org"


def refusal(ruling: Ruling) -> tuple[int, dict[str, Any]]:
    assert ruling.refusal is not None
    assert ruling.forward_body is None
    assert ruling.record.outcome == "deny"
    error: dict[str, Any] = json.loads(ruling.refusal.body)["error"]
    return ruling.refusal.status, error


def reply(content: str, **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, **more}
    return json.dumps({"id": "chatcmpl-1", "model": "m", "choices": [choice]}).encode()


def answered(made: Exchange, body: bytes, content_type: str = "application/json") -> Ruling:
    return made.response(status=200, content_type=content_type, body=body)


# -- requests ------------------------------------------------------------------------------------


def test_what_goes_on_means_the_same_as_what_came() -> None:
    made, _ = exchange(PROCEED)
    body = chat_body('hé "quoted" \\ \u2028', temperature=0.5, n=2, seed=12345678901234567890)
    ruling = made.request(body)
    assert ruling.refusal is None
    assert ruling.forward_body is not None
    assert json.loads(ruling.forward_body) == json.loads(body)


def test_of_duplicate_keys_only_the_one_that_was_decided_on_goes_on() -> None:
    made, engine = exchange(PROCEED)
    message = b'{"role": "user", "content": "bob@example.org", "content": "x"}'
    body = b'{"model": "m", "messages": [' + message + b"]}"
    forward = made.request(body).forward_body
    assert forward is not None
    assert SECRET.encode() not in forward
    assert engine.claims["pii_found"] is False


def test_a_warning_is_told_in_a_header_of_the_reply() -> None:
    made, _ = exchange(always(Outcome.WARN))
    made.request(chat_body("hello"))
    headers = dict(answered(made, reply("fine")).headers)
    assert b"test" in headers[b"lucid-warning"]
    assert headers[b"lucid-decision-id"].startswith(b"dec-")
    assert headers[b"lucid-passport-id"] == b"pass-00"


def test_a_request_is_masked_everywhere_before_it_goes_on() -> None:
    made, _ = exchange(MASK)
    body = chat_body(
        SECRET,
        [{"type": "text", "text": f"part {SECRET}"}],
        stop=[SECRET],
        user=SECRET,
        tools=[{"type": "function", "function": {"name": "f", "description": SECRET}}],
        metadata={"note": SECRET},
        chat_template_kwargs={"deep": [{"er": SECRET}]},
    )
    ruling = made.request(body)
    assert ruling.forward_body is not None
    assert SECRET.encode() not in ruling.forward_body
    assert ruling.forward_body.count(b"[EMAIL]") == 7
    assert ruling.record.obligations == {"redact": ("card", "email")}


def test_a_name_that_cannot_be_masked_is_denied() -> None:
    made, _ = exchange(MASK)
    status, error = refusal(made.request(chat_body("x", metadata={SECRET: 1})))
    assert status == 403
    assert error["code"] == "redaction_incomplete"


def test_every_text_is_seen_by_the_detectors() -> None:
    places: list[dict[str, Any]] = [
        {"messages": [{"role": "system", "content": SECRET}]},
        {"messages": [{"role": "user", "content": "x", "name": SECRET}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": SECRET}}]}]},
        {"messages": [], "model": SECRET},
        {"messages": [], "response_format": {"type": "json_schema", "schema": {"title": SECRET}}},
        {"messages": [], "metadata": {SECRET: 1}},
        {"messages": [], "metadata": {"number": 4111111111111111}},
    ]  # fmt: skip
    for place in places:
        made, engine = exchange(PROCEED)
        made.request(json.dumps({"model": "m"} | place).encode())
        assert engine.claims["pii_found"] is True, place


def test_a_policys_denial_names_reasons_and_no_text() -> None:
    made, _ = exchange(always(Outcome.DENY))
    ruling = made.request(chat_body(f"my words {SECRET}"))
    status, error = refusal(ruling)
    assert (status, error["type"], error["code"]) == (403, "policy_denied", "test")
    assert error["decision_id"] == ruling.record.decision_id
    assert ruling.refusal is not None
    assert b"my words" not in ruling.refusal.body
    assert SECRET.encode() not in ruling.refusal.body


def test_a_policy_that_could_not_be_evaluated_is_unavailable() -> None:
    verdict = Verdict(
        outcome=Outcome.DENY, reasons=("claim_missing:injection_risk",), evaluated=False
    )
    made, _ = exchange(lambda _: verdict)
    ruling = made.request(chat_body("x"))
    status, error = refusal(ruling)
    assert (status, error["type"]) == (503, "policy_unavailable")
    assert ruling.refusal is not None
    assert dict(ruling.refusal.headers)[b"retry-after"] == b"1"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model": "m", "messages": []} x', "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b'"\\ud800"', "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (
            b'{"messages": [], "metadata": ' + b'[{"a":' * 70 + b"1" + b"}]" * 70 + b"}",
            "invalid_json",
        ),
        (b"[]", "invalid_request"),
        (b'{"model": 1, "messages": []}', "invalid_request"),
        (b'{"model": "m"}', "invalid_request"),
        (b'{"model": "m", "messages": ["x"]}', "invalid_request"),
        (b'{"model": "m", "messages": [{"content": 5}]}', "invalid_request"),
        (b'{"model": "m", "messages": [], "stream": "yes"}', "invalid_request"),
        (b'{"model": "m", "messages": [], "prompt_token_ids": [1]}', "token_ids_not_supported"),
        (
            b'{"model": "m", "messages": [{"content": [{"type": "image_url"}]}]}',
            "content_not_supported",
        ),
        (b'{"model": "m", "messages": [{"content": [7]}]}', "invalid_request"),
        (b'{"model": "m", "messages": [], "surprise": "x"}', "unknown_field"),
        (b'{"model": "m", "messages": [], "surprise": {"a": 1}}', "unknown_field"),
        (b'{"model": "m", "messages": [{"role": "user", "surprise": [1]}]}', "unknown_field"),
        (b'{"model": "m", "messages": [], "return_token_ids": true}', "token_ids_not_supported"),
        (b'{"model": "m", "messages": [], "chat_template": "x"}', "field_not_supported"),
        (b'{"model": "m", "messages": [], "tools": [{"type": "mcp"}]}', "tool_not_supported"),
        (b'{"model": "m", "messages": [{"audio": {"id": "x"}}]}', "content_not_supported"),
        # A model server would fetch what another has computed of texts that nobody saw here.
        (
            b'{"messages": [], "kv_transfer_params": {"do_remote_prefill": true}}',
            "stored_context_not_supported",
        ),
        (
            b'{"messages": [], "ec_transfer_params": {"a": {}}}',
            "stored_context_not_supported",
        ),
    ],
)
def test_what_is_not_understood_is_refused_and_recorded(body: bytes, code: str) -> None:
    made, engine = exchange(PROCEED)
    status, error = refusal(made.request(body))
    assert (status, error["code"]) == (400, code)
    assert engine.asked == []


MANY = MAX_VALUES + 1


@pytest.mark.parametrize(
    "inside",
    [
        b'"metadata": [' + b"0," * MANY + b"0]",
        b'"metadata": [' + b"[]," * MANY + b"0]",
        b'"metadata": [' + b'["a", "b", {"c": "d"}],' * (MANY // 3) + b"0]",
        b'"metadata": {' + b",".join(b'"%d": 0' % n for n in range(MANY)) + b"}",
        b'"stop": [' + b'"a",' * MANY + b'"b"]',
        b'"tools": [' + b'{"type": "custom"},' * MANY + b'{"type": "custom"}]',
        b",".join(b'"x%d": 0' % n for n in range(MANY)),
    ],
    ids=["numbers", "lists", "nested", "fields", "texts", "objects", "unknown fields"],
)
def test_a_body_of_too_many_values_does_not_hold_up_the_others(inside: bytes) -> None:
    made, engine = exchange(PROCEED)
    status, error = refusal(made.request(b'{"messages": [], ' + inside + b"}"))
    assert (status, error["code"]) == (400, "too_many_values")
    assert engine.asked == []


def test_nothing_of_what_clients_call_a_name_is_kept_for_long() -> None:
    def ask(text: str) -> None:
        made, _ = exchange(PROCEED)
        made.request(json.dumps({"model": text, "metadata": {text: 1}, "messages": []}).encode())

    ask("x" * 100_000)
    tracemalloc.start()
    for letter in "abcdefghij":
        ask(letter * 100_000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2]], [["x"]]])
def test_token_ids_as_prompt_are_refused(prompt: object) -> None:
    made, _ = exchange(PROCEED, on=route("/v1/completions"))
    status, error = refusal(made.request(json.dumps({"model": "m", "prompt": prompt}).encode()))
    assert (status, error["code"]) == (400, "token_ids_not_supported")


def test_nobody_known_is_refused() -> None:
    made, engine = exchange(PROCEED, principal=None)
    ruling = made.request(chat_body("x"))
    assert refusal(ruling)[0] == 401
    assert ruling.record.principal == ("User", "unknown")
    assert engine.asked == []


def test_anthropics_clients_get_anthropics_errors() -> None:
    made, _ = exchange(PROCEED, on=route("/v1/messages"))
    ruling = made.request(b"{}")
    assert ruling.refusal is not None
    body = json.loads(ruling.refusal.body)
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


def test_a_query_on_a_known_route_is_refused() -> None:
    made, _ = exchange(PROCEED, on=route("/v1/chat/completions?api-version=1"))
    assert refusal(made.request(chat_body("x")))[1]["code"] == "query_not_supported"


def test_an_unknown_route_is_refused_and_its_path_not_kept() -> None:
    _, engine = exchange(PROCEED)
    made, _ = exchange(PROCEED)
    snapshot = made._asked.snapshot
    ruling = refuse_unknown_route(
        snapshot=snapshot,
        target="/invocations/bob@example.org",
        principal=("User", "alice"),
        trace_id="0" * 32,
        request_id="r",
        clock=lambda: 0,
    )
    status, error = refusal(ruling)
    assert (status, error["code"]) == (404, "unknown_route")
    assert SECRET not in repr(ruling)
    assert isinstance(engine, Engine)


def test_the_record_holds_digests_and_never_text() -> None:
    made, _ = exchange(PROCEED)
    ruling = made.request(chat_body("my words", SECRET))
    assert "my words" not in repr(ruling.record)
    assert SECRET not in repr(ruling.record)
    assert [t.size for t in ruling.record.texts] == [8, len(SECRET)]
    other, _ = exchange(PROCEED)
    assert other.request(chat_body("my words")).record.texts[0] == ruling.record.texts[0]


def test_many_texts_share_a_digest_so_that_a_record_stays_small() -> None:
    made, _ = exchange(PROCEED)
    record = made.request(chat_body(*(f"text {n}" for n in range(500)))).record
    assert len(record.texts) == 64
    assert sum(t.size for t in record.texts) == sum(len(f"text {n}") for n in range(500))


def test_a_model_name_is_kept_short_and_printable() -> None:
    made, _ = exchange(PROCEED)
    record = made.request(chat_body("x", model="\x1b[31m" + "m" * 500)).record
    assert len(record.model) == 128
    assert record.model.isprintable()


def test_the_models_route_takes_no_body() -> None:
    made, engine = exchange(PROCEED, on=route("/v1/models", "GET"))
    ruling = made.request(b"")
    assert ruling.forward_body is None
    assert ruling.refusal is None
    assert engine.asked[0].claims["pii_found"] is False
    made, _ = exchange(PROCEED, on=route("/v1/models", "GET"))
    assert refusal(made.request(b"x"))[0] == 400


# -- replies -------------------------------------------------------------------------------------


def test_a_reply_is_masked_and_its_token_copies_are_dropped() -> None:
    made, _ = exchange(when_found(Outcome.REDACT, "email"))
    made.request(chat_body("x"))
    body = reply(f"write to {SECRET}", logprobs={"content": [{"token": "bob"}]})
    forward = answered(made, body).forward_body
    assert forward is not None
    choice = json.loads(forward)["choices"][0]
    assert choice["message"]["content"] == "write to [EMAIL]"
    assert choice["logprobs"] is None


def test_a_reply_that_is_not_edited_keeps_its_logprobs() -> None:
    made, _ = exchange(PROCEED)
    made.request(chat_body("x"))
    body = reply("hello", logprobs={"content": [{"token": "hello"}]})
    forward = answered(made, body).forward_body
    assert forward is not None
    assert json.loads(forward) == json.loads(body)


@pytest.mark.parametrize("place", ["reasoning_content", "refusal", "annotations"])
def test_every_text_of_a_reply_is_guarded(place: str) -> None:
    made, _ = exchange(when_found(Outcome.REDACT, "email"))
    made.request(chat_body("x"))
    value = [{"note": SECRET}] if place == "annotations" else SECRET
    body = json.dumps({"choices": [{"message": {"content": "x", place: value}}]}).encode()
    forward = answered(made, body).forward_body
    assert forward is not None
    assert SECRET.encode() not in forward


def test_a_field_that_is_not_known_does_not_pass_unless_it_holds_no_text() -> None:
    made, _ = exchange(PROCEED)
    made.request(chat_body("x"))
    for text in ("text", ["x"], {"a": 1}):
        body = json.dumps({"choices": [{"message": {"content": "x", "new": text}}]}).encode()
        status, error = refusal(answered(made, body))
        assert (status, error["code"]) == (502, "upstream_malformed")
        assert "choices[0].message.new" in error["message"]
    anything: list[Any] = [None, 1.5, 7, True, "", [], {}]
    for harmless in anything:
        body = json.dumps({"choices": [{"message": {"content": "x", "new": harmless}}]}).encode()
        assert answered(made, body).forward_body is not None


def test_an_error_body_of_the_model_server_is_guarded() -> None:
    made, _ = exchange(when_found(Outcome.REDACT, "email"))
    made.request(chat_body("x"))
    ruling = made.response(
        status=500, content_type="text/plain; charset=utf-8", body=f"no {SECRET}".encode()
    )
    assert ruling.forward_body == b"no [EMAIL]"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"\xff\xff"),
        ("text/plain", b"\xff\xff"),
        ("application/octet-stream", b"x"),
        ("", b"x"),
        ("image/png", b"x"),
    ],
)
def test_a_reply_that_cannot_be_read_does_not_pass(content_type: str, body: bytes) -> None:
    made, _ = exchange(PROCEED)
    made.request(chat_body("x"))
    ruling = answered(made, body, content_type)
    status, error = refusal(ruling)
    assert (status, error["code"]) == (502, "upstream_malformed")


def test_a_denied_reply_shows_nothing_of_it() -> None:
    made, _ = exchange(when_found(Outcome.DENY))
    made.request(chat_body("x"))
    ruling = answered(made, reply(f"secret words {SECRET}"))
    assert ruling.refusal is not None
    assert b"secret words" not in ruling.refusal.body
    assert ruling.record.coverage.released == 0
    assert ruling.record.phase == Phase.RESPONSE


def test_an_upstream_that_fails_is_recorded_as_a_denied_response() -> None:
    made, _ = exchange(PROCEED)
    made.request(chat_body("x"))
    ruling = made.upstream_failed("connect", "the model server is down", status=502)
    status, error = refusal(ruling)
    assert (status, error["type"], error["code"]) == (502, "upstream_error", "connect")
    assert ruling.record.reasons == ("upstream:connect",)
    assert not ruling.record.coverage.complete


def test_both_decisions_of_an_exchange_name_the_same_snapshot_and_request() -> None:
    made, _ = exchange(PROCEED)
    first = made.request(chat_body("x")).record
    second = answered(made, reply("y")).record
    assert first.request_id == second.request_id
    assert first.bundle == second.bundle
    assert first.decision_id != second.decision_id
    assert (first.phase, second.phase) == ("request", "response")
