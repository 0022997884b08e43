"""Auditors over real sockets: down, slow, lying, huge, erring, flapping; and how claims merge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from enforcement.auditing import Audit
from enforcement.auditors.breaker import Rules, State
from enforcement.auditors.client import AuditorSettings
from enforcement.auditors.panel import AuditorService
from enforcement.detectors import Span
from enforcement.http.upstream import UpstreamConnection
from enforcement.outcome import Phase
from enforcement.policy.problems import BundleError
from enforcement.policy.vocabulary import Claim, ClaimType, Merge, Vocabulary
from tests.enforcement.auditors.peers import (
    FakeBundle,
    House,
    Peer,
    claim,
    error,
    house,
    nowhere,
    success,
)

BOTH = frozenset(Phase)
TEN_MB = 10 * 1024 * 1024


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jumps only when nothing has moved for a while: loopback data is never overtaken."""
    return trio.testing.MockClock(autojump_threshold=0.002)


def risk(*auditors: str, merge: Merge | None = None, optional: bool = False) -> Vocabulary:
    return Vocabulary(
        [
            Claim(
                name="risk",
                type=ClaimType.SCORE,
                sources=tuple(f"auditor:{name}" for name in auditors),
                phases=BOTH,
                merge=merge,
                optional=optional,
            )
        ]
    )


def says(value: float) -> Callable[[dict[str, Any]], object]:
    return lambda _: success(claim("risk", "score_normalized", value))


async def one(house_: House, *texts: str) -> Audit:
    question = house_.question(*texts)
    return await question.auditors.ask(question)


# -- asking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True])
async def test_an_auditor_is_asked_over_tcp_or_a_unix_socket_on_one_kept_connection(
    tmp_path: Path, unix: bool
) -> None:
    peer = Peer(says(0.7))
    folder = tmp_path if unix else None
    async with house(risk("a"), {"a": peer}, folder=folder, config=b'{"x":1}') as home:
        for _ in range(5):
            audit = await one(home, "hello")
            assert audit.claims == {"risk": 7000}
            assert audit.status == {"a": "ok risk=7000"}
            assert audit.missing == frozenset()
        assert peer.connections == 1
        assert peer.asked[0]["data"]["input"] == "hello"
        assert peer.asked[0]["lucid_context"]["auditor_config"] == {"x": 1}
        assert home.service.clients["a"].metrics.calls == {"ok": 5}


async def test_all_are_asked_at_once_and_the_slowest_decides_how_long_it_takes(
    autojump_clock: object,
) -> None:
    peers = {name: Peer(says(0.1), delay=delay) for name, delay in zip("abc", (1, 3, 2))}  # noqa: B905
    async with house(risk("a", "b", "c", merge=Merge.MAX), peers, deadline=5.0) as home:
        start_time = trio.current_time()
        audit = await one(home)
        assert trio.current_time() - start_time == pytest.approx(3, abs=0.1)
        assert {name: round(us / 1e6) for name, us in audit.latency_us.items()} == {
            "a": 1, "b": 3, "c": 2,
        }  # fmt: skip


async def test_all_questions_have_left_before_any_answer_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers = {name: Peer(says(0.1)) for name in "abc"}
    async with house(risk("a", "b", "c", merge=Merge.MAX), peers) as home:
        await one(home)  # makes the connections that are kept
        done: list[str] = []
        for name in ("tell", "hear"):
            real = getattr(UpstreamConnection, name)

            def noted(self: object, *args: bytes, name: str = name, real: Any = real) -> Any:
                done.append(name)
                return real(self, *args)

            monkeypatch.setattr(UpstreamConnection, name, noted)
        assert (await one(home)).claims == {"risk": 1000}
        assert done == ["tell"] * 3 + ["hear"] * 3


@pytest.mark.parametrize(
    ("kind", "merge", "values", "merged"),
    [
        (ClaimType.SCORE, Merge.MAX, (0.2, 0.9), 9000),
        (ClaimType.SCORE, Merge.MIN, (0.2, 0.9), 2000),
        (ClaimType.INTEGER, Merge.MAX, (3, 5), 5),
        (ClaimType.BOOL, Merge.ANY, (False, True), True),
        (ClaimType.BOOL, Merge.ALL, (False, True), False),
        (ClaimType.STRING_LIST, Merge.UNION, (["b"], ["a", "b"]), ("a", "b")),
        (ClaimType.STRING_LIST, Merge.INTERSECTION, (["b"], ["a", "b"]), ("b",)),
    ],
)
async def test_a_claim_of_several_auditors_is_merged_by_its_rule(
    kind: ClaimType, merge: Merge, values: tuple[object, object], merged: object
) -> None:
    vocabulary = Vocabulary(
        [Claim(name="c", type=kind, sources=("auditor:a", "auditor:b"), phases=BOTH, merge=merge)]
    )
    peers = {
        name: Peer(lambda _, value=value: success(claim("c", kind.value, value)))  # type: ignore[misc]
        for name, value in zip("ab", values, strict=True)
    }
    async with house(vocabulary, peers) as home:
        assert (await one(home)).claims == {"c": merged}


