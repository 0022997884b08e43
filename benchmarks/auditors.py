"""`make bench-auditors`: what auditors cost.

1. The whole gateway with one auditor, beside the same gateway without: requests/s on one core. The
   auditor's stand-in is nginx with a fixed answer, so that what is measured is the agent.
2. Three auditors that take a fixed time each, asked as an exchange asks them: what the question
   takes beyond the slowest one's time, which is measured alone, over one plain socket.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import trio

from benchmarks import peers
from benchmarks.load import Closed, Open, closed_loop, open_loop
from benchmarks.peers import OTHER_CPU, PROXY_CPU, free_port, started, wait_for
from enforcement.auditing import Question
from enforcement.auditors.client import AuditorSettings
from enforcement.auditors.panel import AuditorService
from enforcement.auditors.question import outgoing
from enforcement.outcome import Phase
from enforcement.policy.vocabulary import Claim, ClaimType, Merge, Vocabulary

RESULT = Path(__file__).with_name("RESULTS-AUDITORS.md")
TIMES = (0.003, 0.005, 0.008)  # seconds that the three auditors take
ROUNDS = 2000

_CLAIMS = (
    '{"status":"success","claims":[{"name":"injection_risk","type":"score_normalized",'
    '"value":0.02,"timestamp":"2026-01-01T00:00:00Z"}]}'
)
_PAGES = {
    "/claims": _CLAIMS,
    "/health": '{"status":"healthy","ready":true}',
    "/vocabulary": '{"claims":[{"name":"injection_risk","type":"score_normalized"}]}',
}

_BUNDLE = """
name = "audited"
version = "1"
anonymous = true
[claims.injection_risk]
type = "score"
source = "auditor:injection"
phases = ["request"]
[claims.pii_found]
type = "bool"
source = "builtin"
[claims.secret_leaked]
type = "bool"
source = "builtin"
"""

_POLICIES = """
@id("use") permit (principal, action == Lucid::Action::"invoke", resource);
@id("injection") @phase("request") forbid (principal, action, resource)
when { context.claims.injection_risk > 7000 };
@id("keys") forbid (principal, action, resource) when { context.claims.secret_leaked };
@id("pii") @phase("response") @decision("redact") @redact("email,card")
forbid (principal, action, resource) when { context.claims.pii_found };
"""


@contextlib.contextmanager
def auditor(directory: Path) -> Iterator[int]:
    """The auditor's stand-in; gives its port."""
    port = free_port()
    pages = "".join(
        f"location = {path} {{ return 200 '{body}'; }}\n" for path, body in _PAGES.items()
    )
    body = (
        f"server {{ listen 127.0.0.1:{port} backlog=1024; default_type application/json;\n{pages}}}"
    )
    with peers.nginx(directory, "auditor", OTHER_CPU, body, port, urgent=True):
        yield port


def bundle(directory: Path) -> Path:
    folder = directory / "bundle"
    (folder / "policies").mkdir(parents=True)
    (folder / "bundle.toml").write_text(_BUNDLE)
    (folder / "policies" / "main.cedar").write_text(_POLICIES)
    return folder


