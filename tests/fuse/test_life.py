"""The life of the mount: made, marked, and always removed; and the agent on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.attesting.tee_search import SIMULATED_FILE_SYSTEM, file_system_of, mounts
from attestation.configfs_tsm import fetch_quote
from attestation.kernel_tree import KernelTree
from lucid.demo.upstream import DemoUpstream
from tests.attestation.tsm_semantics import DATA, error_of
from tests.processes import BIN, AgentProcess, Process, wait_until

pytestmark = pytest.mark.fuse

SECONDS = 30.0


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mount with a space"
    place.mkdir()
    yield place
    if is_mounted(place):
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=120)
        raise AssertionError("a test left its mount behind")


@pytest.fixture
def state(tmp_path: Path, simulated_state: Path) -> Path:
    shutil.copytree(simulated_state, tmp_path / "state")
    (tmp_path / "state").chmod(0o700)
    return tmp_path / "state"


def is_mounted(place: Path) -> bool:
    """By what the kernel says: asking the file system itself would fail on a dead one."""
    return any(mount.point == place for mount in mounts())


def command(mount: Path, state: Path, *options: str) -> list[str]:
    return [str(BIN / "lucid-agent"), "simulate-tee", "--mount", str(mount), "--state", str(state),
            *options]  # fmt: skip


@contextmanager
def served(mount: Path, state: Path, *options: str) -> Iterator[Process]:
    process = Process(command(mount, state, *options))
    try:
        wait_until(
            lambda: "simulated" in process.tail().lower() or not process.alive, SECONDS, "served"
        )
        assert process.alive, process.tail()
        yield process
    finally:
        process.end(signal.SIGKILL)
        wait_until(lambda: not is_mounted(mount), SECONDS, "unmounted")


def fails(mount: Path, state: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        command(mount, state, *options), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_mount(mount: Path, state: Path, number: int) -> None:
    with served(mount, state) as process:
        assert is_mounted(mount)
        assert process.end(number) == 0
        assert not is_mounted(mount)
    assert list(mount.iterdir()) == []


def test_it_ends_while_a_program_has_a_file_open(mount: Path, state: Path) -> None:
    with served(mount, state) as process:
        KernelTree(mount).mkdir("e")
        descriptor = os.open(mount / "e" / "generation", os.O_RDONLY)
        assert process.end() == 0
        assert not is_mounted(mount)
        assert error_of(os.read, descriptor, 10) == "ENOTCONN"
        assert error_of(os.close, descriptor) == "ENOTCONN"  # and yet it is closed


def test_it_ends_while_a_quote_is_in_the_works(mount: Path, state: Path) -> None:
    with served(mount, state, "--latency", "600") as process:
        script = (
            f"cd '{mount}' && mkdir e && head -c 64 /dev/zero > e/inblob && echo go; cat e/outblob"
        )
        reader = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "go\n"
        assert process.end() == 0
        assert reader.communicate(timeout=SECONDS)[0] == ""
        assert reader.returncode == 1


def test_killed_it_leaves_no_dead_mount(mount: Path, state: Path) -> None:
    with served(mount, state) as process:
        process.end(signal.SIGKILL)
        wait_until(lambda: not is_mounted(mount), SECONDS, "the guard unmounts")
    with served(mount, state):
        assert fetch_quote(KernelTree(mount), DATA).outblob


def test_a_dead_mount_that_is_found_is_replaced(mount: Path, state: Path) -> None:
    with served(mount, state) as process:
        guard = subprocess.run(
            ["ps", "--ppid", str(process.process.pid), "-o", "pid="],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        os.kill(int(guard.stdout), signal.SIGKILL)
        process.process.kill()
        process.process.wait(SECONDS)
        assert error_of(os.listdir, mount) == "ENOTCONN"
        with served(mount, state):
            assert fetch_quote(KernelTree(mount), DATA).outblob


def test_it_ends_with_the_program_that_started_it(mount: Path, state: Path) -> None:
    script = textwrap.dedent("""
        import subprocess, sys, time
        child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    line = [sys.executable, "-c", script, *command(mount, state, "--end-with-parent", "--json")]
    parent = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_mounted(mount)
    parent.kill()
    parent.communicate(timeout=SECONDS)
    wait_until(lambda: not is_mounted(mount), SECONDS, "unmounted after the parent's end")
    wait_until(lambda: not Path(f"/proc/{child}").exists(), SECONDS, "ended after its parent")


def test_unmounted_by_somebody_else_it_ends(mount: Path, state: Path) -> None:
    with served(mount, state) as process:
        subprocess.run(["umount", str(mount)], check=True, timeout=120)
        process.process.wait(SECONDS)
        assert process.end() == 0


def test_it_is_marked_as_simulated_wherever_it_shows(mount: Path, state: Path) -> None:
    with served(mount, state, "--json") as process:
        said = json.loads(process.output[0])
        assert said == {
            "simulated": True,
            "tee": "sev-snp",
            "provider": "sev_guest",
            "mount": str(mount),
            "root": str(state / "simulated-tee" / "root.pem"),
        }
        assert Path(said["root"]).read_text().startswith("-----BEGIN CERTIFICATE")
        assert file_system_of(mount / "e", mounts()) == SIMULATED_FILE_SYSTEM
    with served(mount, state, "--tee", "tdx") as process:
        wait_until(lambda: len(process.output) == 4, SECONDS, "everything is said")
        assert process.output[0].startswith("SIMULATED TEE: its quotes prove nothing")
        assert "simulated-tdx/root.pem" in process.tail()


