"""The image: what is in it, and that it runs with nothing but what it needs."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run
from tests.image.podman import IMAGE, ROOT, STORE, Podman

pytestmark = pytest.mark.image

MAX_BYTES = 120_000_000  # of the unpacked tree; it compresses to about a third
USER = 65532
HARDENED = (
    "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=none",
)  # fmt: skip
# By these somebody inside could go on: shells, compilers, package managers, fetchers, debuggers.
TOOLS = {
    "sh", "bash", "dash", "busybox", "ash", "zsh", "cc", "gcc", "g++", "as", "ld", "make", "apt",
    "apt-get", "dpkg", "pip", "pip3", "curl", "wget", "nc", "gdb", "strace", "perl", "mount", "su",
    "sudo", "env", "cat", "ls",
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(podman: Podman) -> Iterator[tarfile.TarFile]:
    """The image's file system."""
    container = podman("create", IMAGE)
    path = Path(podman("info", "--format", "{{.Store.RunRoot}}")) / "tree.tar"
    podman("export", "--output", str(path), container)
    podman("rm", container)
    with tarfile.open(path) as tree:
        yield tree


@pytest.fixture(scope="module")
def agent(podman: Podman) -> str:
    """An agent in a container that may do nothing, with a simulated TEE; it is ready."""
    container = podman(
        "run", "--detach", *HARDENED, "--volume=/var/lib/lucid",
        "--env=LUCID_TEE_MODE=simulated", "--env=LUCID_IDENTITY_ANONYMOUS=true",
        "--env=LUCID_POLICY_BUNDLE=/usr/share/lucid/example-bundle", IMAGE,
    )  # fmt: skip
    end = time.monotonic() + 60
    while podman.try_("exec", container, "lucid-agent", "healthcheck").returncode:
        assert time.monotonic() < end, podman.try_("logs", container).stderr
        time.sleep(0.2)
    return container


def test_it_says_what_it_is(podman: Podman) -> None:
    [image] = podman.json("image", "inspect", IMAGE)
    assert image["User"] == f"{USER}:{USER}"
    assert image["Healthcheck"]["Test"] == ["CMD", "lucid-agent", "healthcheck"]
    assert image["Config"]["Cmd"] == ["lucid-agent", "run"]
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in image["Labels"].items()}
    assert labels["title"] == "lucid-agent"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == "0.1.0"
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", labels["revision"])


def test_it_is_small(podman: Podman, tree: tarfile.TarFile) -> None:
    [image] = podman.json("image", "inspect", IMAGE)
    assert image["Size"] <= MAX_BYTES
    assert sum(member.size for member in tree) <= MAX_BYTES


def test_it_holds_no_shell_no_compiler_and_no_pip(tree: tarfile.TarFile) -> None:
    programs = {
        Path(member.name).name
        for member in tree
        if (member.mode & 0o111 and member.isfile() and "site-packages" not in member.name)
        or member.issym()
    }
    assert programs & TOOLS == set()
    assert {"python3.11", "lucid-agent", "lucid", "lucid-observer"} <= programs
    folders = {
        Path(member.name).name
        for member in tree
        if member.isdir() and "/lucid/data/" not in member.name  # a bundle has tests, too
    }
    assert folders & {"pip", "setuptools", "ensurepip", "idlelib", "tests", "test"} == set()


def test_nobody_gains_rights_by_a_file_and_the_agents_user_owns_only_its_places(
    tree: tarfile.TarFile,
) -> None:
    owned = set()
    for member in tree:
        assert not member.mode & 0o6000 or member.isdir(), member.name
        assert not member.mode & 0o002 or member.issym() or member.name == "tmp", member.name
        if member.uid:
            owned.add(member.name)
    assert owned == {"etc/lucid", "run/lucid", "var/lib/lucid"}


def test_scanners_find_what_it_is_made_of(tree: tarfile.TarFile) -> None:
    names = tree.getnames()
    packages = {Path(name).name for name in names if name.startswith("var/lib/dpkg/status.d/")}
    assert {"libc6", "libssl3", "python3.11-minimal", "libpython3.11-stdlib"} <= packages
    for package in packages:
        status = tree.extractfile(f"var/lib/dpkg/status.d/{package}")
        assert status is not None
        assert f"Package: {package}\n" in status.read().decode()
    wheels = {Path(name).parent.name for name in names if name.endswith(".dist-info/METADATA")}
    assert any(wheel.startswith("cryptography-") for wheel in wheels)
    assert any(wheel.startswith("lucid_agent-") for wheel in wheels)


