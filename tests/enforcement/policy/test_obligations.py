"""Obligations: the strictest of all that decided, done on the request, or a denial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcement.outcome import Outcome, Platform, Verdict
from enforcement.policy.obligations import (
    NONE,
    ObligationError,
    Obligations,
    Rate,
    cap_tokens,
    read_max_tokens,
    read_rate,
    together,
)
from enforcement.policy.rates import RateLimiter
from enforcement.ruling import Ruling
from tests.enforcement.bundles import PERMIT, ask, engine, problems, write
from tests.enforcement.exchanges import chat_body, exchange, route

MINUTE = Rate("p", 3, 60.0)
ON_HARDWARE = '@id("on-hardware") @require_hardware permit (principal, action, resource);'
ALICE, BOB = ("User", "alice"), ("User", "bob")


def obliging(obliges: Obligations, outcome: Outcome = Outcome.PROCEED) -> Any:
    return lambda _: Verdict(outcome=outcome, reasons=("p",), obliges=obliges)


# -- in a bundle ----------------------------------------------------------------------------------


def test_what_decided_obliges_together_to_the_strictest(tmp_path: Path) -> None:
    decides = engine(
        tmp_path,
        """
        @id("a") @max_tokens("100") @rate("10/minute") permit (principal, action, resource);
        @id("b") @max_tokens("50") @rate("1/second") permit (principal, action, resource);
        @id("c") @max_tokens("1") permit (principal == Lucid::User::"bob", action, resource);
        @id("w") @decision("warn") @max_tokens("70") @require_hardware
        forbid (principal, action, resource) when { context.claims.tokens > 100 };
        """,
    )
    verdict = decides.decide(ask())
    assert verdict.outcome is Outcome.PROCEED
    assert verdict.obliges == Obligations(
        max_tokens=50, rates=(Rate("a", 10, 60.0), Rate("b", 1, 1.0))
    )
    assert decides.decide(ask(principal=BOB)).obliges.max_tokens == 1
    warned = decides.decide(ask(claims={"tokens": 101}))
    assert warned.outcome is Outcome.WARN
    assert warned.obliges.max_tokens == 50
    assert warned.obliges.require_hardware
    denied = decides.decide(ask(without=("tokens",)))
    assert denied.outcome is Outcome.DENY
    assert denied.obliges == NONE


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ('@max_tokens("0")', "whole number from 1"),
        ('@max_tokens("-1")', "whole number from 1"),
        ('@max_tokens("1.5")', "whole number from 1"),
        ('@max_tokens("")', "whole number from 1"),
        ('@max_tokens("99999999999")', "whole number from 1"),
        ('@rate("10")', "NUMBER/UNIT"),
        ('@rate("0/minute")', "NUMBER/UNIT"),
        ('@rate("10/fortnight")', "NUMBER/UNIT"),
        ('@rate("10 / minute")', "NUMBER/UNIT"),
        ('@rate("1000001/day")', "NUMBER/UNIT"),
        ('@require_hardware("false")', "takes no value"),
        ('@max_token("10")', "unknown annotation @max_token"),
        ('@require_approval("boss")', "unknown annotation"),
        ('@phase("response") @rate("1/day")', "not asked about one"),
        ('@phase("response") @max_tokens("1")', "not asked about one"),
    ],
)
def test_an_obligation_that_is_not_understood_is_refused_at_load(
    tmp_path: Path, annotation: str, words: str
) -> None:
    text = f'@id("x") {annotation} permit (principal, action, resource);'
    assert words in " ".join(map(str, problems(write(tmp_path, text))))


def test_a_denial_obliges_to_nothing(tmp_path: Path) -> None:
    text = PERMIT + '@id("x") @rate("1/day") forbid (principal, action, resource);'
    assert "means nothing" in " ".join(map(str, problems(write(tmp_path, text))))


@given(
    st.lists(
        st.builds(
            Obligations,
            max_tokens=st.none() | st.integers(1, 9),
            require_hardware=st.booleans(),
            rates=st.lists(st.builds(Rate, st.sampled_from("ab"), st.integers(1, 3), st.just(60.0)),
                           max_size=2).map(tuple),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_together_is_never_milder_than_one_of_them(each: list[Obligations]) -> None:
    whole = together(each)
    for one in each:
        if one.max_tokens is not None:
            assert whole.max_tokens is not None
            assert whole.max_tokens <= one.max_tokens
        assert set(one.rates) <= set(whole.rates)
        assert whole.require_hardware or not one.require_hardware


def test_values_are_read() -> None:
    assert read_max_tokens("512") == 512
    assert read_rate("10/hour", "p") == Rate("p", 10, 3600.0)
    assert str(read_rate("10/hour", "p")) == "10/hour"


# -- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "after"),
    [
        ("chat.completions", {}, {"max_tokens": 10}),
        ("chat.completions", {"max_tokens": 5}, {"max_tokens": 5}),
        ("chat.completions", {"max_tokens": 11}, {"max_tokens": 10}),
        ("chat.completions", {"max_completion_tokens": 99}, {"max_completion_tokens": 10}),
        (
            "chat.completions",
            {"max_tokens": 1, "max_completion_tokens": 99},
            {"max_tokens": 1, "max_completion_tokens": 10},
        ),
        ("completions", {"max_tokens": None}, {"max_tokens": 10}),
        ("completions", {"max_tokens": -1}, {"max_tokens": 10}),
        ("completions", {"max_tokens": 0}, {"max_tokens": 10}),
        ("completions", {"max_tokens": True}, {"max_tokens": 10}),
        ("completions", {"max_tokens": "1000"}, {"max_tokens": 10}),
        ("completions", {"max_tokens": 1e9}, {"max_tokens": 10}),
        ("responses", {"max_tokens": 3}, {"max_tokens": 3, "max_output_tokens": 10}),
        ("messages", {"max_tokens": 10**30}, {"max_tokens": 10}),
        # llama.cpp takes these on every route, before `max_tokens`.
        ("chat.completions", {"n_predict": 99}, {"n_predict": 10, "max_tokens": 10}),
        (
            "completions",
            {"max_tokens": 5, "max_completion_tokens": 99, "n_predict": -1},
            {"max_tokens": 5, "max_completion_tokens": 10, "n_predict": 10},
        ),
        ("messages", {"max_tokens": 5, "n_predict": 3}, {"max_tokens": 5, "n_predict": 3}),
        ("responses", {"max_tokens": 99}, {"max_tokens": 10, "max_output_tokens": 10}),
        ("chat.completions", {"max_new_tokens": 99}, {"max_new_tokens": 10, "max_tokens": 10}),
        ("chat.completions", {"num_predict": 99}, {"num_predict": 10, "max_tokens": 10}),
        ("embeddings", {}, {}),
    ],
)
def test_what_the_model_may_write_is_lowered(
    name: str, body: dict[str, Any], after: dict[str, Any]
) -> None:
    cap_tokens(name, body, 10)
    assert body == after


def test_a_route_of_which_nothing_is_known_cannot_be_capped() -> None:
    with pytest.raises(ObligationError, match="max_tokens_unsupported"):
        cap_tokens("batch", {}, 10)


def test_the_model_server_gets_the_lowered_number_and_the_record_says_so() -> None:
    made, _ = exchange(obliging(Obligations(max_tokens=10)))
    ruling = made.request(chat_body("x", max_tokens=4000))
    assert ruling.forward_body is not None
    assert json.loads(ruling.forward_body)["max_tokens"] == 10
    assert ruling.record.obligations == {"max_tokens": ("10",)}


def test_a_request_without_a_body_has_nothing_to_lower() -> None:
    made, _ = exchange(obliging(Obligations(max_tokens=10)), on=route("/v1/models", "GET"))
    assert made.request(b"").refusal is None


# -- hardware -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attested", "simulated", "outcome"),
    [
        (True, False, Outcome.PROCEED),
        (True, True, Outcome.DENY),
        (False, True, Outcome.DENY),
        (False, False, Outcome.DENY),
    ],
)
def test_required_hardware_must_be_attested_and_real(
    tmp_path: Path, attested: bool, simulated: bool, outcome: Outcome
) -> None:
    platform = Platform(
        tee_type="x", hardware_attested=attested, tcb_status="", simulated=simulated
    )
    decides = engine(tmp_path, ON_HARDWARE)
    for _ in range(2):  # the second time from memory
        assert decides.decide(ask()).outcome is Outcome.PROCEED
        assert decides.decide(ask(platform=platform)).outcome is outcome


def test_on_a_simulated_tee_what_requires_hardware_is_refused_in_both_phases(
    tmp_path: Path,
) -> None:
    made, _ = exchange(engine(tmp_path, ON_HARDWARE).decide)
    ruling = made.request(chat_body("x"))
    assert ruling.record.reasons == ("hardware_required",)
    assert ruling.refusal is not None
    assert ruling.refusal.status == 403
    reply = made.response(status=200, content_type="application/json", body=b'{"choices": []}')
    assert reply.record.reasons == ("hardware_required",)


# -- rates ----------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_neither_gives_nor_takes() -> None:
    limiter = RateLimiter()
    for now in (100.0, 0.0, -1e9):
        assert limiter.take(ALICE, (MINUTE,), now) is None
    assert limiter.take(ALICE, (MINUTE,), 100.0) == (MINUTE, 20.0)
    assert limiter.take(ALICE, (MINUTE,), 0.0) == (MINUTE, 20.0)
    assert limiter.take(ALICE, (MINUTE,), 119.0) is not None
    assert limiter.take(ALICE, (MINUTE,), 121.0) is None


def test_a_rate_lets_so_many_through_and_then_one_by_one() -> None:
    limiter = RateLimiter()
    assert [limiter.take(ALICE, (MINUTE,), 0.0) for _ in range(3)] == [None] * 3
    assert limiter.take(ALICE, (MINUTE,), 0.0) == (MINUTE, 20.0)
    assert limiter.take(ALICE, (MINUTE,), 19.9) is not None
    assert limiter.take(ALICE, (MINUTE,), 20.0) is None
    assert limiter.take(ALICE, (MINUTE,), 20.0) is not None


def test_principals_and_policies_have_their_own() -> None:
    limiter, other = RateLimiter(), Rate("q", 3, 60.0)
    for _ in range(3):
        assert limiter.take(ALICE, (MINUTE,), 0.0) is None
    assert limiter.take(BOB, (MINUTE,), 0.0) is None
    assert limiter.take(ALICE, (other,), 0.0) is None


def test_of_several_rates_none_is_used_where_one_refuses() -> None:
    limiter, hour = RateLimiter(), Rate("p", 1, 3600.0)
    assert limiter.take(ALICE, (MINUTE, hour), 0.0) is None
    for _ in range(5):
        assert limiter.take(ALICE, (MINUTE, hour), 0.0) == (hour, 3600.0)
    assert [limiter.take(ALICE, (MINUTE,), 0.0) for _ in range(2)] == [None, None]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    limiter = RateLimiter()
    for _ in range(3):
        limiter.take(ALICE, (MINUTE,), 100.0)
    assert limiter.take(ALICE, (MINUTE,), 0.0) is not None
    assert limiter.take(ALICE, (MINUTE,), 100.0) is not None


def test_memory_is_bounded_and_no_limit_is_forgotten() -> None:
    limiter = RateLimiter(max_buckets=100)
    for number in range(100):
        assert limiter.take(("User", str(number)), (MINUTE,), 0.0) is None
    # All have used something: whoever comes now would push out a limit that still binds.
    assert limiter.take(("User", "new"), (MINUTE,), 1.0) is not None
    assert len(limiter) == 100
    assert limiter.take(("User", "0"), (MINUTE,), 1.0) is None
    # After 20 seconds the others are full again, and may go.
    assert limiter.take(("User", "new"), (MINUTE,), 21.0) is None
    assert len(limiter) == 100


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=60),
    st.integers(1, 5),
)
def test_no_window_has_more_than_the_rate_and_its_burst(gaps: list[float], count: int) -> None:
    limiter, rate = RateLimiter(), Rate("p", count, 60.0)
    now, passed = 0.0, []
    for gap in gaps:
        now += gap
        if limiter.take(ALICE, (rate,), now) is None:
            passed.append(now)
    for start in passed:
        inside = [at for at in passed if start <= at < start + 60]
        assert len(inside) <= 2 * count


def refused(ruling: Ruling) -> tuple[int, dict[bytes, bytes], Any]:
    assert ruling.refusal is not None
    body = json.loads(ruling.refusal.body)["error"]
    return ruling.refusal.status, dict(ruling.refusal.headers), body


def test_a_used_up_rate_is_429_with_the_time_to_wait_and_on_record() -> None:
    rate = Rate("fair-use", 1, 60.0)
    made, _ = exchange(obliging(Obligations(rates=(rate,))))
    first = made.request(chat_body("x"))
    assert first.refusal is None
    assert first.record.obligations == {"rate": ("fair-use: 1/minute",)}
    second = made.request(chat_body("x"))
    status, headers, error = refused(second)
    assert (status, headers[b"retry-after"]) == (429, b"60")
    assert (error["type"], error["code"]) == ("rate_limit_exceeded", "rate_limited:fair-use")
    assert second.record.outcome == "deny"
    assert second.record.reasons == ("rate_limited:fair-use",)


def test_a_request_that_is_denied_uses_nothing_up() -> None:
    rate = Rate("p", 1, 60.0)
    denies = obliging(Obligations(rates=(rate,)), Outcome.DENY)
    made, _ = exchange(denies)
    for _ in range(3):
        assert made.request(chat_body("x")).record.reasons == ("p",)


def test_the_reply_uses_nothing_up() -> None:
    made, _ = exchange(obliging(Obligations(rates=(Rate("p", 1, 60.0),))))
    assert made.request(chat_body("x")).refusal is None
    for _ in range(3):
        reply = made.response(status=200, content_type="application/json", body=b'{"choices": []}')
        assert reply.refusal is None
        assert reply.record.obligations == {}
