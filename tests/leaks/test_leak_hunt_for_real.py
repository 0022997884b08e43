"""The leak hunt's share on real processes: gateway, journal, stream, Observer, logs and metrics.

Clients send, over sockets, requests and get replies with secrets in them. Afterwards no piece of a
secret may be in what the clients and the model server got, nor in any file of the agent or the
Observer, nor in their logs and metrics.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from enforcement.apis.routes import ROUTES, Route
from tests.leaks import streams
from tests.leaks.bodies import Maker, encode, ways
from tests.leaks.bundles import write_bundle
from tests.leaks.secrets import Secret, found_in, secret
from tests.leaks.test_leak_hunt import FIXED, needed
from tests.processes import AgentProcess, ObserverProcess, pair, wait_until

pytestmark = pytest.mark.leaks

ROUNDS = int(os.environ.get("LEAK_REAL_ROUNDS", "600"))
CLIENTS = 4
MOST_PIECES = 400  # of a stream; each is a write of its own


class ModelServer:
    """Gives each round the reply that was made for it, and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[int, str, list[bytes]]] = {}
        self.asked: dict[str, bytes] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                key = self.headers["X-Round"]
                outer.asked[key] = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, content_type, pieces = outer.replies[key]
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for piece in pieces:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    self.close_connection = True  # the gateway stopped a stream, as it should

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Round:
    """One exchange: what the client sends, what the model server answers."""

    def __init__(self, rng: Random, number: int) -> None:
        self.key = str(number)
        self.secret = secret(rng)
        kind = rng.choice(("request", "reply", "stream"))
        self.route = rng.choice(
            [
                r
                for r in ROUTES
                if (kind != "request" or r.request) and (kind != "stream" or r.stream)
            ]
        )
        self.body = b""
        if self.route.request is not None:
            value: dict[str, Any] = {}
            if kind == "request":
                way = rng.choice(list(ways(self.route.request)))
                value = Maker(rng, self.secret).along(way)
            self.body = encode(needed(self.route, value, rng), rng)
        if kind == "stream":
            wire = streams.wire(script(rng, self.route, self.secret), rng)
            pieces = streams.cut(wire, rng)
            # Not cut off: a stream that ends within a secret has not sent it.
            rest = b"".join(pieces[MOST_PIECES:])
            self.reply = (
                200,
                "text/event-stream",
                [*pieces[:MOST_PIECES], *([rest] if rest else [])],
            )
            return
        assert self.route.reply is not None
        answer = Maker(rng, self.secret).along(rng.choice(list(ways(self.route.reply))))
        status = 200 if rng.random() < 0.8 else 500
        self.reply = (status, "application/json", [encode(answer, rng)])


def script(rng: Random, route: Route, hunted: Secret) -> streams.Script:
    if route.stream == "responses":
        return streams.responses(rng, hunted)
    if route.stream == "messages":
        return streams.messages(rng, hunted)
    return streams.chat(rng, hunted, completion=route.name == "completions")


def ask(port: int, rounds: list[Round], seen: dict[str, bytes], tally: Counter[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for each in rounds:
        headers = {"X-Round": each.key, "Content-Type": "application/json"}
        try:
            connection.request(each.route.method, each.route.path, each.body, headers)
            reply = connection.getresponse()
            # The date has digits of its own.
            head = repr([h for h in reply.headers.items() if h[0].lower() != "date"]).encode()
            try:
                seen[each.key] = head + reply.read()
            except http.client.IncompleteRead as error:
                seen[each.key] = head + error.partial
            tally[str(reply.status)] += 1
        except (OSError, http.client.HTTPException) as error:
            tally[type(error).__name__] += 1
            connection.close()
    connection.close()


@pytest.mark.parametrize("which", ["fixed", "random"])
def test_no_piece_of_a_secret_is_anywhere(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = FIXED
    if which == "random":
        seed = int(os.environ.get("LEAK_SEED", random.SystemRandom().randrange(2**32)))
    rng = Random(seed)
    rounds = [Round(rng, number) for number in range(ROUNDS)]
    bundle = write_bundle(tmp_path / "bundle", mode="window", hold_back=256, deny=False)
    model = ModelServer()
    model.replies = {each.key: each.reply for each in rounds}
    seen: dict[str, bytes] = {}
    tally: Counter[str] = Counter()
    try:
        with pair(tmp_path, model.url, bundle=bundle) as (agent, observer):
            clients = [
                threading.Thread(target=ask, args=(agent.port, rounds[n::CLIENTS], seen, tally))
                for n in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            last = agent.status()["journal"]["last_seq"]
            wait_until(lambda: len(observer.exported()) >= last, 60, "all decisions there")
            outcomes = Counter(d["outcome"] for d in observer.exported())
            logs = kept_outside_files(agent, observer)
    finally:
        model.close()
    with capsys.disabled():
        print(f"\nseed {seed}: replies {dict(tally)}, decisions {dict(outcomes)}")  # noqa: T201
    assert outcomes["redact"] > ROUNDS // 4
    assert set(tally) <= {"200", "400", "403", "500", "502", "503"}
    for each in rounds:
        for data in (seen.get(each.key, b""), model.asked.get(each.key, b"")):
            piece = found_in(data, each.secret)
            assert piece is None, f"seed {seed}, round {each.key}: {piece!r} in {data!r}"
    files = {
        str(path): path.read_bytes()
        for folder in (agent.directory, observer.directory)
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert any("sqlite" in name for name in files)
    for name, data in (files | logs).items():
        assert nothing_of([each.secret for each in rounds], data) is None, (seed, name)


def kept_outside_files(agent: AgentProcess, observer: ObserverProcess) -> dict[str, bytes]:
    """Logs, metrics and what the APIs show."""
    assert agent.process is not None
    assert observer.process is not None
    return {
        "agent's log": "\n".join(agent.process.output).encode(),
        "observer's log": "\n".join(observer.process.output).encode(),
        "agent's metrics": agent.api("GET", "/metrics")[1],
        "agent's status": agent.api("GET", "/v1/status")[1],
        "agent's decisions": agent.api("GET", "/v1/decisions")[1],
        "observer's metrics": httpx.get(f"{observer.url}/metrics").content,
        "observer's export": httpx.get(f"{observer.url}/api/export", timeout=60).content,
    }


def nothing_of(secrets: list[Secret], data: bytes) -> str | None:
    """A piece of any of the secrets in bytes, or None."""
    pieces = {piece.encode() for each in secrets for piece in each.pieces(stored=True)}
    for size in {len(piece) for piece in pieces}:
        for start in range(len(data) - size + 1):
            if data[start : start + size] in pieces:
                return data[start : start + size].decode()
    return None
