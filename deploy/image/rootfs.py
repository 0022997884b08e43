"""Assemble the image's file tree: an interpreter, the agent, the libraries they load; nothing else.

Runs inside the build stage, where everything is installed the ordinary way:

    python3 rootfs.py VENV OUT

Copies the interpreter with what a daemon needs of its standard library, the virtual environment
VENV to the same place, and the shared libraries that these name, found by the loader itself. Strips
symbols and compiles every module once. Of the standard library only the bytecode stays (8 MB less);
what we wrote and what the wheels brought can be read in the image. Which packages the files came
from is said where scanners look for it.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

USER = 65532
# Of the standard library: what no daemon imports. Tests, build tools, other programs, terminals;
# what Python has since removed (PEP 594, PEP 632); protocols of mail, news and remote calls.
UNUSED = frozenset({
    "__phello__", "__pycache__", "config", "curses", "dbm", "dist-packages", "distutils",
    "doctest.py", "ensurepip", "EXTERNALLY", "idlelib", "lib2to3", "pydoc.py", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtle.py", "turtledemo", "unittest", "venv",
    "_sysconfigdata__linux_x86_64",
    "aifc.py", "asynchat.py", "asyncore.py", "cgi.py", "cgitb.py", "chunk.py", "imghdr.py",
    "mailcap.py", "nntplib.py", "pipes.py", "smtpd.py", "sndhdr.py", "sunau.py", "telnetlib.py",
    "uu.py", "xdrlib.py",
    "_pydecimal.py", "_pyio.py", "bdb.py", "cProfile.py", "modulefinder.py", "pdb.py",
    "pickletools.py", "profile.py", "pstats.py", "trace.py", "webbrowser.py",
    "ftplib.py", "imaplib.py", "mailbox.py", "poplib.py", "smtplib.py", "xmlrpc",
})  # fmt: skip
UNUSED_EXTENSIONS = re.compile(
    r"(_curses|_dbm|_gdbm|_tkinter|_test|_xx|_ctypes_test|_lsprof|audioop|nis|ossaudiodev|readline|xx"
    r"|_codecs_(cn|hk|jp|kr|tw)).*"
)
# Of the wheels: headers and sources of extensions, typing stubs, tests, and by name: databases that
# have no driver here, and what cffi needs only to compile.
UNUSED_IN_WHEELS = re.compile(
    r".*\.(pyx|pxd|pxi|c|h|cpp|hpp|pyi)"
    r"|(.*/)?(test|tests|_tests)|sqlalchemy/testing"
    r"|sqlalchemy/dialects/(mssql|mysql|oracle|postgresql)|grpc/(beta|framework)"
    r"|sqlalchemy/ext/(automap|baked|declarative|horizontal_shard|hybrid|indexable|serializer)(\.py)?"
    r"|pycparser.*"
)
OURS = frozenset({"agent", "attestation", "enforcement", "lucid", "observer"})
COMMANDS = frozenset({"lucid", "lucid-agent", "lucid-observer"})


def main(venv: Path, out: Path) -> None:
    """Make OUT."""
    out.mkdir()
    _skeleton(out)
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    copied = [_copy(interpreter, out)]
    copied += _copy_tree(stdlib, out, skip=_unused_in_stdlib(stdlib))
    copied += _copy_tree(venv, out, skip=_unused_in_venv(venv))
    (out / venv.relative_to("/") / "bin" / "python").symlink_to(interpreter)
    example = out / "usr/share/lucid/example-bundle"
    example.parent.mkdir(parents=True)
    example.symlink_to(next(venv.glob("lib/python3*")) / "site-packages/lucid/data/bundle")
    binaries = [path for path in copied if _is_elf(path)]
    libraries = sorted(_needed(binaries) - {path.resolve() for path in binaries})
    for library in libraries:
        _copy_library(library, out)
    _name_packages(out, [interpreter, stdlib / "os.py", stdlib / "tarfile.py", *libraries])
    _strip(out)
    here = out / stdlib.relative_to("/")
    _compile(here, stdlib, beside=True)
    for source in sorted(here.rglob("*.py")):
        source.unlink()
    _compile(out / venv.relative_to("/"), venv, beside=False)
    for path in (out, *out.rglob("*")):  # the builder writes a digest with these into its history
        os.utime(path, (0, 0), follow_symlinks=False)


def _skeleton(out: Path) -> None:
    for folder in ("etc", "proc", "sys", "dev", "usr/bin", "usr/lib", "usr/lib64", "opt"):
        (out / folder).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (out / name).symlink_to(f"usr/{name}")
    (out / "etc/passwd").write_text(
        f"root:x:0:0:root:/:/nonexistent\nlucid:x:{USER}:{USER}:Lucid agent:/:/nonexistent\n"
    )
    (out / "etc/group").write_text(f"root:x:0:\nlucid:x:{USER}:\n")
    (out / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    shutil.copy("/etc/os-release", out / "etc/os-release")
    for name, mode in (("etc/lucid", 0o755), ("run/lucid", 0o750), ("var/lib/lucid", 0o700)):
        folder = out / name
        folder.mkdir(parents=True)
        os.chown(folder, USER, USER)
        folder.chmod(mode)
    (out / "run/lucid-quote").mkdir()  # the helper's: root without capabilities writes only here
    (out / "tmp").mkdir()
    (out / "tmp").chmod(0o1777)


def _copy(source: Path, out: Path) -> Path:
    target = out / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    return source


def _copy_tree(root: Path, out: Path, *, skip: frozenset[Path]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(n for n in folders if here / n not in skip and n != "__pycache__")
        for name in [*names, *(n for n in folders if (here / n).is_symlink())]:
            if here / name not in skip:
                yield _copy(here / name, out)


def _unused_in_stdlib(stdlib: Path) -> frozenset[Path]:
    unused = [path for path in stdlib.iterdir() if path.name.partition("-")[0] in UNUSED]
    extensions = (stdlib / "lib-dynload").iterdir()
    return frozenset(
        [*unused, *(path for path in extensions if UNUSED_EXTENSIONS.match(path.name))]
    )


def _unused_in_venv(venv: Path) -> frozenset[Path]:
    unused = {path for path in (venv / "bin").iterdir() if path.name not in COMMANDS}
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    for path in site.rglob("*"):
        name = str(path.relative_to(site))
        if name.partition("/")[0] not in OURS and UNUSED_IN_WHEELS.fullmatch(name):
            unused.add(path)
    return frozenset(unused)


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _needed(binaries: Iterable[Path]) -> set[Path]:
    """The loader's own answer for all of them, the loader itself among it."""
    found: set[Path] = set()
    for binary in binaries:
        answer = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True)
        if "not found" in answer.stdout:
            raise SystemExit(f"{binary}: a library is missing:\n{answer.stdout}")
        for line in answer.stdout.splitlines():
            if match := re.search(r"(/\S+) \(0x", line):
                found.add(Path(match[1]))
    return found


