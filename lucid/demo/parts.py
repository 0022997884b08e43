"""The processes of the demo: Observer and agent, each owned by a `with` block."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Final, Self

import httpx

START_SECONDS: Final = 60.0  # the simulated vendor makes two RSA-4096 keys first
STOP_SECONDS: Final = 30.0


class DemoError(Exception):
    """A part could not be started or did not answer. The message has its last words."""


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until the condition holds.

    Raises:
        DemoError: it does not within the time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise DemoError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.05)


class Part:
    """One child process; its log goes to a file, the end of which explains a failure."""

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, *command: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start the process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own modules, by name
                [sys.executable, "-m", *command], stdout=stdout or log, stderr=log
            )
        return self._process

    def check(self) -> None:
        """Raises DemoError: the process has ended."""
        if self._process is not None and self._process.poll() is not None:
            words = self._log.read_text(errors="replace").strip().splitlines()[-8:]
            text = "\n  ".join(["", *words])
            raise DemoError(f"the {self._name} ended ({self._process.returncode}):{text}")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Launch and wait until it serves."""
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class ObserverPart(Part):
    """The Observer, with its database in the demo's directory."""

    def __init__(self, directory: Path, *, simulated_root: Path) -> None:
        super().__init__("Observer", directory / "observer.log")
        self._directory = directory
        self._root = simulated_root
        self.grpc = ""
        self.url = ""

    def start(self) -> None:
        """Launch; the first line on its standard output says where it listens."""
        process = self.launch(
            "observer.cli", "run", "--json",
            "--listen-grpc", "127.0.0.1:0", "--listen-http", "127.0.0.1:0",
            "--database", f"sqlite+aiosqlite:///{self._directory}/observer.sqlite",
            "--allow-simulated", "--simulated-root", str(self._root),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait()
            self.check()
        addresses = json.loads(line)
        self.grpc = addresses["grpc"]
        self.url = addresses["http"].rstrip("/")

    def get(self, path: str, **params: Any) -> Any:
        """One answer of the JSON API."""
        try:
            answer = httpx.get(f"{self.url}{path}", params=params, timeout=10)
            return answer.raise_for_status().json()
        except httpx.HTTPError as error:
            self.check()
            raise DemoError(f"the Observer did not answer: {error}") from None

    def decisions(self, *, limit: int) -> list[dict[str, Any]]:
        """The newest decisions first."""
        found: list[dict[str, Any]] = self.get("/api/decisions", limit=limit)["decisions"]
        return found

    def _boot(self, boot: str) -> dict[str, Any]:
        agents = self.get("/api/agents")["agents"]
        return next((b for a in agents for b in a["boots"] if b["boot"] == boot), {})

    def verified_seq(self, boot: str) -> int:
        """How far the Observer has the boot's chain, every record verified."""
        return int(self._boot(boot).get("verified_seq", 0))

    def signed_seq(self, boot: str) -> int:
        """How far a checkpoint by the passport's key covers it."""
        return int(self._boot(boot).get("checkpoint_seq") or 0)

    def alarms(self) -> list[str]:
        """What the Observer found wrong."""
        return [
            f"{alarm['code']}: {alarm['detail']}" for alarm in self.get("/api/alarms")["alarms"]
        ]


class AgentPart(Part):
    """The agent on a simulated TEE, before `upstream`."""

    def __init__(self, directory: Path, *, upstream: str, simulate: str) -> None:
        super().__init__("agent", directory / "agent.log")
        self._directory = directory
        self._upstream = upstream
        self._simulate = simulate
        self._socket = directory / "agent.sock"
        self.observer = ""
        self.url = ""

    @property
    def simulated_root(self) -> Path:
        """The root certificate that the simulated TEE makes."""
        folder = "simulated-tdx" if self._simulate == "tdx" else "simulated-tee"
        return self._directory / "state" / folder / "root.pem"

    def start(self) -> None:
        """Launch and wait for the first passport."""
        bundle = resources.files("lucid").joinpath("data", "bundle")
        config = self._directory / "agent.toml"
        values: dict[str, dict[str, Any]] = {
            "agent": {"id": "demo-agent", "state_dir": str(self._directory / "state")},
            "tee": {"mode": "simulated", "simulate": self._simulate},
            "policy": {"bundle": str(bundle)},
            "gateway": {"listen": "127.0.0.1:0", "upstream": self._upstream},
            "identity": {"anonymous": True},
            "observer": {"target": self.observer},
            "api": {"socket": str(self._socket)},
        }
        config.write_text(_toml(values), encoding="utf-8")
        self.launch("agent.cli", "run", "--config", str(config))
        wait_for(self._ready, START_SECONDS, "the agent's first passport")
        self.url = f"http://{self.status()['gateway']}"

    def _ready(self) -> bool:
        self.check()
        try:
            return bool(self._ask("/v1/status").json()["ready"])
        except httpx.HTTPError:
            return False

    def _ask(self, path: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self._socket))
        with httpx.Client(transport=transport, timeout=10) as client:
            return client.get(f"http://agent{path}")

    def status(self) -> dict[str, Any]:
        """What the agent says of itself."""
        value: dict[str, Any] = self._ask("/v1/status").json()
        return value

    def passport(self) -> bytes:
        """The current passport."""
        return self._ask("/v1/passport").raise_for_status().content


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    """Strings and booleans as TOML; JSON's form of both is TOML's as well."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"
