"""A guest's file system, put together from what this machine has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from tests.vm.debian import BuildError, progress, run
from tests.vm.lab import Lab

ROOT: Final = Path(__file__).resolve().parents[2]
DIRECTORIES: Final = ("bin", "dev", "proc", "sys", "tmp", "modules")
STDLIB_WITHOUT: Final = ("test", "idlelib", "tkinter", "ensurepip", "site-packages", "lib2to3",
                         "__pycache__", "turtledemo", "config-*")  # fmt: skip


class Guest:
    """A tree that becomes the initial file system."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    @classmethod
    def empty(cls, tree: Path) -> Self:
        """A tree with nothing but directories."""
        shutil.rmtree(tree, ignore_errors=True)
        for name in DIRECTORIES:
            (tree / name).mkdir(parents=True)
        return cls(tree)

    def add(self, source: Path, place: str, *, executable: bool = False) -> None:
        """Copy a file or a directory to a place, e.g. `etc/lucid/agent.toml`."""
        target = self.tree / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
        if executable:
            target.chmod(0o755)

    def add_busybox(self, lab: Lab) -> None:
        """`/bin/busybox`, without links to it."""
        self.add(lab.busybox, "bin/busybox")

    def add_modules(self, lab: Lab, *names: str) -> None:
        """Modules of the kernel, e.g. `fs/configfs/configfs` as `/modules/configfs.ko`.

        Raises:
            BuildError: the kernel has no such module.
        """
        (self.tree / "modules").mkdir(exist_ok=True)
        for name in names:
            (self.tree / "modules" / f"{Path(name).name}.ko").write_bytes(lab.module(name))

    def add_project(self, *folders: str) -> None:
        """Folders of this project below `/project`."""
        for folder in folders:
            self.add(ROOT / folder, f"project/{folder}")

    def add_python(self, site_packages: Iterable[str]) -> None:
        """This interpreter as `/python/bin/python3` (PYTHONHOME=/python), its standard library,
        these of its installed packages, and every shared library that they need.
        """
        interpreter = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
        stdlib = Path(sysconfig.get_path("stdlib"))
        self.add(interpreter, "python/bin/python3")
        target = self.tree / "python" / "lib" / stdlib.name
        shutil.copytree(stdlib, target, ignore=shutil.ignore_patterns(*STDLIB_WITHOUT))
        wanted = frozenset(site_packages)
        place = target.relative_to(self.tree) / "site-packages"
        for found in Path(sysconfig.get_path("purelib")).iterdir():
            if found.name.partition(".")[0] in wanted:
                self.add(found, str(place / found.name))
        for library in _libraries([interpreter, *target.rglob("*.so")]):
            self.add(library, str(library).lstrip("/"))

    def pack(self, lab: Lab, initrd: Path) -> Path:
        """Write the tree as an initial file system.

        Raises:
            BuildError: it cannot be packed.
        """
        progress("packing the guest …")
        tree = self.tree
        names = "\n".join(["."] + [str(p.relative_to(tree)) for p in sorted(tree.rglob("*"))])
        with initrd.open("wb") as file:
            done = subprocess.run(
                [lab.busybox, "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(),
                stdout=file, stderr=subprocess.PIPE, check=False, timeout=120,
            )  # fmt: skip
        if done.returncode:
            raise BuildError(f"cpio: {done.stderr.decode(errors='replace')[-400:]}")
        return initrd


def _libraries(binaries: list[Path]) -> Iterator[Path]:
    """All shared libraries that these need, by the names under which they are looked for."""
    seen = set()
    for binary in binaries:
        for line in run("ldd", binary).splitlines():
            found = re.search(r"(/\S+) \(0x", line)
            if found and found[1] not in seen:
                seen.add(found[1])
                yield Path(found[1])