async def test_spans_of_all_auditors_are_kept_by_text() -> None:
    def marks(label: str, at: int) -> Callable[[dict[str, Any]], object]:
        span = {"part": "input", "start": at, "end": at + 3, "label": label}
        return lambda _: success(claim("risk", "score", 0.1, metadata={"spans": [span]}))

    peers = {"a": Peer(marks("person", 0)), "b": Peer(marks("place", 4))}
    labels = {"a": frozenset({"person"}), "b": frozenset({"place"})}
    async with house(risk("a", "b", merge=Merge.MAX), peers, labels=labels) as home:
        audit = await one(home, "Ann", "Rome")
        assert audit.spans == ((Span(0, 3, "person"),), (Span(0, 3, "place"),))
        assert audit.unmaskable == frozenset()
        assert home.auditors.labels == {"person", "place"}


async def test_only_auditors_of_the_phase_are_asked_and_labels_of_others_are_unmaskable() -> None:
    vocabulary = Vocabulary(
        [
            Claim(
                name="late",
                type=ClaimType.BOOL,
                sources=("auditor:b",),
                phases=frozenset({Phase.RESPONSE}),
            ),
            *map(risk("a").__getitem__, ["risk"]),
        ]
    )
    peers = {"a": Peer(says(0.1)), "b": Peer(lambda _: success(claim("late", "bool", True)))}
    labels = {"b": frozenset({"person"})}
    async with house(vocabulary, peers, labels=labels) as home:
        audit = await one(home, "x")
        assert set(audit.status) == {"a"}
        assert audit.unmaskable == {"person"}
        question = home.question("x", output=("y",))
        audit = await question.auditors.ask(question)
        assert audit.claims == {"risk": 1000, "late": True}
        assert peers["b"].asked[0]["data"] | {"metadata": 0} == {
            "input": "x", "output": "y", "metadata": 0,
        }  # fmt: skip


# -- what goes wrong ------------------------------------------------------------------------------


