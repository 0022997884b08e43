"""Builds what the virtual machine boots: Debian's kernel, a fake provider, Python and the tests.

    python -m tests.kernel.build DIRECTORY

Packages come from the Debian mirror that the machine is configured with, and are unpacked below
DIRECTORY: nothing is installed, and root is not needed. A second run takes what the first left.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor

ROOT: Final = Path(__file__).resolve().parents[2]
GUEST: Final = Path(__file__).with_name("guest")
SUITE: Final = "bookworm-backports"  # its kernel has configfs-tsm; the stable one has not
PACKAGES: Final = (
    "qemu-system-x86",
    "busybox-static",
    f"linux-image-cloud-amd64/{SUITE}",
    f"linux-headers-cloud-amd64/{SUITE}",
)
MODULES: Final = ("fs/configfs/configfs", "drivers/virt/coco/tsm")
SITE_PACKAGES: Final = ("cryptography", "_cffi_backend", "cffi", "pytest", "_pytest", "py",
                        "pluggy", "iniconfig", "packaging", "pygments")  # fmt: skip
STDLIB_WITHOUT: Final = ("test", "idlelib", "tkinter", "ensurepip", "site-packages", "lib2to3",
                         "__pycache__", "turtledemo", "config-*")  # fmt: skip


class BuildError(Exception):
    """The machine cannot be built here. The message says why."""


class Image:
    """What `boot` needs.

    Attributes:
        qemu: the command, up to the machine's own options; run it with `environment`.
    """

    def __init__(self, directory: Path, unpacked: Path, kernel: Path) -> None:
        self.kernel = kernel
        self.initrd = directory / "initrd"
        self.environment = _libraries_of(unpacked)
        share = unpacked / "usr/share"
        self.qemu = [str(unpacked / "usr/bin/qemu-system-x86_64"),
                     "-L", str(share / "qemu"), "-L", str(share / "seabios")]  # fmt: skip


def build(directory: Path) -> Image:
    """Build everything below `directory`.

    Raises:
        BuildError: packages cannot be had, or something does not compile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    unpacked = directory / "unpacked"
    if not (directory / "packages-are-here").exists():
        _progress("fetching Debian packages …")
        _unpack(_fetch(directory), unpacked)
        (directory / "packages-are-here").touch()
    (kernel,) = unpacked.glob("boot/vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    _progress(f"building the provider for Linux {release} …")
    module = _build_module(directory / "module", unpacked, release)
    image = Image(directory, unpacked, kernel)
    _progress("packing the guest …")
    _pack(directory / "guest", image.initrd, unpacked, release, module)
    return image


def _libraries_of(unpacked: Path) -> dict[str, str]:
    folders = [unpacked / "usr/lib/x86_64-linux-gnu", unpacked / "lib/x86_64-linux-gnu"]
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}


def _progress(text: str) -> None:
    print(f"kernel test: {text}", file=sys.stderr, flush=True)  # noqa: T201 - progress


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, env={**os.environ, **(environment or {})}, text=True,
            capture_output=True, check=False, timeout=600,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from None
    if done.returncode:
        end = (done.stderr or done.stdout).strip()[-400:]
        raise BuildError(f"{command[0]} ended with {done.returncode}: {end}")
    return done.stdout


