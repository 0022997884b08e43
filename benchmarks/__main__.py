"""`make bench`: nginx, the bare gateway and the gateway with everything on, in one run.

Machines are noisy: read the ratios. Rounds of the three are interleaved; the table shows medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import peers
from benchmarks.load import Closed, Open, closed_loop, open_loop

RESULT = Path(__file__).with_name("RESULTS.md")


def median(values: list[float]) -> float:
    return statistics.median(values)


def table(
    closed: dict[str, list[Closed]], opened: dict[str, list[Open]], rate: int, connections: int
) -> str:
    titles = (
        "", f"at {rate} requests/s: CPU µs/request", "CPU ÷ nginx", "p50 µs", "p99 µs",
        "p99 added µs", f"as fast as it can, {connections} connections: requests/s",
        "CPU µs/request", "CPU ÷ nginx", "errors",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    floor_busy = median([run.cpu_us for run in closed["nginx"]])
    floor_cpu = median([run.cpu_us for run in opened["nginx"]])
    floor_p99 = median([run.p99 for run in opened["nginx"]])
    for name, runs in closed.items():
        busy = median([run.cpu_us for run in runs])
        cpu = median([run.cpu_us for run in opened[name]])
        p50 = median([run.p50 for run in opened[name]])
        p99 = median([run.p99 for run in opened[name]])
        errors = sum(run.errors for run in runs)
        errors += sum(run.errors + run.sent - run.answered for run in opened[name])
        lines.append(
            f"| {name} | {cpu:.1f} | {cpu / floor_cpu:.2f} | {p50:,.0f} | {p99:,.0f}"
            f" | {p99 - floor_p99:,.0f} | {median([run.per_second for run in runs]):,.0f}"
            f" | {busy:.1f} | {busy / floor_busy:.2f} | {errors} |"
        )
    return "\n".join(lines)


def tls_table(closed: dict[str, list[Closed]], connections: int) -> str:
    titles = ("", f"{connections} connections: requests/s", "CPU µs/request", "of it TLS", "errors")
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for name in [name for name in closed if name.endswith(", TLS")]:
        runs, plain = closed[name], closed[name.removesuffix(", TLS")]
        busy = median([run.cpu_us for run in runs])
        more = busy - median([run.cpu_us for run in plain])
        lines.append(
            f"| {name} | {median([run.per_second for run in runs]):,.0f} | {busy:.1f}"
            f" | {more:.1f} | {sum(run.errors for run in runs)} |"
        )
    return "\n".join(lines)


def _built() -> str:
    """Distributions tune their Python with profiles, which is worth a fifth of the CPU."""
    return "the distribution's" if sys.base_prefix == "/usr" else "not the distribution's"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rate", type=int, default=1000, help="of the open loop, requests/s")
    parser.add_argument("--connections", type=int, default=64, help="of the closed loop")
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    if not (shutil.which("wrk") and (shutil.which("nginx") or Path("/usr/sbin/nginx").exists())):
        print("nginx and wrk are needed: apt-get install nginx-light wrk", file=sys.stderr)
        return 3
    if (os.cpu_count() or 1) < 2:
        print("two cores are needed: one for the proxy, one for the rest", file=sys.stderr)
        return 3
    closed: dict[str, list[Closed]] = {}
    opened: dict[str, list[Open]] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lucid-bench-")))
        directory.chmod(0o755)
        up = stack.enter_context(peers.upstream(directory))
        observer_port = stack.enter_context(peers.observer(directory))
        contenders = [
            stack.enter_context(peers.nginx_proxy(directory, up.port)),
            stack.enter_context(peers.bare_gateway(up.port)),
            stack.enter_context(peers.full_agent(directory, up.port, observer_port)),
        ]
        peers.certificate(directory)
        vendor = Path("state") / "simulated-tee"  # the one that the Observer knows
        shutil.copytree(directory / vendor, directory / "tls" / vendor)
        (directory / "tls" / "state").chmod(0o700)
        secured = [
            stack.enter_context(peers.nginx_tls(directory, up.port)),
            stack.enter_context(peers.bare_gateway(up.port, tls=directory)),
            stack.enter_context(
                peers.full_agent(
                    directory / "tls",
                    up.port,
                    observer_port,
                    more=peers.tls_table(directory),
                    name="gateway, everything on, TLS",
                )
            ),
        ]
        for peer in contenders + secured:
            closed_loop(peer, connections=args.connections, seconds=1)  # warm-up
        for number in range(args.rounds):
            for peer in contenders:
                print(f"round {number + 1}/{args.rounds}: {peer.name} …", file=sys.stderr)
                run = closed_loop(peer, connections=args.connections, seconds=args.seconds)
                closed.setdefault(peer.name, []).append(run)
                wide = open_loop(peer, rate=args.rate, seconds=args.seconds)
                opened.setdefault(peer.name, []).append(wide)
            for peer in secured:
                print(f"round {number + 1}/{args.rounds}: {peer.name} …", file=sys.stderr)
                run = closed_loop(peer, connections=args.connections, seconds=args.seconds)
                closed.setdefault(peer.name, []).append(run)
    plain = {name: runs for name, runs in closed.items() if name in opened}
    text = table(plain, opened, args.rate, args.connections)
    text += "\n\nThe same over TLS 1.3 (P-256, AES-256-GCM), connections kept open:\n\n"
    text += tls_table(closed, args.connections)
    print(text)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Measured on {when}, two cores, loopback\n\nThe proxy has one core; the load"
            " generator, the model server's stand-in (nginx with a fixed reply) and the Observer"
            " share the other; where root runs it, the first two at a real-time priority. Medians"
            f" of {args.rounds} interleaved rounds. 1 KiB chat requests. Made by `make bench` with"
            f" Python {platform.python_version()}, {_built()}; read the ratios.\n\n"
            "CPU is compared at the same load first: there each proxy wakes the other core equally"
            " often. As fast as it can, nginx keeps the other core busy and wakes it no more, which"
            " is part of its lead in the last columns.\n\n" + text + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