async def cut(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def garbage(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def ten_megabytes(stream: trio.SocketStream) -> None:
    await stream.send_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for _ in range(TEN_MB // 65_536):
        await stream.send_all(b"10000\r\n" + b" " * 65_536 + b"\r\n")
    raise AssertionError("all of it was read")


async def announced_megabytes(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % TEN_MB)
    await trio.sleep_forever()


async def dripping(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.2)


async def two_answers(stream: trio.SocketStream) -> None:
    body = json.dumps(says(0.0)({})).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    await stream.send_all(answer + answer)


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        (Peer(delay=60.0), "timeout"),
        (Peer(raw=dripping), "timeout"),
        (Peer(raw=cut), "closed"),
        (Peer(raw=garbage), "malformed"),
        (Peer(raw=two_answers), "malformed"),
        (Peer(raw=ten_megabytes), "too_large"),
        (Peer(raw=announced_megabytes), "too_large"),
        (Peer(lambda _: error()), "error:INTERNAL_ERROR"),
        (Peer(lambda _: b"<html>"), "invalid:json"),
        (Peer(lambda _: success(claim("risk", "string", "low"))), "invalid:risk"),
        (Peer(lambda _: success(claim("risk", "score", 7.0))), "invalid:risk"),
        (Peer(says(0.5), status=500), "http:500"),
        (Peer(says(0.5), status=404), "http:404"),
        (Peer(lambda _: b"", status=204), "http:204"),
        (Peer(lambda _: b" " * (300 * 1024) + b"{}"), "too_large"),
    ],
)
async def test_an_auditor_that_fails_is_named_its_claims_are_missing_and_others_count(
    autojump_clock: object, peer: Peer, status: str
) -> None:
    vocabulary = Vocabulary(
        [
            *map(risk("bad").__getitem__, ["risk"]),
            Claim(name="fine", type=ClaimType.BOOL, sources=("auditor:good",), phases=BOTH),
        ]
    )
    peers = {"bad": peer, "good": Peer(lambda _: success(claim("fine", "boolean", True)))}
    labels = {"bad": frozenset({"person"}), "good": frozenset({"place"})}
    async with house(vocabulary, peers, labels=labels, deadline=1.0) as home:
        begin = trio.current_time()
        audit = await one(home)
        assert trio.current_time() - begin <= 1.1
        assert audit.status == {"bad": status, "good": "ok fine=true"}
        assert audit.claims == {"fine": True}
        assert audit.missing == {"risk"}
        assert audit.unmaskable == {"person"}


async def test_an_auditor_that_is_down_fails_at_once() -> None:
    async with trio.open_nursery() as nursery:
        service = AuditorService([AuditorSettings(name="a", url=await nowhere())])
        await nursery.start(service.run)
        auditors = service.for_bundle(FakeBundle(risk("a"), {"a": frozenset()}))
        assert auditors is not None
        question = House({}, service, FakeBundle(risk("a"), {"a": frozenset()}), nursery).question()
        assert (await auditors.ask(question)).status == {"a": "unreachable"}
        nursery.cancel_scope.cancel()


async def test_a_unix_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async with house(risk("a"), {"a": Peer(says(0.1))}, folder=tmp_path) as home:
        (tmp_path / "a").unlink()
        assert (await one(home)).status == {"a": "unreachable"}


async def test_a_kept_connection_that_was_closed_costs_another_try_and_no_denial() -> None:
    peer = Peer(says(0.1), close_after=1)
    async with house(risk("a"), {"a": peer}) as home:
        for _ in range(3):
            assert (await one(home)).status == {"a": "ok risk=1000"}
        assert peer.connections == 3


async def test_a_text_that_is_too_long_is_not_sent() -> None:
    peer = Peer(says(0.1))
    async with house(risk("a"), {"a": peer}, text_characters=10) as home:
        assert (await one(home, "x" * 11)).status == {"a": "text_too_large"}
        assert (await one(home, "x" * 10)).status == {"a": "ok risk=1000"}
        assert len(peer.asked) == 1


async def test_more_calls_than_places_wait_and_too_many_are_turned_away(
    autojump_clock: object,
) -> None:
    peer = Peer(says(0.1), delay=1.0)
    statuses: list[str] = []
    async with house(risk("a"), {"a": peer}, concurrency=2, deadline=3.5) as home:

        async def ask() -> None:
            statuses.append((await one(home)).status["a"])

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert peer.most_under_way == 2
        # Two at a time; eight may wait; within 3.5 seconds six are done, and four time out, two of
        # them while they are asked.
        assert statuses.count("ok risk=1000") == 6
        assert statuses.count("busy") == 12
        assert statuses.count("timeout") == 2
        assert home.service.clients["a"].under_way == 0


async def test_an_optional_claim_may_rest_on_the_sources_that_answered_if_more_were_stricter() -> (
    None
):
    peers = {"a": Peer(says(0.8)), "b": Peer(lambda _: error())}
    async with house(risk("a", "b", merge=Merge.MAX, optional=True), peers) as home:
        audit = await one(home)
        assert (audit.claims, audit.missing) == ({"risk": 8000}, frozenset())
    async with house(risk("a", "b", merge=Merge.MIN, optional=True), peers) as home:
        audit = await one(home)
        assert (audit.claims, audit.missing) == ({}, frozenset())
    async with house(risk("a", "b", merge=Merge.MAX), peers) as home:
        audit = await one(home)
        assert (audit.claims, audit.missing) == ({}, frozenset({"risk"}))


async def test_an_answer_without_a_claim_that_it_should_give_leaves_it_missing() -> None:
    async with house(risk("a"), {"a": Peer()}) as home:
        audit = await one(home)
        assert audit.status == {"a": "ok"}
        assert audit.missing == {"risk"}


# -- the breaker ----------------------------------------------------------------------------------

BREAKER = Rules(failures=3, pause=2.0, longest_pause=8.0)


async def test_who_fails_again_and_again_is_left_alone_and_tried_again(
    autojump_clock: object,
) -> None:
    peer = Peer(says(0.1), delay=60.0)
    async with house(risk("a"), {"a": peer}, deadline=1.0, breaker=BREAKER) as home:
        client = home.service.clients["a"]
        for _ in range(3):
            assert (await one(home)).status == {"a": "timeout"}
        begin = trio.current_time()
        assert (await one(home)).status == {"a": "circuit_open"}
        assert trio.current_time() == begin
        assert client.state is State.OPEN
        asked = len(peer.asked)
        peer.delay = 0.0
        await trio.sleep(2.1)
        assert (await one(home)).status == {"a": "ok risk=1000"}
        assert len(peer.asked) == asked + 1
        assert client.metrics.calls == {"timeout": 3, "circuit_open": 1, "ok": 1}


async def test_a_flapping_auditor_is_asked_ever_more_seldom(autojump_clock: object) -> None:
    peer = Peer(says(0.1))
    down = False

    def flapping(_: dict[str, Any]) -> object:
        return b"" if down else says(0.1)({})

    peer.answer = flapping
    async with house(risk("a"), {"a": peer}, deadline=1.0, breaker=BREAKER) as home:
        pauses = []
        for _ in range(4):
            down = False
            await trio.sleep(home.service.clients["a"].breaker.retry_after(trio.current_time()))
            assert (await one(home)).status == {"a": "ok risk=1000"}
            down = True
            for _ in range(3):
                await one(home)
            pauses.append(home.service.clients["a"].breaker.retry_after(trio.current_time()))
        assert pauses == pytest.approx([2.0, 4.0, 8.0, 8.0], abs=0.1)


async def test_errors_in_band_do_not_open_the_breaker() -> None:
    async with house(risk("a"), {"a": Peer(lambda _: error())}, breaker=BREAKER) as home:
        for _ in range(10):
            assert (await one(home)).status == {"a": "error:INTERNAL_ERROR"}
        assert home.service.clients["a"].state is State.CLOSED


async def test_an_exchange_that_is_given_up_leaves_no_call_and_no_place_behind(
    autojump_clock: object,
) -> None:
    peer = Peer(says(0.1), delay=60.0)
    async with house(risk("a"), {"a": peer}, deadline=30.0, breaker=BREAKER) as home:
        for _ in range(5):
            with trio.move_on_after(1):
                await one(home)
        client = home.service.clients["a"]
        assert client.under_way == 0
        assert client.state is State.CLOSED
        assert client.metrics.calls == {"cancelled": 5}


# -- before a bundle takes effect -----------------------------------------------------------------

VOCABULARY = {"claims": [{"name": "risk", "type": "score_normalized"}]}


async def refusal(home: House, *, wait: bool = False) -> str:
    with pytest.raises(BundleError) as info:
        await home.service.check(home.bundle, wait=wait)
    return str(info.value)


async def test_a_bundle_whose_auditors_give_what_it_says_is_accepted() -> None:
    async with house(risk("a"), {"a": Peer(vocabulary=VOCABULARY)}) as home:
        assert await home.service.check(home.bundle, wait=False) == []


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        ({"claims": []}, "is not in its vocabulary"),
        ({"claims": [{"name": "risk", "type": "boolean"}]}, "is not a score there"),
        (
            {"claims": [{"name": "risk", "type": "score", "phases": ["request"]}]},
            "is not given there in phase response",
        ),
        ({"words": []}, "cannot be asked what it gives (invalid:vocabulary)"),
    ],
)
async def test_a_bundle_that_needs_a_claim_nobody_gives_is_refused(
    vocabulary: object, words: str
) -> None:
    async with house(risk("a"), {"a": Peer(vocabulary=vocabulary)}) as home:
        assert words in await refusal(home)