def _mirror() -> str:
    """The address of the Debian mirror that apt is configured with."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for file in files:
        text = file.read_text() if file.is_file() else ""
        for line in text.splitlines():
            if found := re.match(r"(?:deb (?:\[.*\] )?|URIs: *)(https?://\S+/debian)/?( |$)", line):
                return found[1]
    raise BuildError("apt has no Debian mirror configured")


def _fetch(directory: Path) -> list[Path]:
    """Download the packages and what they need beside what is installed."""
    apt = directory / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = [f"deb [signed-by={key}] {_mirror()} {suite} main" for suite in ("bookworm", SUITE)]
    (apt / "sources.list").write_text("\n".join(lines) + "\n")
    options = [f"-o{name}={value}" for name, value in (
        ("Dir::Etc::sourcelist", apt / "sources.list"), ("Dir::Etc::sourceparts", "-"),
        ("Dir::State::lists", apt / "lists"), ("Dir::Cache", apt / "cache"),
        ("Debug::NoLocking", 1), ("APT::Sandbox::User", "root"),
    )]  # fmt: skip
    _run("apt-get", "-qq", *options, "update")
    _run("apt-get", "-qq", "-y", *options, "--download-only", "--no-install-recommends",
         "install", *PACKAGES)  # fmt: skip
    return sorted((apt / "cache/archives").glob("*.deb"))


def _unpack(packages: list[Path], unpacked: Path) -> None:
    unpacked.mkdir(exist_ok=True)
    for package in packages:
        _run("dpkg-deb", "-x", package, unpacked)


def _build_module(work: Path, unpacked: Path, release: str) -> Path:
    """The headers name each other by places below /usr: make these ours."""
    headers = unpacked / "usr/src" / f"linux-headers-{release}"
    (common,) = (unpacked / "usr/src").glob("linux-headers-*-common")
    (headers / "Makefile").write_text(f"include {common}/Makefile\n")
    (headers / "vmlinux").unlink(missing_ok=True)  # or type information would be wanted, and a tool
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    shutil.copy(GUEST / "lucid_faketsm.c", work)
    (work / "Makefile").write_text("obj-m := lucid_faketsm.o\n")
    _run("make", "-C", headers, f"M={work}", "CC=gcc-12", "modules",
         environment=_libraries_of(unpacked))  # fmt: skip
    return work / "lucid_faketsm.ko"


def _pack(guest: Path, initrd: Path, unpacked: Path, release: str, module: Path) -> None:
    """An initial file system with busybox, this Python, its libraries, the project, the tests."""
    shutil.rmtree(guest, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "tmp", "modules", "python"):
        (guest / name).mkdir(parents=True)
    shutil.copy(unpacked / "bin/busybox", guest / "bin/busybox")
    shutil.copy(module, guest / "modules")
    for name in MODULES:
        (found,) = unpacked.glob(f"lib/modules/{release}/kernel/{name}.ko*")
        data = found.read_bytes()
        target = guest / "modules" / f"{Path(name).name}.ko"
        target.write_bytes(lzma.decompress(data) if found.suffix == ".xz" else data)
    _copy_python(guest)
    for folder in ("attestation", "tests"):
        shutil.copytree(ROOT / folder, guest / "project" / folder, symlinks=True,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    now = datetime.now(UTC)
    SimulatedVendor.load_or_create(guest / "state", now=now)
    SimulatedIntel.load_or_create(guest / "state", now=now)
    shutil.copy(GUEST / "init", guest / "init")
    (guest / "init").chmod(0o755)
    with initrd.open("wb") as file:
        names = "\n".join(["."] + [str(p.relative_to(guest)) for p in sorted(guest.rglob("*"))])
        done = subprocess.run(
            [unpacked / "bin/busybox", "cpio", "-o", "-H", "newc"], cwd=guest, input=names.encode(),
            stdout=file, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    if done.returncode:
        raise BuildError(f"cpio: {done.stderr.decode(errors='replace')[-400:]}")


def _copy_python(guest: Path) -> None:
    interpreter = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    stdlib = Path(sysconfig.get_path("stdlib"))
    home = guest / "python"
    (home / "bin").mkdir()
    shutil.copy(interpreter, home / "bin/python3")
    target = home / "lib" / stdlib.name
    shutil.copytree(stdlib, target, ignore=shutil.ignore_patterns(*STDLIB_WITHOUT))
    site = Path(sysconfig.get_path("purelib"))
    (target / "site-packages").mkdir()
    for found in site.iterdir():
        if found.name.partition(".")[0] not in SITE_PACKAGES:
            continue
        place = target / "site-packages" / found.name
        if found.is_dir():
            shutil.copytree(found, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, place)
    for library in _libraries([interpreter, *target.rglob("*.so")]):
        place = guest / str(library).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def _libraries(binaries: list[Path]) -> Iterator[Path]:
    """All shared libraries that these need, by the names under which they are looked for."""
    seen = set()
    for binary in binaries:
        for line in _run("ldd", binary).splitlines():
            found = re.search(r"(/\S+) \(0x", line)
            if found and found[1] not in seen:
                seen.add(found[1])
                yield Path(found[1])


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
