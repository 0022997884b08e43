"""`make bench-daemon`: how soon the daemon is ready, and what it costs while nothing happens.

Ready is READY=1 on the service manager's socket, counted from before the process is made. Idle is
after the first passport, with the local API scraped once. With a simulated TEE the very first start
generates two RSA-4096 keys, which is a matter of luck; every other start reads them.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import peers

RESULT = Path(__file__).with_name("RESULTS-DAEMON.md")
BUNDLE = Path(__file__).resolve().parents[1] / "lucid" / "data" / "bundle"
BINARY = Path(sys.executable).parent / "lucid-agent"
TICKS = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1024  # of /proc's kB
SETTLE_SECONDS = 3.0
READY_LIMIT, MEMORY_LIMIT, CPU_LIMIT = 1.0, 60.0, 0.5


@dataclass(frozen=True, slots=True)
class Idle:
    """One look at an idle daemon; sizes in MB, CPU in percent of a core."""

    rss: float
    anonymous: float
    file: float
    pss: float
    threads: int
    cpu: float


def field(pid: int, name: str, file: str = "status") -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / TICKS


def configuration(directory: Path, observer_port: int | None) -> Path:
    path = directory / "agent.toml"
    observer = f'[observer]\ntarget = "127.0.0.1:{observer_port}"\n' if observer_port else ""
    path.write_text(
        f'[agent]\nid = "bench"\nstate_dir = "{directory}/state"\n[tee]\nmode = "simulated"\n'
        f'[policy]\nbundle = "{BUNDLE}"\n[gateway]\nlisten = "127.0.0.1:0"\n'
        f'upstream = "http://127.0.0.1:9"\n[identity]\nanonymous = true\n'
        f'[api]\nsocket = "{directory}/agent.sock"\n{observer}'
    )
    return path


@contextmanager
def started(directory: Path, config: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A daemon that is ready, and the seconds until then."""
    address = directory / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        began = time.monotonic()
        process = subprocess.Popen(
            [BINARY, "run", "--config", str(config)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
        )
        try:
            while b"READY=1" not in manager.recv(65_536).split(b"\n"):
                pass
            yield process, time.monotonic() - began
        finally:
            process.terminate()
            process.wait(30)


def idle(process: subprocess.Popen[bytes], directory: Path, seconds: float) -> Idle:
    time.sleep(SETTLE_SECONDS)
    with socket.socket(socket.AF_UNIX) as api:
        api.connect(str(directory / "agent.sock"))
        api.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        while api.recv(65_536):
            pass
    pid = process.pid
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return Idle(
        rss=field(pid, "VmRSS") / MEGABYTE,
        anonymous=field(pid, "RssAnon") / MEGABYTE,
        file=field(pid, "RssFile") / MEGABYTE,
        pss=field(pid, "Pss", "smaps_rollup") / MEGABYTE,
        threads=field(pid, "Threads"),
        cpu=(cpu_seconds(pid) - before) / seconds * 100,
    )


def floor() -> float:
    """RSS in MB of a process that imports what the agent cannot do without, and nothing else."""
    code = (
        "import trio, cryptography.x509, cedarpy, cbor2, msgspec, re2, sqlite3, structlog, click\n"
        "print([l for l in open('/proc/self/status') if l.startswith('VmRSS')][0].split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / MEGABYTE


def verdict(value: float, limit: float) -> str:
    return "held" if value <= limit else "not held"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.daemon", description=__doc__)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--first-starts", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the idle CPU's measurement")
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        print("/proc/self/smaps_rollup is needed (Linux)", file=sys.stderr)
        return 3
    firsts, starts = [], []
    for number in range(args.first_starts):
        print(f"first start {number + 1}/{args.first_starts} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="lucid-bench-") as name:
            directory = Path(name)
            with started(directory, configuration(directory, None)) as (_, seconds):
                firsts.append(seconds)
    with tempfile.TemporaryDirectory(prefix="lucid-bench-") as name:
        directory = Path(name)
        config = configuration(directory, None)
        with started(directory, config):
            pass
        for number in range(args.starts):
            print(f"start {number + 1}/{args.starts} …", file=sys.stderr)
            with started(directory, config) as (process, seconds):
                starts.append(seconds)
                if number == args.starts - 1:
                    alone = idle(process, directory, args.seconds)
        print("with an Observer …", file=sys.stderr)
        with (
            peers.observer(directory) as port,
            started(directory, configuration(directory, port)) as (process, _),
        ):
            streaming = idle(process, directory, args.seconds)
    start, least = statistics.median(starts), floor()
    rows = [
        ("start to READY=1, s (median)", f"{start:.2f}", "≤ 1", verdict(start, READY_LIMIT)),
        ("the slowest of them, s", f"{max(starts):.2f}", "≤ 1", verdict(max(starts), READY_LIMIT)),
        (
            "very first start, with two RSA-4096 keys to generate, s (median; least to most)",
            f"{statistics.median(firsts):.2f}; {min(firsts):.2f} to {max(firsts):.2f}",
            "≤ 1",
            verdict(max(firsts), READY_LIMIT),
        ),
    ]
    for what, found in (("no Observer", alone), ("streaming to an Observer", streaming)):
        rows += [
            (f"idle RSS, {what}, MB", f"{found.rss:.1f}", "≤ 60", verdict(found.rss, MEMORY_LIMIT)),
            (
                "… of it anonymous, which nobody shares; file pages; PSS, MB",
                f"{found.anonymous:.1f}; {found.file:.1f}; {found.pss:.1f}",
                "",
                "",
            ),
            (
                f"idle CPU, {what}, % of a core",
                f"{found.cpu:.2f}",
                "≤ 0.5",
                verdict(found.cpu, CPU_LIMIT),
            ),
            (f"threads, {what}", str(found.threads), "", ""),
        ]
    rows.append(("floor: RSS of the imported libraries alone, MB", f"{least:.1f}", "", ""))
    lines = ["| | measured | wanted | |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    text = "\n".join(lines)
    print(text)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# The daemon at rest, measured on {when}\n\n{args.starts} starts,"
            f" {args.first_starts} very first ones; idle CPU over {args.seconds:.0f} s. Made by"
            " `make bench-daemon`. RSS is what an operator sees, mapped pages of libraries"
            f" included.\n\n{text}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
