"""The boot's keys stay in memory, shown on the real process."""

from __future__ import annotations

import base64
import gc
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.config import load_config
from agent.daemon import Daemon
from agent.life.notify import Notifier
from attestation.cose import KID, Sign1
from tests.processes import AgentProcess, clean_environment


@pytest.fixture
def agent(tmp_path: Path, simulated_state: Path) -> Iterator[AgentProcess]:
    """A running agent; its simulated TEE existed before."""
    shutil.copytree(simulated_state, tmp_path / "state", dirs_exist_ok=True)
    (tmp_path / "state").chmod(0o700)
    made = AgentProcess(tmp_path, "http://127.0.0.1:9")
    made.start()
    yield made
    if made.process is not None:
        made.stop(signal.SIGKILL)


def limits(pid: int) -> dict[str, tuple[str, str]]:
    """Soft and hard limits from /proc, by name."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def pid_of(agent: AgentProcess) -> int:
    assert agent.process is not None
    return agent.process.process.pid


def test_a_crash_leaves_no_core(agent: AgentProcess) -> None:
    assert limits(pid_of(agent))["Max core file size"] == ("0", "0")
    # What PR_SET_DUMPABLE 0 does: the kernel gives the process's own files to root.
    assert field(pid_of(agent), "CoreDumping") == "0"
    assert agent.status()["custody"]["core_dumps"] is False
    assert agent.status()["custody"]["readable"] is False


def test_what_could_be_locked_is_said_truly(agent: AgentProcess) -> None:
    custody = agent.status()["custody"]
    locked = int(field(pid_of(agent), "VmLck").split()[0])
    assert custody["locked"] == (locked > 0)
    assert bool(custody["problems"]) == (not custody["locked"])
    assert b"lucid_memory_locked %d.0" % custody["locked"] in agent.api("GET", "/metrics")[1]


def test_locking_reads_nothing_into_memory_that_is_not_used(agent: AgentProcess) -> None:
    resident = int(field(pid_of(agent), "VmRSS").split()[0])
    virtual = int(field(pid_of(agent), "VmSize").split()[0])
    assert resident < virtual / 2


def test_a_boot_has_its_own_key_and_seed(agent: AgentProcess) -> None:
    first = agent.status()["journal"]["boot"], agent.api("GET", "/v1/passport")[1]
    agent.stop()
    agent.start()
    second = agent.status()["journal"]["boot"], agent.api("GET", "/v1/passport")[1]
    assert first[0] != second[0]
    assert thumbprint_of(first[1]) != thumbprint_of(second[1])


def thumbprint_of(token: bytes) -> bytes:
    kid = Sign1.parse(token).protected[KID]
    assert isinstance(kid, bytes)
    return kid


async def test_the_key_is_in_no_file_while_it_lives_and_after(
    tmp_path: Path, simulated_state: Path
) -> None:
    shutil.copytree(simulated_state, tmp_path / "state", dirs_exist_ok=True)
    (tmp_path / "state").chmod(0o700)
    made = AgentProcess(tmp_path, "http://127.0.0.1:9")
    daemon = Daemon(load_config(made.config, {}), version="test", notifier=Notifier(None))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.run)
            with trio.fail_after(30):
                while not daemon.parts.renewal.valid:  # noqa: ASYNC110 - a real daemon
                    await trio.sleep(0.01)
            await daemon.parts.journal.checkpoint()
            key = daemon.parts.attester.key
            assert_nowhere(key, tmp_path)
            daemon.stop("test")
    finally:
        gc.unfreeze()
    assert_nowhere(key, tmp_path)


def assert_nowhere(key: ec.EllipticCurvePrivateKey, directory: Path) -> None:
    """Neither the number nor any usual form of it; the public key does stand in the journal."""
    number = key.private_numbers().private_value.to_bytes(32, "big")
    forms = [number, number[::-1], number.hex().encode(), base64.b64encode(number)[:40]]
    forms += [
        key.private_bytes(Encoding.DER, shape, NoEncryption())
        for shape in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    ]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    forms.append(pem.splitlines()[1])
    files = [path for path in directory.rglob("*") if path.is_file()]
    public = key.public_key().public_numbers().x.to_bytes(32, "big")
    contents = [path.read_bytes() for path in files]
    assert any(public in content for content in contents), "the search finds what is there"
    for path, content in zip(files, contents, strict=True):
        assert not [form for form in forms if form in content], path


_PROTECTED = """
import ctypes, json, os, resource, sys
{before}
from agent.custody import protect
custody = protect()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
chunk = bytearray(os.urandom(4096) * 4096)  # 16 MB more: an allocation after the lock still works
print(json.dumps([custody.as_json(), dumpable, resource.getrlimit(resource.RLIMIT_CORE)]))
"""


def protected(before: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _PROTECTED.format(before=before)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=clean_environment(),
        cwd=Path(__file__).resolve().parents[2],
    )
    return json.loads(done.stdout)


_WITHOUT_RIGHTS = """
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, {hard}))
libc = ctypes.CDLL(None)
for capability in (14,):  # CAP_IPC_LOCK, off the bounding set and the rest, as for a plain user
    libc.prctl(24, capability, 0, 0, 0)
class Head(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable")]
head, data = Head(0x20080522, 0), (Data * 2)()
libc.capget(ctypes.byref(head), data)
for name in ("effective", "permitted", "inheritable"):
    setattr(data[0], name, getattr(data[0], name) & ~(1 << 14))
assert libc.capset(ctypes.byref(head), data) == 0
"""


def test_the_process_cannot_be_dumped_or_read_by_its_own_user() -> None:
    custody, dumpable, core = protected("")
    assert (dumpable, core) == (0, [0, 0])
    assert custody["core_dumps"] is custody["readable"] is False


def test_under_a_finite_limit_nothing_is_locked_and_the_remedy_is_named() -> None:
    custody, _, _ = protected(_WITHOUT_RIGHTS.format(hard=8 * 1024 * 1024))
    assert custody["locked"] is False
    assert "its limit is 8388608 bytes" in custody["problems"][0]
    assert "LimitMEMLOCK=infinity" in custody["problems"][0]


def test_an_infinite_limit_is_enough_without_any_right() -> None:
    try:
        custody, _, _ = protected(_WITHOUT_RIGHTS.format(hard=-1))
    except subprocess.CalledProcessError as error:
        if "not allowed to raise maximum limit" in error.stderr:
            pytest.skip("this machine does not let root raise RLIMIT_MEMLOCK (CAP_SYS_RESOURCE)")
        raise
    assert custody["locked"] is True
    assert custody["problems"] == []