async def test_a_bundle_that_names_an_auditor_unknown_to_the_agent_is_refused() -> None:
    async with house(risk("a"), {"a": Peer()}) as home:
        bundle = FakeBundle(risk("aa"), {"aa": frozenset()})
        with pytest.raises(BundleError, match=r"knows no auditor 'aa'.*did you mean a\?"):
            home.service.for_bundle(bundle)
        with pytest.raises(BundleError):
            await home.service.check(bundle, wait=False)


async def test_an_auditor_that_is_not_ready_is_waited_for(autojump_clock: object) -> None:
    peer = Peer(vocabulary=VOCABULARY, health={"status": "healthy", "ready": False})
    async with house(risk("a"), {"a": peer}, start=10.0) as home:

        async def get_ready() -> None:
            await trio.sleep(5)
            peer.health = {"status": "healthy", "ready": True}

        home.nursery.start_soon(get_ready)
        await home.service.check(home.bundle, wait=True)
        assert trio.current_time() >= 5
        peer.health = {"status": "healthy", "ready": False}
        assert "not_ready" in await refusal(home, wait=True)


async def test_auditors_of_optional_claims_alone_are_not_waited_for(tmp_path: Path) -> None:
    vocabulary = risk("a", optional=True)
    async with house(vocabulary, {"a": Peer()}, folder=tmp_path) as home:
        (tmp_path / "a").unlink()
        warnings = await home.service.check(home.bundle, wait=True)
        assert warnings == ["the auditor a cannot be asked what it gives (unreachable)"]


async def test_a_bundle_without_auditors_asks_nobody() -> None:
    service = AuditorService([])
    assert service.for_bundle(FakeBundle(Vocabulary([]), {})) is None


@pytest.mark.parametrize("url", ["https://a:1", "http://a:1/path", "unix:relative", "a:1", ""])
async def test_urls_of_no_known_form_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not"):
        AuditorService([AuditorSettings(name="a", url=url)])
