"""What every virtual machine shares: QEMU, Debian's kernel, and its headers."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.debian import BACKPORTS, BuildError, progress, run, unpacked

COMPILER: Final = "gcc-12"  # the one that Debian built this kernel with
TOOLS: Final = ("apt-get", "dpkg-deb", "make", COMPILER)
PACKAGES: Final = (
    "qemu-system-x86",
    "busybox-static",
    # The kernel of the stable suite is too old for configfs-tsm.
    f"linux-image-cloud-amd64/{BACKPORTS}",
    f"linux-headers-cloud-amd64/{BACKPORTS}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What `open_lab` found.

    Attributes:
        files: the tree of unpacked packages.
        release: the kernel's release, as `uname -r` gives it inside.
        image: the kernel.
        busybox: a static busybox.
    """

    files: Path
    release: str
    image: Path
    busybox: Path

    def boot(
        self,
        initrd: Path,
        *,
        init: str = "/init",
        options: str = "",
        memory_mib: int = 1500,
        seconds: float = 600,
    ) -> str:
        """Boot a machine with one CPU and no network; gives what it said until it powered off.

        Args:
            init: the first process.
            options: further words of the kernel's command line.

        Raises:
            subprocess.TimeoutExpired: it did not end in time; it was killed. What it said is in
                the file that is named after `initrd`, with `.console`.
        """
        # On a busy host the guest stands still for many seconds: that is no fault of its kernel.
        patience = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
        words = f"console=ttyS0 quiet panic=-1 {patience} rdinit={init} {options}".strip()
        share = self.files / "usr/share"
        # Software emulation is not safe with more than one CPU. Without thread=single and -cx16,
        # 2 of 30 boots ended in a double fault at the kernel's first cmpxchg16b (QEMU 7.2); with
        # them, none of 30.
        command: list[str | Path] = [
            self.files / "usr/bin/qemu-system-x86_64",
            "-L", share / "qemu", "-L", share / "seabios",
            "-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-smp", "1", "-m", str(memory_mib),
            "-nographic", "-no-reboot", "-net", "none",
            "-kernel", self.image, "-initrd", initrd, "-append", words,
        ]  # fmt: skip
        # A file, not a pipe: it can be watched, and is there when the machine does not end.
        console = initrd.with_name(f"{initrd.name}.console")
        with console.open("wb") as file:
            subprocess.run(
                command, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            )  # fmt: skip
        return console.read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """Variables that unpacked programs need."""
        folders = [self.files / "usr/lib/x86_64-linux-gnu", self.files / "lib/x86_64-linux-gnu"]
        return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}

    def module(self, name: str) -> bytes:
        """A module of this kernel, e.g. `fs/configfs/configfs`.

        Raises:
            BuildError: it has no such module.
        """
        found = list(self.files.glob(f"lib/modules/{self.release}/kernel/{name}.ko*"))
        if len(found) != 1:
            raise BuildError(f"Linux {self.release} has no module {name}")
        data = found[0].read_bytes()
        return lzma.decompress(data) if found[0].suffix == ".xz" else data

    def build_module(self, source: Path, work: Path) -> Path:
        """Compile a module from one C file.

        Raises:
            BuildError: it does not compile.
        """
        progress(f"building {source.name} for Linux {self.release} …")
        # The headers name each other by places below /usr: make these ours.
        headers = self.files / "usr/src" / f"linux-headers-{self.release}"
        (common,) = (self.files / "usr/src").glob("linux-headers-*-common")
        (headers / "Makefile").write_text(f"include {common}/Makefile\n")
        # With it, type information would be wanted, and a tool that makes it.
        (headers / "vmlinux").unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        shutil.copy(source, work)
        (work / "Makefile").write_text(f"obj-m := {source.stem}.o\n")
        run("make", "-C", headers, f"M={work}", f"CC={COMPILER}", "modules",
            environment=self.environment)  # fmt: skip
        return work / f"{source.stem}.ko"


def open_lab(directory: Path) -> Lab:
    """Fetch what is needed into `directory`, or take what an earlier call left there.

    Raises:
        BuildError: with what is missing on this machine.
    """
    if missing := [name for name in TOOLS if not shutil.which(name)]:
        raise BuildError(f"not on this machine: {', '.join(missing)}")
    files = unpacked(directory, PACKAGES)
    images = list(files.glob("boot/vmlinuz-*"))
    if len(images) != 1:  # an older kernel from the cache stands beside the new one
        raise BuildError(f"{len(images)} kernels in {files}; remove {directory}")
    return Lab(
        files=files,
        release=images[0].name.removeprefix("vmlinuz-"),
        image=images[0],
        busybox=files / "bin/busybox",
    )
