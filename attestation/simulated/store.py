"""Where the simulated vendor's keys lie: a directory that only its owner can read.

The directory is made whole under another name and renamed into place, so there is never half a
vendor, and of two processes that make one at once, one wins and both use it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from attestation.errors import QuoteError

MAX_FILE_SIZE: Final = 16_384  # bytes; an RSA-4096 key has 3.3 KiB of PEM


def load_or_create(
    directory: Path, names: Iterable[str], make: Callable[[], Mapping[str, bytes]]
) -> dict[str, bytes]:
    """The named files, made by `make` if there is no such directory.

    Raises:
        QuoteError: as `load` and `create`.
    """
    names = tuple(names)
    files = load(directory, names)
    if files is None:
        create(directory, make())
        files = load(directory, names)
    if files is None:
        raise damaged(directory, "it was removed while it was being made")
    return files


def load(directory: Path, names: Iterable[str]) -> dict[str, bytes] | None:
    """The named files; None where there is no such directory.

    Raises:
        QuoteError: `simulated.permissions`: the directory or a file is a link, belongs to another
            user, or is open to others; `simulated.state`: it cannot be read.
    """
    try:
        info = directory.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _state_error(directory, "read", error) from None
    _require_private(directory, info, stat.S_ISDIR)
    files: dict[str, bytes] = {}
    for name in names:
        try:
            files[name] = _read(directory / name)
        except OSError as error:
            raise _state_error(directory / name, "read", error) from None
    return files


def create(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a new directory (mode 0700) with these files (0600), at once or not at all.

    Where the directory has come to exist meanwhile, it is left as it is.

    Raises:
        QuoteError: `simulated.state`: it cannot be written; nothing is left behind.
    """
    parent = directory.parent
    temporary = parent / f".{directory.name}.{secrets.token_hex(8)}"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        for name, content in files.items():
            _write(temporary / name, content)
        _sync(temporary)
        try:
            temporary.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
        _sync(parent)
    except OSError as error:
        raise _state_error(directory, "written", error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def damaged(directory: Path, why: str) -> QuoteError:
    """The error for keys that cannot be used."""
    return QuoteError(
        "simulated.damaged",
        f"the simulated TEE in {directory} cannot be used: {why}",
        remedy=f"check the clock, or remove {directory}: a new one is made at the next start,"
        " and relying parties need its new root",
        final=True,
    )


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _require_private(path, os.fstat(descriptor), stat.S_ISREG)
        content = file.read(MAX_FILE_SIZE + 1)
    if len(content) > MAX_FILE_SIZE:
        raise damaged(path.parent, f"{path.name} is longer than {MAX_FILE_SIZE} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_private(path: Path, info: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(info.st_mode):
        what, remedy = "is not a plain file or directory", f"remove {path}"
    elif info.st_uid != os.geteuid():
        what = f"belongs to user {info.st_uid}, not to the agent's user {os.geteuid()}"
        remedy = f"chown it to the agent's user, or remove {path}"
    elif info.st_mode & 0o077:
        what = f"is open to others (mode {stat.S_IMODE(info.st_mode):04o})"
        remedy = f"chmod go= {path}; if others may have read it, remove it: a new one is made"
    else:
        return
    raise QuoteError(
        "simulated.permissions",
        f"{path}, which holds the keys of the simulated TEE, {what}",
        remedy=remedy,
        final=True,
    )


def _state_error(path: Path, verb: str, error: OSError) -> QuoteError:
    return QuoteError(
        "simulated.state",
        f"{path}, which holds the keys of the simulated TEE, cannot be {verb}: {error.strerror}",
        remedy=f"make {path.parent} a directory that the agent's user can write, or set"
        " agent.state_dir",
        final=True,
        errno=error.errno,
    )