def _copy_library(library: Path, out: Path) -> None:
    """The file under the name that is asked for; where that is a link, its target under it."""
    target = out / library.parent.resolve().relative_to("/") / library.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(library.resolve(), target)


def _name_packages(out: Path, files: Iterable[Path]) -> None:
    """Debian packages that the files are of: status as distroless images keep it, and licences."""
    packages = set()
    for file in files:
        for name in (str(file), str(file.resolve()), str(file).removeprefix("/usr")):
            answer = subprocess.run(
                ["dpkg", "-S", name], check=False, capture_output=True, text=True
            )
            if answer.returncode == 0:
                packages.add(answer.stdout.partition(": ")[0].split(", ")[0])
                break
        else:
            raise SystemExit(f"{file}: of no package")
    status = out / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in sorted(packages):
        name = package.partition(":")[0]
        said = subprocess.run(["dpkg", "-s", package], capture_output=True, check=True).stdout
        (status / name).write_bytes(said)
        licence = Path("/usr/share/doc") / name / "copyright"
        _copy(licence.resolve(), out)


def _strip(out: Path) -> None:
    for path in sorted(out.rglob("*")):
        if _is_elf(path):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)


def _compile(tree: Path, name: Path, *, beside: bool) -> None:
    """Bytecode that is never checked against its source: this tree is not written to.

    Args:
        name: what the tree will be called in the image.
        beside: put the bytecode beside the source, where it is imported without it.
    """
    if not compileall.compile_dir(
        tree,
        stripdir=str(tree),
        prependdir=str(name),
        quiet=1,
        maxlevels=100,
        legacy=beside,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    ):
        raise SystemExit(f"{name}: a module does not compile")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
