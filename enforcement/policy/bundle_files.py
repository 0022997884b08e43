"""The files of a policy bundle: what may lie in it, how much, and its digest.

Every file is read once; what is hashed is what is parsed. The layout is closed, because the digest
stands for the whole bundle and an unread file in it would be a promise that nobody keeps:

    bundle.toml          name, version, stream, detectors, claims
    policies/*.cedar     at least one; no folders below
    entities.json        optional
    tests/*.yaml         optional; for `lucid policy test`
    tests/*.json         optional; test files of Cedar's own command
    README.md            optional
    bundle.sig           optional; a signature over the digest of all the rest

Anything else (other names, dotfiles, symbolic links, special files) is refused.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcement.policy.problems import BundleError, Problem

_KNOWN: Final = re.compile(
    r"bundle\.toml|entities\.json|README\.md"
    r"|policies/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.cedar"
    r"|tests/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(ya?ml|json)"
    r"|bundle\.sig"
)
SIGNATURE: Final = "bundle.sig"
_FOLDERS: Final = frozenset({"policies", "tests"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLimits:
    """Bounds on a bundle. Guesses, far above what people write by hand."""

    files: int = 1000
    file_bytes: int = 1024 * 1024
    total_bytes: int = 8 * 1024 * 1024
    policies: int = 5000
    entities: int = 10_000


LIMITS: Final = BundleLimits()


def read_files(root: Path) -> dict[str, bytes]:
    """All files by their path inside the bundle, sorted.

    `root` itself may be a symbolic link (it is resolved once), so that an operator can switch
    bundles atomically; nothing inside may be.

    Raises:
        BundleError: a missing folder, a name or kind that does not belong, a limit.
    """
    try:
        root = _resolved(root)
        names = _names(root)
    except OSError as error:
        why = f"{error.filename or root} cannot be read: {_why(error)}"
        problem = Problem(file="", message=why, fix="check the path", rule="file.unreadable")
        raise BundleError([problem]) from error
    if len(names) > LIMITS.files:
        raise BundleError(
            [Problem(file="", message=f"more than {LIMITS.files} files", rule="bundle.limit")]
        )
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    total = 0
    for name in names:
        if not _KNOWN.fullmatch(name):
            problems.append(_unknown(name))
            continue
        try:
            files[name] = _read(root / name)
        except _NotAFileError as error:
            fix = "put the file itself there"
            problems.append(Problem(file=name, message=str(error), fix=fix, rule="file.unknown"))
            continue
        except OSError as error:
            problems.append(Problem(file=name, message=_why(error), rule="file.unreadable"))
            continue
        if len(files[name]) > LIMITS.file_bytes:
            problems.append(_large(name))
        total += len(files[name])
        if total > LIMITS.total_bytes:
            break
    problems += _layout_problems(names, total)
    if problems:
        raise BundleError(problems)
    return files


def check_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files that came by another way than a folder, under the same rules; sorted.

    Raises:
        BundleError: a name that does not belong, a limit.
    """
    if len(files) > LIMITS.files:
        raise BundleError(
            [Problem(file="", message=f"more than {LIMITS.files} files", rule="bundle.limit")]
        )
    problems = [_unknown(name) for name in files if not _KNOWN.fullmatch(name)]
    problems += [
        _large(name) for name, content in files.items() if len(content) > LIMITS.file_bytes
    ]
    problems += _layout_problems(files, sum(map(len, files.values())))
    if problems:
        raise BundleError(problems)
    return dict(sorted(files.items()))


def write_files(root: Path, files: Mapping[str, bytes], *, durable: bool) -> None:
    """Write a bundle's files into a new folder; `durable`: they are on disk when this returns.

    Raises:
        OSError: the folder is there already, or cannot be written.
    """
    root.mkdir(mode=0o700)
    folders = {root / name.partition("/")[0] for name in files if "/" in name}
    for folder in folders:
        folder.mkdir(mode=0o700)
    for name, content in files.items():
        with (root / name).open("xb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    if durable:
        for folder in (*folders, root):
            sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(root: Path) -> tuple[object, ...]:
    """What changes when the folder does: where it really is, and each file's identity, size and
    times. Cheap enough to ask for often; never raises: what cannot be read is part of it."""
    try:
        root = _resolved(root)
        names = _names(root)
    except OSError as error:
        return ("unreadable", error.errno)
    found: list[object] = [str(root)]
    for name in names:
        try:
            state = (root / name).lstat()
        except OSError as error:
            found.append((name, error.errno))
        else:
            found.append((name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return tuple(found)


def _layout_problems(names: Iterable[str], total: int) -> list[Problem]:
    problems: list[Problem] = []
    if total > LIMITS.total_bytes:
        problems.append(
            Problem(
                file="",
                message=f"larger than {LIMITS.total_bytes} bytes altogether",
                rule="bundle.limit",
            )
        )
    if "bundle.toml" not in names:
        problems.append(
            Problem(
                file="bundle.toml",
                message="missing",
                fix="every bundle has one",
                rule="file.missing",
            )
        )
    if not any(name.startswith("policies/") for name in names):
        problems.append(
            Problem(
                file="policies",
                message="no policy files",
                fix="without a permit all is denied",
                rule="file.missing",
            )
        )
    return problems


def bundle_digest(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 over the sorted list of path and file hash; 32 bytes.

    The hashed text has one line a file, `<SHA-256 in lower-case hex><two spaces><path>\\n`, in
    bytewise order of the paths: what coreutils print, so that anyone can recompute it with
    `find * -type f ! -name bundle.sig | LC_ALL=C sort | xargs sha256sum | sha256sum` inside the
    bundle. The signature is not part of it, because it is over it.
    """
    lines = "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
        for name in sorted(files)
        if name != SIGNATURE
    )
    return hashlib.sha256(lines.encode("ascii")).digest()


def _resolved(root: Path) -> Path:
    """Where a folder really is.

    Raises:
        OSError: nowhere.
    """
    try:
        return root.resolve(strict=True)
    except RuntimeError:  # a link to itself, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(root)) from None


def _names(root: Path) -> list[str]:
    """Paths of everything in it, sorted; one more than may be there says: too many."""
    return sorted(itertools.islice(_walk(root), LIMITS.files + 1))


def _walk(root: Path) -> Iterator[str]:
    """Paths of everything that is not one of the two folders, one level deep."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name in _FOLDERS and entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as inner:
                    yield from (f"{entry.name}/{item.name}" for item in inner)
            else:
                yield entry.name


def _read(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait; it has no effect on regular files.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            kind = "a symbolic link" if error.errno == errno.ELOOP else "a socket"
            raise _NotAFileError(f"{kind}, which may not stand inside a bundle") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _NotAFileError("not a regular file")
        return file.read(LIMITS.file_bytes + 1)


class _NotAFileError(Exception):
    """Something else stands there."""


def _large(name: str) -> Problem:
    return Problem(
        file=name,
        message=f"larger than {LIMITS.file_bytes} bytes",
        fix="divide it into several files" if "/" in name else "",
        rule="bundle.limit",
    )


def _unknown(name: str) -> Problem:
    return Problem(
        file=name.encode("utf-8", "backslashreplace").decode(),
        message="does not belong in a bundle",
        fix="allowed are bundle.toml, policies/*.cedar, entities.json, tests/*.yaml, tests/*.json, "
        "README.md, bundle.sig",
        rule="file.unknown",
    )


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
