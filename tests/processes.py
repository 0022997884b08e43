"""Real processes for tests: the agent, the Observer, a model server; each has an owner."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
BUNDLE = ROOT / "lucid" / "data" / "bundle"


def clean_environment() -> dict[str, str]:
    """Ours without variables that would configure the agent."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LUCID_")}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a real process; the one place where tests wait for real time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Process:
    """A subprocess whose output is kept (bounded) for the failure message."""

    def __init__(self, command: list[str], *, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment() | (env or {}),
        )
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if len(self.output) < 2000:
                self.output.append(line.decode(errors="replace").rstrip())

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        return "\n".join(self.output[-30:])

    def end(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Signal it and wait; killed if it does not end in time."""
        if self.alive:
            self.process.send_signal(number)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.returncode


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class ObserverProcess:
    """The real Observer; `start` and `stop` may be repeated on the same addresses."""

    directory: Path
    simulated_root: Path
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self) -> None:
        self.process = Process(
            [
                str(BIN / "lucid-observer"),
                "run",
                "--listen-grpc",
                f"127.0.0.1:{self.grpc_port}",
                "--listen-http",
                f"127.0.0.1:{self.http_port}",
                "--database",
                f"sqlite+aiosqlite:///{self.directory}/observer.sqlite",
                "--allow-simulated",
                "--simulated-root",
                str(self.simulated_root),
            ]
        )
        wait_until(self._ready, 30, f"Observer ready\n{self.process.tail()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.end(number)
            self.process = None

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def get(self, path: str, **params: Any) -> Any:
        answer = httpx.get(f"{self.url}{path}", params=params, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def exported(self) -> list[dict[str, Any]]:
        """Every decision that the Observer has."""
        text = httpx.get(f"{self.url}/api/export", timeout=60).raise_for_status().text
        return [json.loads(line) for line in text.splitlines() if line]


@dataclass
class AgentProcess:
    """The real agent on a simulated TEE; may be killed and started again on the same state."""

    directory: Path
    upstream: str
    observer_port: int | None = None
    bundle: Path = BUNDLE
    extra: str = ""
    tee: str = ""  # further lines of [tee]
    policy: str = ""  # further lines of [policy]
    simulate: str = "sev-snp"
    stop_seconds: float = 10
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.directory / "a.sock"

    @property
    def simulated_root(self) -> Path:
        folder = "simulated-tdx" if self.simulate == "tdx" else "simulated-tee"
        return self.directory / "state" / folder / "root.pem"

    @property
    def config(self) -> Path:
        path = self.directory / "agent.toml"
        observer = f'[observer]\ntarget = "127.0.0.1:{self.observer_port}"\n'
        path.write_text(
            f"""
[agent]
id = "test-agent"
state_dir = "{self.directory}/state"
log_format = "text"
stop_seconds = {self.stop_seconds}
[tee]
mode = "simulated"
simulate = "{self.simulate}"
{self.tee}
[policy]
bundle = "{self.bundle}"
{self.policy}
[gateway]
listen = "127.0.0.1:{self.port}"
upstream = "{self.upstream}"
[identity]
anonymous = true
[api]
socket = "{self.socket}"
{observer if self.observer_port else ""}
{self.extra}
""",
            encoding="utf-8",
        )
        return path

    def start(self, *, wait: bool = True) -> None:
        self.process = Process([str(BIN / "lucid-agent"), "run", "--config", str(self.config)])
        if wait:
            wait_until(
                lambda: self.status().get("ready", False) or not self._alive(), 60, "agent ready"
            )
            assert self._alive(), self.process.tail()

    def _alive(self) -> bool:
        return self.process is not None and self.process.alive

    def status(self) -> dict[str, Any]:
        """What the agent says of itself; empty while it does not answer."""
        try:
            value: dict[str, Any] = json.loads(self.api("GET", "/v1/status")[1])
        except OSError:
            return {}
        return value

    def api(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One call of the local API: status and body."""
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        code = self.process.end(number)
        self.process = None
        return code


@contextmanager
def pair(
    directory: Path, upstream: str, **kwargs: Any
) -> Iterator[tuple[AgentProcess, ObserverProcess]]:
    """An agent that streams to an Observer, both running."""
    (directory / "agent").mkdir()
    (directory / "observer").mkdir()
    agent = AgentProcess(directory / "agent", upstream, **kwargs)
    observer = ObserverProcess(directory / "observer", agent.simulated_root)
    agent.observer_port = observer.grpc_port
    try:
        observer.start()
        agent.start()
        yield agent, observer
    finally:
        if agent.process is not None:
            agent.stop()
        observer.stop()
