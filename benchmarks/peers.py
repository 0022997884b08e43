"""The processes that a benchmark starts: nginx as upstream and as peer, and our own.

All on loopback, on free ports. The proxy under test has one core, everything else the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROXY_CPU = 0  # the proxy under test, alone
OTHER_CPU = 1  # load generator, upstream, Observer

REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Memory is encrypted. " * 24},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110},
    }
)
REQUEST = json.dumps(
    {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You answer shortly and plainly."},
            {"role": "user", "content": "What does confidential computing protect? " * 20},
        ],
    }
)
PATH = "/v1/chat/completions"

_NGINX = """
worker_processes 1;
daemon off;
pid {dir}/{name}.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
  fastcgi_temp_path {dir}/{name}-f; uwsgi_temp_path {dir}/{name}-u; scgi_temp_path {dir}/{name}-s;
  keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on;
  client_body_buffer_size 64k;
  {body}
}}
"""
_UPSTREAM = """
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ default_type application/json; return 200 '{reply}'; }}
  }}
"""
_TLS_PROXY = """
  upstream u {{
    server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=1024;
    ssl_certificate {dir}/tls.pem; ssl_certificate_key {dir}/tls.key;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;
    location / {{
      proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
"""
_PROXY = """
  upstream u {{
    server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A running process: where it listens and whose CPU time counts."""

    name: str
    port: int
    pid: int
    socket: Path | None = None
    scheme: str = "http"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """CPU time of one process, its threads included. The scheduler counts in nanoseconds; ticks of
    10 ms, as in /proc/PID/stat, miss a proxy that works in between them."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def may_hurry() -> bool:
    """Whether processes may be given a real-time priority here."""
    return os.geteuid() == 0 and shutil.which("chrt") is not None


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Wait until something accepts on the port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after {seconds} s")


@contextlib.contextmanager
def started(
    cpu: int, *command: str, urgent: bool = False, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core; ended with the block.

    Args:
        urgent: it gets the core at once when it has something to do (needs root).
    """
    process = subprocess.Popen(
        [
            "taskset",
            "-c",
            str(cpu),
            *(["chrt", "--fifo", "1"] if urgent and may_hurry() else []),
            *command,
        ],
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL,
        env=os.environ | (env or {}),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def nginx(
    directory: Path, name: str, cpu: int, body: str, port: int, *, urgent: bool = False
) -> Iterator[Peer]:
    """One nginx with one worker."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    config = directory / f"{name}.conf"
    config.write_text(_NGINX.format(dir=directory, name=name, body=body))
    command = (binary, "-p", str(directory), "-c", str(config))
    with started(cpu, *command, urgent=urgent) as process:
        wait_for(port, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (workers := children.read_text().split()):  # it listens before it has a worker
            if process.poll() is not None:
                raise RuntimeError(f"nginx ended with {process.returncode}")
            time.sleep(0.01)
        yield Peer(name, port, int(workers[0]))


@contextlib.contextmanager
def upstream(directory: Path) -> Iterator[Peer]:
    """The model server's stand-in: nginx with a fixed chat completion."""
    port = free_port()
    body = _UPSTREAM.format(port=port, reply=REPLY)
    with nginx(directory, "upstream", OTHER_CPU, body, port, urgent=True) as peer:
        yield peer


@contextlib.contextmanager
def nginx_proxy(directory: Path, upstream_port: int) -> Iterator[Peer]:
    """The peer that sets the floor: nginx as a bare reverse proxy."""
    port = free_port()
    body = _PROXY.format(port=port, upstream=upstream_port)
    with nginx(directory, "nginx", PROXY_CPU, body, port) as peer:
        yield peer


@contextlib.contextmanager
def nginx_tls(directory: Path, upstream_port: int) -> Iterator[Peer]:
    """nginx as a reverse proxy that ends TLS with the certificate of `certificate`."""
    port = free_port()
    body = _TLS_PROXY.format(port=port, upstream=upstream_port, dir=directory)
    with nginx(directory, "nginx-tls", PROXY_CPU, body, port) as peer:
        yield dataclasses.replace(peer, name="nginx, TLS", scheme="https")


def certificate(directory: Path) -> None:
    """`tls.pem` and `tls.key`: P-256, by itself."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.pem"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def tls_table(directory: Path) -> str:
    """`[gateway.tls]` with that certificate."""
    return (
        f'[gateway.tls]\ncertificate_file = "{directory}/tls.pem"\n'
        f'key_file = "{directory}/tls.key"\n'
    )


@contextlib.contextmanager
def bare_gateway(upstream_port: int, *, tls: Path | None = None) -> Iterator[Peer]:
    """Our gateway without policy, journal or stream. `tls`: a directory with `certificate`."""
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.bare", str(port), str(upstream_port))
    with started(PROXY_CPU, *command, *([] if tls is None else [str(tls)])) as process:
        wait_for(port, process)
        if tls is None:
            yield Peer("gateway, bare", port, process.pid)
        else:
            yield Peer("gateway, bare, TLS", port, process.pid, scheme="https")


@contextlib.contextmanager
def observer(directory: Path) -> Iterator[int]:
    """The real Observer; gives its gRPC port.

    It stands on another machine in earnest. Here it must not take the disk from the agent, whose
    delays would be taken for its own.
    """
    grpc_port, http_port = free_port(), free_port()
    bin_dir = Path(sys.executable).parent
    root = directory / "state" / "simulated-tee" / "root.pem"
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lucid-bench-", dir=memory) as database:
        command = (
            str(bin_dir / "lucid-observer"), "run",
            "--listen-grpc", f"127.0.0.1:{grpc_port}", "--listen-http", f"127.0.0.1:{http_port}",
            "--database", f"sqlite+aiosqlite:///{database}/observer.sqlite",
            "--allow-simulated", "--simulated-root", str(root),
        )  # fmt: skip
        with started(OTHER_CPU, *command) as process:
            wait_for(grpc_port, process)
            yield grpc_port


@contextlib.contextmanager
def full_agent(
    directory: Path,
    upstream_port: int,
    observer_port: int,
    *,
    bundle: Path | None = None,
    more: str = "",
    name: str = "gateway, everything on",
) -> Iterator[Peer]:
    """The real daemon with policy, journal and stream, on a simulated TEE.

    `more`: further tables of its configuration.
    """
    port = free_port()
    bundle = bundle or Path(__file__).resolve().parents[1] / "lucid" / "data" / "bundle"
    api = directory / "agent.sock"
    config = directory / "agent.toml"
    config.write_text(
        f"""
[agent]
id = "bench"
state_dir = "{directory}/state"
log_format = "text"
stop_seconds = 10
[tee]
mode = "simulated"
[policy]
bundle = "{bundle}"
[gateway]
listen = "127.0.0.1:{port}"
upstream = "http://127.0.0.1:{upstream_port}"
[identity]
anonymous = true
[observer]
target = "127.0.0.1:{observer_port}"
[api]
socket = "{api}"
{more}
"""
    )
    binary = os.environ.get("AGENTBIN") or str(Path(sys.executable).parent / "lucid-agent")
    with started(PROXY_CPU, binary, "run", "--config", str(config)) as process:
        wait_for(port, process, 60)
        end = time.monotonic() + 60
        check = [binary, "healthcheck", "--socket", str(api)]
        while subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError("the agent did not become ready")
            time.sleep(0.2)
        scheme = "https" if "[gateway.tls]" in more else "http"
        yield Peer(name, port, process.pid, api, scheme)
