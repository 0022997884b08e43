"""The leak hunt: secrets in every text of every route, both directions, whole and streamed.

20,000 exchanges under a fixed seed and as many under a random one, which is printed; `LEAK_SEED`
sets it, `LEAK_ROUNDS` the number. No secret, and no piece of six characters of one, may be in what
the client gets, in what the model server gets, or in the records.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from attestation.records import DecisionRecord, encode_record
from enforcement.apis.routes import ROUTES, Route
from enforcement.content.redact import PLAIN, Redactor, mask
from enforcement.exchange import Exchange
from enforcement.outcome import Platform, Redaction
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from enforcement.ruling import Ruling
from enforcement.snapshot import Snapshot
from enforcement.stream_guard import StreamGuard
from tests.leaks import streams
from tests.leaks.bodies import Maker, Way, encode, filler, name_of, ways
from tests.leaks.bundles import write_bundle
from tests.leaks.secrets import Secret, found_in, secret

pytestmark = pytest.mark.leaks

ROUNDS = int(os.environ.get("LEAK_ROUNDS", "20000"))
FIXED = 20_261_126
LABELS = frozenset({"api_key", "card", "email", "iban", "phone", "ssn"})
DROPPING = Redactor(methods=dict.fromkeys(LABELS, Redaction.DROP))
PLATFORM = Platform(tee_type="simulated", hardware_attested=False, tcb_status="", simulated=True)


def snapshots(folder: Path) -> list[Snapshot]:
    rules = (("window", 256, False), ("window", 700, False), ("buffer", 256, False),
             ("window", 256, True), ("window", 300, False))  # fmt: skip
    out = []
    for number, (mode, hold_back, deny) in enumerate(rules):
        path = write_bundle(
            folder / str(number), mode=mode, hold_back=hold_back, deny=deny, drop=hold_back == 300
        )
        bundle = Bundle.load(path)
        out.append(
            Snapshot(
                engine=Engine(bundle),
                bundle=bundle,
                passport_id="pass-0",
                platform=PLATFORM,
                agent_id="hunter",
            )
        )
    return out


def needed(route: Route, value: dict[str, Any], rng: Random) -> dict[str, Any]:
    """A body with what the route demands."""
    text = filler(rng)
    known: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}],
        "prompt": text,
        "input": text,
    }
    value.setdefault("model", "m")
    if route.needs and not value.get(route.needs):
        value[route.needs] = known[route.needs]
    if type(value.get("stream", False)) is not bool:
        value["stream"] = False
    return value


@dataclass
class Hunt:
    """One run. `tally` counts what happened, so that an empty hunt shows."""

    rng: Random
    snapshots: list[Snapshot]
    tally: Counter[str] = field(default_factory=Counter)
    places: set[tuple[str, str, str]] = field(default_factory=set)
    _ways: dict[tuple[str, str], list[Way]] = field(default_factory=dict)

    def round(self) -> None:
        rng = self.rng
        kind = rng.choice(("request", "reply", "stream", "stream"))
        hunted = secret(rng)
        routes = [r for r in ROUTES if kind != "request" or r.request is not None]
        if kind == "stream":
            routes = [r for r in ROUTES if r.stream is not None]
        route = rng.choice(routes)
        made = self._exchange(route, rng.choice(self.snapshots))
        if kind == "request":
            self._request(made, route, hunted)
            return
        plain = None if route.request is None else encode(needed(route, {}, rng), rng)
        ruling = made.request(plain or b"")
        assert ruling.refusal is None, ruling
        if kind == "reply":
            self._reply(made, route, hunted)
        else:
            self._stream(made, route, hunted)

    def _exchange(self, route: Route, snapshot: Snapshot) -> Exchange:
        return Exchange(
            snapshot=snapshot,
            route=route,
            principal=("User", "alice"),
            trace_id="0" * 32,
            request_id="req-1",
            salt=b"s" * 32,
            clock=lambda: 0,
        )

    def _way(self, route: Route, direction: str) -> Way:
        """The next place of the route's table; all get their turn."""
        key = (route.name, direction)
        left = self._ways.get(key)
        if not left:
            shape = route.request if direction == "request" else route.reply
            assert shape is not None
            left = list(ways(shape))
            self.rng.shuffle(left)
            self._ways[key] = left
        way = left.pop()
        self.places.add((*key, name_of(way)))
        return way

    # -- one round of each kind -------------------------------------------------------------------

    def _request(self, made: Exchange, route: Route, hunted: Secret) -> None:
        way = self._way(route, "request")
        value = needed(route, Maker(self.rng, hunted).along(way), self.rng)
        ruling = made.request(encode(value, self.rng))
        self._clean(hunted, f"request {route.name} {name_of(way)}", ruling)

    def _reply(self, made: Exchange, route: Route, hunted: Secret) -> None:
        rng = self.rng
        way = self._way(route, "reply")
        value: Any = Maker(rng, hunted).along(way)
        status, content_type = 200, "application/json"
        if rng.random() < 0.1:
            status = rng.choice((400, 422, 500))
            value = {"detail": [{"loc": ["body", 1], "input": value, "msg": hunted.text}]}
        body = encode(value, rng)
        if rng.random() < 0.03:
            content_type, body = "text/plain", f"Error: {hunted.text} is bad".encode()
        ruling = made.response(status=status, content_type=content_type, body=body)
        self._clean(hunted, f"reply {route.name} {name_of(way)}", ruling)

    def _clean(self, hunted: Secret, where: str, ruling: Ruling) -> None:
        self.tally[f"{where.partition(' ')[0]} {ruling.record.outcome}"] += 1
        seen = [ruling.forward_body or b""]
        if ruling.refusal is not None:
            seen += [ruling.refusal.body, repr(ruling.refusal.headers).encode()]
        seen.append(repr(ruling.headers).encode())
        for data in seen:
            self._none_in(hunted, data, where)
            self._none_in(hunted, _unescaped(data), where)
        self._record(hunted, ruling.record, where)

    def _record(self, hunted: Secret, record: DecisionRecord, where: str) -> None:
        data = encode_record(record, agent="hunter", boot=bytes(16), seq=1, wall_ns=1, boot_ns=1)
        piece = found_in(data, hunted, stored=True)
        assert piece is None, f"{piece!r} of {hunted} in the record of {where}"

    def _none_in(self, hunted: Secret, data: bytes, where: str) -> None:
        piece = found_in(data, hunted)
        assert piece is None, f"{piece!r} of {hunted} left: {where}: {data!r}"

    def _stream(self, made: Exchange, route: Route, hunted: Secret) -> None:
        rng = self.rng
        if route.stream == "chat":
            script = streams.chat(rng, hunted, completion=route.name == "completions")
        elif route.stream == "responses":
            script = streams.responses(rng, hunted)
        else:
            script = streams.messages(rng, hunted)
        guard = made.stream(status=200)
        assert isinstance(guard, StreamGuard)
        wire = streams.wire(script, rng)
        out = b""
        for piece in streams.cut(wire, rng):
            out += guard.feed(piece)
            if guard.denied:
                break
        else:
            out += guard.finish()
        record = guard.record
        self.tally[f"stream {record.outcome}"] += 1
        where = f"stream {route.name}"
        self._none_in(hunted, out, where)
        read = streams.read(out)
        for text in read.values():
            self._none_in(hunted, text.encode(), where)
        self._record(hunted, record, where)
        if guard.refusal is not None:
            self._none_in(hunted, guard.refusal.body, where)
        assert guard.denied == (record.outcome == "deny"), record
        if not guard.denied:
            how = DROPPING if made._asked.snapshot.bundle.stream.hold_back == 300 else PLAIN
            expected = {
                place: mask(streams.as_read(place, text), LABELS, how=how)
                for place, text in script.texts.items()
                if text
            }
            assert read == expected
        else:
            assert record.reasons == ("found",), f"{where}: {record.reasons}\n{wire!r}"


