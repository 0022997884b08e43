"""The `lucid-observer` command as a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from observer.cli import main
from tests.pki import make

COMMAND = [sys.executable, "-c", "from observer.cli import main; main()", "run"]
DEADLINE = 30


def test_it_says_where_it_listens_and_stops_cleanly_on_a_signal(tmp_path: Path) -> None:
    command = [
        *COMMAND,
        *("--listen-grpc", "127.0.0.1:0", "--listen-http", "127.0.0.1:0", "--json"),
        *("--database", f"sqlite+aiosqlite:///{tmp_path}/observer.db"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            assert httpx.get(addresses["http"] + "readyz", timeout=DEADLINE).status_code == 200
            host, _, port = addresses["grpc"].rpartition(":")
            socket.create_connection((host, int(port)), timeout=DEADLINE).close()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors == b""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen-http", "nowhere"], "HOST:PORT"),
        (["--simulated-root", "root.pem"], "--allow-simulated"),
        (["--grpc-key", "key.pem"], "go together"),
        (["--database", "sqlite+aiosqlite://"], "forgets everything"),
        (["--unknown"], "No such option"),
    ],
)
def test_a_wrong_option_is_explained(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize("option", ["--listen-http", "--listen-grpc"])
def test_an_address_that_is_taken_is_explained(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = {"--listen-http": "127.0.0.1:0", "--listen-grpc": "127.0.0.1:0"}
        addresses[option] = f"127.0.0.1:{port}"
        arguments = [part for pair in addresses.items() for part in pair]
        database = f"sqlite+aiosqlite:///{tmp_path}/observer.db"
        result = subprocess.run(
            [*COMMAND, *arguments, "--database", database],
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    assert result.returncode == 2
    assert b"cannot listen" in result.stderr


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("one.pem", "two.key", "key values mismatch"),
        ("one.key", "one.key", "not a certificate and its key"),
        ("one.pem", "locked.key", "without a passphrase"),
        ("one.pem", "none.key", "cannot read none.key: No such file"),
    ],
)
def test_files_for_tls_that_do_not_fit_are_explained(
    tmp_path: Path, certificate: str, key: str, says: str
) -> None:
    for name in ("two", "one"):
        made = make(name).write(tmp_path, name)
    secret = BestAvailableEncryption(b"secret")
    locked = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    (tmp_path / "locked.key").write_bytes(locked)
    result = subprocess.run(
        [
            *COMMAND,
            *("--listen-grpc", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"),
            *("--grpc-certificate", certificate, "--grpc-key", key),
            *("--database", f"sqlite+aiosqlite:///{tmp_path}/observer.db"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert result.returncode == 2
    assert says in result.stderr


def test_the_help_explains_itself() -> None:
    result = CliRunner().invoke(main, ["run", "--help"])
    assert result.exit_code == 0
    text = " ".join((result.output + CliRunner().invoke(main, ["--help"]).output).split())
    for word in ("--simulated-root", "no login yet", "Exit codes", "LUCID_OBSERVER"):
        assert word in text
