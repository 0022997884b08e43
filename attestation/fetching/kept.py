"""What was fetched and accepted, kept in memory and in a directory."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


class Kept:
    """Files by name.

    Args:
        directory: made if needed, mode 0700. None: only this process remembers.
        largest: bytes; of a larger file no more is read than makes it too large.
    """

    def __init__(self, directory: Path | None, *, largest: int) -> None:
        self._directory, self._largest = directory, largest
        self._memory: dict[str, tuple[bytes, datetime]] = {}

    def find(self, name: str) -> tuple[bytes, datetime] | None:
        """The content, and when it was kept."""
        kept = self._memory.get(name)
        if self._directory is not None:
            path = self._directory / name
            with suppress(OSError):
                kept = read(path, self._largest), datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return kept

    def keep(self, name: str, data: bytes, now: datetime) -> None:
        """Keep, durably where there is a directory that can be written."""
        self._memory[name] = data, now
        if self._directory is None:
            return
        # A cache that cannot be written costs a request next time, not this answer.
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, made = tempfile.mkstemp(dir=self._directory, prefix=".new-")  # mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.utime(handle, (now.timestamp(), now.timestamp()))  # what `find` gives
                    os.fsync(handle)
                Path(made).replace(self._directory / name)
            except BaseException:
                Path(made).unlink(missing_ok=True)
                raise

    def forget(self, name: str) -> None:
        """Remove what must not be used."""
        self._memory.pop(name, None)
        if self._directory is not None:
            with suppress(OSError):
                (self._directory / name).unlink(missing_ok=True)


def read(path: Path, largest: int) -> bytes:
    """A file's content; of a larger one no more than makes it too large.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(largest + 1)