def gateway(directory: Path, rounds: int, seconds: int) -> list[str]:
    """Rows of the first table."""
    closed: dict[str, list[Closed]] = {}
    opened: dict[str, list[Open]] = {}
    for name, audited in (("everything on", False), ("everything on, one auditor", True)):
        home = directory / ("audited" if audited else "plain")
        home.mkdir(mode=0o755)
        with contextlib.ExitStack() as stack:  # one agent at a time has the core
            up = stack.enter_context(peers.upstream(home))
            observer_port = stack.enter_context(peers.observer(home))
            more, folder = "", None
            if audited:
                port = stack.enter_context(auditor(home))
                more = f'[[auditors]]\nname = "injection"\nurl = "http://127.0.0.1:{port}"\n'
                folder = bundle(home)
            peer = stack.enter_context(
                peers.full_agent(home, up.port, observer_port, bundle=folder, more=more, name=name)
            )
            closed_loop(peer, connections=32, seconds=1)  # warm-up
            for _ in range(rounds):
                run = closed_loop(peer, connections=32, seconds=seconds)
                closed.setdefault(peer.name, []).append(run)
                wide = open_loop(peer, rate=500, seconds=seconds)
                opened.setdefault(peer.name, []).append(wide)
    lines = [
        "|  | requests/s, 32 connections | CPU µs/request | 500/s: p50 µs | p99 µs | errors |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in closed.items():
        errors = sum(run.errors for run in runs) + sum(run.errors for run in opened[name])
        lines.append(
            f"| {name} | {statistics.median(run.per_second for run in runs):,.0f}"
            f" | {statistics.median(run.cpu_us for run in runs):.1f}"
            f" | {statistics.median(run.p50 for run in opened[name]):,.0f}"
            f" | {statistics.median(run.p99 for run in opened[name]):,.0f} | {errors} |"
        )
    return lines


def percentiles(times: list[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    ordered = sorted(times)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3


def question() -> Question:
    return Question(
        auditors=None,  # type: ignore[arg-type]  # it is asked of the auditors directly
        phase=Phase.REQUEST,
        input=("Please summarise this letter for me. " * 25,),
        output=None,
        model="m",
        principal=("User", "bench"),
        agent_id="bench",
        trace_id="0" * 32,
        request_id="req-0",
    )


def alone(port: int) -> list[float]:
    """The slowest auditor, over one plain socket."""
    body = outgoing(question()).body(b"{}")
    request = b"POST /claims HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body), body,
    )  # fmt: skip
    times = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            sock.sendall(request)
            sock.recv(65_536)
            times.append(time.perf_counter() - start)
    return times


async def together(ports: list[int]) -> list[float]:
    """All three, as an exchange asks them."""
    names = [f"a{number}" for number in range(len(ports))]
    service = AuditorService(
        [
            AuditorSettings(name=name, url=f"http://127.0.0.1:{port}")
            for name, port in zip(names, ports, strict=True)
        ]
    )
    claim = Claim(
        name="risk",
        type=ClaimType.SCORE,
        sources=tuple(f"auditor:{name}" for name in names),
        phases=frozenset({Phase.REQUEST}),
        merge=Merge.MAX,
    )

    class Needs:
        vocabulary = Vocabulary([claim])
        auditors = dict.fromkeys(names, frozenset[str]())

    times = []
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        asked = service.for_bundle(Needs())
        assert asked is not None
        for number in range(ROUNDS + 100):
            start = time.perf_counter()
            audit = await asked.ask(question())
            spent = time.perf_counter() - start
            if audit.claims != {"risk": 1000}:
                raise RuntimeError(f"the auditors did not answer: {dict(audit.status)}")
            if number >= 100:
                times.append(spent)
        nursery.cancel_scope.cancel()
    return times


def asking() -> list[str]:
    """Rows of the second table."""
    ports = [free_port() for _ in TIMES]
    with contextlib.ExitStack() as stack:
        for port, seconds in zip(ports, TIMES, strict=True):
            command = (sys.executable, "-m", "benchmarks.slow_auditor", str(port), str(seconds))
            wait_for(port, stack.enter_context(started(OTHER_CPU, *command, urgent=True)))
        os.sched_setaffinity(0, {PROXY_CPU})
        first = percentiles(alone(ports[-1]))
        second = percentiles(trio.run(together, ports))
    return [
        "|  | p50 ms | p99 ms |",
        "| --- | --- | --- |",
        f"| the slowest of three alone, over a plain socket | {first[0]:.3f} | {first[1]:.3f} |",
        f"| all three, as an exchange asks them | {second[0]:.3f} | {second[1]:.3f} |",
        f"| beyond the slowest | {second[0] - first[0]:.3f} | {second[1] - first[1]:.3f} |",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auditors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {RESULT.name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lucid-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        first = gateway(directory, args.rounds, args.seconds)
    second = asking()
    text = "\n".join([*first, "", *second])
    print(text)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Auditors, measured on {when}, two cores, loopback\n\n"
            "The agent has one core; the load generator, the model server's and the auditor's"
            " stand-ins (nginx with fixed answers) and the Observer share the other. Medians of"
            f" {args.rounds} rounds, one agent after the other, 1 KiB chat requests; the auditor is"
            " asked about every request. Below: three auditors that take 3, 5 and 8 ms, asked"
            f" {ROUNDS:,} times one after another, about 1 KB of text. Made by"
            f" `make bench-auditors` with Python {platform.python_version()}.\n\n{text}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
