"""Exchanges for tests: scripted policies, and clients that read replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from attestation.records import ClaimValue
from enforcement.apis.routes import Route, find_route
from enforcement.auditing import Auditors
from enforcement.exchange import Exchange
from enforcement.outcome import Outcome, Phase, PolicyRequest, Verdict
from enforcement.snapshot import Snapshot
from enforcement.stream_guard import StreamGuard
from tests.enforcement.bundles import SIMULATED

ALL = frozenset({"email", "card", "ssn", "iban", "api_key", "phone"})
Policy = Callable[[PolicyRequest], Verdict]


def always(outcome: Outcome, *labels: str) -> Policy:
    return lambda _: Verdict(outcome=outcome, reasons=("test",), redact=frozenset(labels))


def when_found(outcome: Outcome, *labels: str) -> Policy:
    """`outcome` where personal data or a secret was found in a reply, else proceed."""

    def decide(request: PolicyRequest) -> Verdict:
        found = request.claims["pii_found"] or request.claims["secret_leaked"]
        if request.phase is Phase.RESPONSE and found:
            return Verdict(outcome=outcome, reasons=("found",), redact=frozenset(labels))
        return Verdict(outcome=Outcome.PROCEED, reasons=("base",))

    return decide


@dataclass
class Engine:
    policy: Policy
    asked: list[PolicyRequest] = field(default_factory=list)

    def decide(self, request: PolicyRequest, /) -> Verdict:
        self.asked.append(request)
        return self.policy(request)

    @property
    def claims(self) -> dict[str, ClaimValue]:
        return dict(self.asked[-1].claims)


@dataclass(frozen=True)
class Rules:
    mode: str = "window"
    hold_back: int = 256


@dataclass(frozen=True)
class Bundle:
    name: str = "test"
    version: str = "1"
    digest: bytes = bytes(32)
    anonymous: bool = False
    stream: Rules = Rules()
    detectors: frozenset[str] = ALL
    claims: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    reads_platform: bool = False

    def gives(self, phase: Phase) -> frozenset[str]:
        return self.claims


def route(path: str = "/v1/chat/completions", method: str = "POST") -> Route:
    found = find_route(method, path)
    assert found is not None
    return found


def exchange(
    policy: Policy,
    *,
    mode: str = "window",
    hold_back: int = 256,
    on: Route | None = None,
    principal: tuple[str, str] | None = ("User", "alice"),
    detectors: frozenset[str] = ALL,
    auditors: Auditors | None = None,
    claims: frozenset[str] = frozenset(),
) -> tuple[Exchange, Engine]:
    engine = Engine(policy)
    snapshot = Snapshot(
        engine=engine,
        bundle=Bundle(stream=Rules(mode, hold_back), detectors=detectors, claims=claims),
        passport_id="pass-00",
        platform=SIMULATED,
        agent_id="test-agent",
        auditors=auditors,
    )
    made = Exchange(
        snapshot=snapshot,
        route=on or route(),
        principal=principal,
        trace_id="0" * 32,
        request_id="req-1",
        salt=b"s" * 32,
        clock=lambda: 0,
    )
    return made, engine


def guard(policy: Policy, **kwargs: Any) -> tuple[StreamGuard, Engine]:
    made, engine = exchange(policy, **kwargs)
    stream = made.stream(status=200)
    assert isinstance(stream, StreamGuard)
    return stream, engine


def run(stream: StreamGuard, pieces: list[bytes]) -> bytes:
    out = b""
    for piece in pieces:
        out += stream.feed(piece)
        if stream.denied:
            return out
    return out + stream.finish()


def events(wire: bytes) -> list[Any]:
    """The JSON events of a stream; `[DONE]` as the string."""
    out: list[Any] = []
    for block in wire.decode().replace("\r\n", "\n").split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            out.append(data if data == "[DONE]" else json.loads(data))
    return out


def texts(wire: bytes) -> dict[tuple[int, str], str]:
    """What a client reads: joined text by choice and field."""
    out: dict[tuple[int, str], str] = {}
    for event in events(wire):
        for choice in event.get("choices", []) if isinstance(event, dict) else []:
            fields = dict(choice.get("delta", {}))
            if "text" in choice:
                fields["text"] = choice["text"]
            for call in fields.pop("tool_calls", None) or []:
                for key, value in call.get("function", {}).items():
                    if value:
                        place = (choice["index"], f"tool_calls.{call['index']}.{key}")
                        out[place] = out.get(place, "") + value
            for key, value in fields.items():
                if isinstance(value, str) and value:
                    out[choice["index"], key] = out.get((choice["index"], key), "") + value
    return out


def chat_body(*contents: Any, **more: Any) -> bytes:
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"model": "m", "messages": messages, **more}).encode()