def test_the_agent_runs_with_a_read_only_root_without_rights_as_its_user(
    podman: Podman, agent: str
) -> None:
    look = "import os,sys; sys.stdout.write(open('/proc/1/status').read())"
    lines = podman("exec", agent, "python", "-c", look).splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Uid"].split() == [str(USER)] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    write = podman.try_("exec", agent, "python", "-c", "open('/etc/lucid/x', 'w')")
    assert "Read-only file system" in write.stderr


def test_a_passport_was_issued_and_verifies_as_simulated(podman: Podman, agent: str) -> None:
    where = "http://127.0.0.1:8080/.well-known/lucid/passport"
    show = ("exec", agent, "lucid", "passport", "show", where)
    root = "--simulated-root=/var/lib/lucid/simulated-tee/root.pem"
    said = podman(*show, "--allow-simulated", root)
    assert "Hardware Attested: false" in said
    assert "Signature: Valid (SIMULATED root)" in said
    assert podman.try_(*show).returncode  # and not as hardware


def test_the_probe_of_the_image_answers_0_and_another_socket_3(podman: Podman, agent: str) -> None:
    [image] = podman.json("image", "inspect", IMAGE)
    probe = image["Healthcheck"]["Test"][1:]
    podman("exec", agent, *probe)
    assert podman.try_("exec", agent, *probe, "--socket=/run/lucid/none.sock").returncode == 3


def test_a_stop_is_clean(podman: Podman, agent: str) -> None:
    began = time.monotonic()
    podman("stop", "--time=20", agent)
    assert time.monotonic() - began < 10
    assert podman("inspect", "--format={{.State.ExitCode}}", agent) == "0"
    last = podman.try_("logs", agent).stderr.strip().splitlines()[-1]
    assert '"event":"stopped"' in last.replace(" ", "")


def test_without_a_policy_it_refuses_to_start_and_says_why(podman: Podman) -> None:
    done = podman.try_(
        "run", "--rm", *HARDENED, "--volume=/var/lib/lucid", "--env=LUCID_TEE_MODE=simulated",
        "--env=LUCID_IDENTITY_ANONYMOUS=true", IMAGE,
    )  # fmt: skip
    assert done.returncode == 2
    assert "/etc/lucid/bundle" in done.stderr


def test_the_observer_and_the_helper_are_the_same_image(podman: Podman) -> None:
    run = ("run", "--rm", *HARDENED, IMAGE)
    assert "--listen-grpc" in podman(*run, "lucid-observer", "run", "--help")
    assert "--listen" in podman(*run, "lucid-agent", "quote-helper", "--help")


def test_everything_works_inside(podman: Podman) -> None:
    """Agent, Observer, TLS libraries, databases: nothing that was left out is missed."""
    for simulate in ("sev-snp", "tdx"):
        said = podman("run", "--rm", *HARDENED, IMAGE, "lucid", "demo", "--once",
                      f"--simulate={simulate}")  # fmt: skip
        assert said.endswith("Everything was as expected.")


@pytest.mark.parametrize("package", ["attestation", "enforcement", "agent", "observer", "lucid"])
def test_every_module_of_ours_can_be_imported(podman: Podman, package: str) -> None:
    code = (
        f"import importlib, pkgutil, {package}\n"
        f"for m in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        "    try: importlib.import_module(m.name)\n"
        "    except ModuleNotFoundError as e: assert e.name == 'pyfuse3', e"  # an optional extra
    )
    podman("run", "--rm", *HARDENED, IMAGE, "python", "-W", "ignore", "-c", code)


def test_the_same_source_gives_the_same_digest(tmp_path: Path) -> None:
    """Built again: a copy elsewhere, the files' dates of now, another store."""
    copy = tmp_path / "copy"
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    (copy / ".image").mkdir()
    shutil.copy(ROOT / ".image" / "base.tar", copy / ".image")
    assert _built(copy, tmp_path / "store") == _built(ROOT, STORE)


def _built(source: Path, store: Path) -> str:
    environment = {
        **os.environ, "IMAGE_STORE": str(store), "BUILD_BIN": str(ROOT / ".venv" / "bin"),
        "SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct"),
        "REVISION": _git("rev-parse", "HEAD"),
    }  # fmt: skip
    done = run(
        ["deploy/image/build.sh", IMAGE], cwd=source, env=environment, check=True, seconds=900
    )
    digest = done.stdout.strip()
    assert digest.startswith("sha256:")
    return digest


def _git(*arguments: str) -> str:
    return run(["git", *arguments], cwd=ROOT, check=True).stdout.strip()