def test_faults_and_latency_are_as_asked_for(mount: Path, state: Path) -> None:
    options = ("--fault", "ETIMEDOUTx2", "--fault", "empty", "--latency", "0.2")
    with served(mount, state, *options):
        waited: list[float] = []
        failed: list[tuple[str, int | None]] = []
        quote = fetch_quote(
            KernelTree(mount), DATA, sleep=waited.append, failed=lambda *what: failed.append(what)
        )
        assert DATA in quote.outblob
        assert [code for code, _ in failed] == ["quote.busy", "quote.busy", "quote.empty"]


def test_it_plays_a_guest_below_vmpl_0(mount: Path, state: Path) -> None:
    with served(mount, state, "--privlevel-floor", "2"):
        quote = fetch_quote(KernelTree(mount), DATA)
        assert int.from_bytes(quote.outblob[0x30:0x34], "little") == 2


def run_with(mount: Path, state: Path, *command_line: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*command(mount, state), "--", *command_line],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert not is_mounted(mount)
    return done


def test_a_command_has_the_tree_as_long_as_it_runs(mount: Path, state: Path) -> None:
    script = (
        f"cd '{mount}' && mkdir e && head -c 64 /dev/zero > e/inblob && wc -c < e/outblob"
        " && rmdir e; exit 7"
    )
    done = run_with(mount, state, "sh", "-c", script)
    assert done.stdout == "1184\n"
    assert "SIMULATED" in done.stderr
    assert done.returncode == 7
    assert run_with(mount, state, "sh", "-c", "kill -9 $$").returncode == 137
    done = run_with(mount, state, "/nonexistent")
    assert done.returncode == 2
    assert "/nonexistent cannot be run" in done.stderr


def sleepers(server: psutil.Process) -> list[psutil.Process]:
    return [child for child in server.children() if child.name() == "sleep"]


def test_a_signal_ends_the_command_too(mount: Path, state: Path) -> None:
    with served(mount, state, "--", "sleep", "600") as process:
        server = psutil.Process(process.process.pid)
        wait_until(lambda: bool(sleepers(server)), SECONDS, "the command runs")
        (child,) = sleepers(server)
        process.end()
        assert not child.is_running()


def test_serving_does_not_grow(mount: Path, state: Path) -> None:
    with served(mount, state) as process:
        tree, server = KernelTree(mount), psutil.Process(process.process.pid)
        for _ in range(100):  # whatever is made once is made
            fetch_quote(tree, DATA)
        before = server.num_fds(), server.num_threads(), server.memory_info().rss
        for _ in range(1000):
            fetch_quote(tree, DATA)
        after = server.num_fds(), server.num_threads(), server.memory_info().rss
        assert after[:2] == before[:2]
        assert after[2] - before[2] < 2 * 1024 * 1024


# -- what can be wrong ---------------------------------------------------------------------------


def test_a_place_where_nothing_can_be_mounted_is_named(
    mount: Path, state: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "none"
    code, error = fails(missing, state)
    assert code == 2
    assert f"mkdir -p {missing}" in error
    (tmp_path / "file").touch()
    assert fails(tmp_path / "file", state)[0] == 2
    (mount / "something").touch()
    code, error = fails(mount, state)
    assert code == 2
    assert "not empty" in error


def test_two_at_one_place_are_refused(mount: Path, state: Path) -> None:
    with served(mount, state):
        code, error = fails(mount, state)
        assert code == 2
        assert "already" in error
        assert fetch_quote(KernelTree(mount), DATA).outblob


@pytest.mark.parametrize("fault", ["", "NONSENSE", "EBUSYx", "EBUSYx-1", "EBUSY x2"])
def test_a_fault_that_is_not_known_is_refused(mount: Path, state: Path, fault: str) -> None:
    code, error = fails(mount, state, "--fault", fault)
    assert code == 2
    assert "--fault" in error


def test_keys_that_others_may_read_are_refused(mount: Path, state: Path) -> None:
    (state / "simulated-tee" / "root.key").chmod(0o644)
    code, error = fails(mount, state)
    assert code == 4
    assert "root.key" in error


# -- the agent on it -----------------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["sev-snp", "tdx"])
def test_the_agent_serves_with_it_and_never_takes_it_for_hardware(
    mount: Path, state: Path, tmp_path: Path, tee: str
) -> None:
    with served(mount, state, "--tee", tee), DemoUpstream() as upstream:
        agent = AgentProcess(
            tmp_path, upstream.url, simulate=tee, tee=f'simulated_mount = "{mount}"'
        )
        agent.start()
        passport = agent.status()["passport"]
        assert passport["simulated"]
        assert passport["tee"] == "simulated"
        assert not passport["hardware_attested"]
        assert agent.stop() == 0
        assert KernelTree(mount).entries() == []
        agent.tee = f'report_path = "{mount}"'
        text = agent.config.read_text().replace('mode = "simulated"', 'mode = "auto"')
        (tmp_path / "auto.toml").write_text(text)
        done = subprocess.run(
            [str(BIN / "lucid-agent"), "run", "--config", str(tmp_path / "auto.toml")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 3
        assert "the tree of a simulated one" in done.stderr


def test_without_what_serves_it_the_agent_says_how_to_start_it(
    mount: Path, state: Path, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, "http://127.0.0.1:9", tee=f'simulated_mount = "{mount}"')
    agent.start(wait=False)
    assert agent.process is not None
    assert agent.process.process.wait(60) == 3
    assert "lucid-agent simulate-tee --mount" in agent.process.tail()
    agent.stop()