def _unescaped(data: bytes) -> bytes:
    """What a reader of JSON in JSON would see (arguments of tool calls)."""
    text = data.decode(errors="replace")
    for _ in range(2):
        text = text.replace("\\\\", "\\").replace('\\"', '"')
    return text.encode().replace(b"\\u0040", b"@")


def run(seed: int, rounds: int, folder: Path) -> tuple[Counter[str], set[tuple[str, str, str]]]:
    """One hunt, in a process of its own."""
    hunt = Hunt(Random(seed), snapshots(folder))
    for number in range(rounds):
        try:
            hunt.round()
        except Exception as error:
            raise AssertionError(f"seed {seed}, round {number}: {error}") from error
    return hunt.tally, hunt.places


def test_no_secret_and_no_piece_of_one_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = (FIXED, int(os.environ.get("LEAK_SEED", random.SystemRandom().randrange(2**32))))
    with capsys.disabled():
        _say(f"\nleak hunt: {ROUNDS} rounds with seed {seeds[0]} and with LEAK_SEED={seeds[1]}")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            pool.submit(run, seed, ROUNDS, tmp_path / str(number))
            for number, seed in enumerate(seeds)
        ]
        for hunt in runs:
            tally, places = hunt.result()
            with capsys.disabled():
                _say(dict(sorted(tally.items())), f"{len(places)} places of texts")
            for kind in ("request", "reply", "stream"):
                assert tally[f"{kind} redact"] > ROUNDS // 40
                assert tally[f"{kind} deny"] > ROUNDS // 80
            if ROUNDS >= 20_000:
                assert places == set(every_place()), "not every place had its turn"


def _say(*what: object) -> None:
    print(*what)  # noqa: T201 - a hunt says its seed and what it met


def every_place() -> list[tuple[str, str, str]]:
    return [
        (route.name, direction, name_of(way))
        for route in ROUTES
        for direction, shape in (("request", route.request), ("reply", route.reply))
        if shape is not None
        for way in ways(shape)
    ]
