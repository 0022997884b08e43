"""The bundles that were taken, and their history, in the state directory. Blocking.

    policy/history.json      what was taken, when, from where, and whether it came into force
    policy/bundles/<digest>  the files of those bundles, for `rollback` and `explain`

Each change is written beside and renamed, so a crash leaves the old state or the new one. What was
pushed is on disk before it comes into force. What came from the configured directory is there
anyway, so nobody waits for the disk: it would wait together with the journal.

A bundle that was pushed stays in force over a restart until the configured directory holds
something else than it held at the push: whichever changed last counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from enforcement.policy.bundle_files import bundle_digest, read_files, sync_folder, write_files
from enforcement.policy.problems import BundleError

MAX_ENTRIES: Final = 200
MAX_BUNDLES: Final = 20
_NEW: Final = ".new-"
_OLD: Final = ".old-"

Action = Literal["directory", "push", "rollback"]
# Empty: an older agent's entry, which does not say. Superseded: a newer one came into force first.
State = Literal["", "waiting", "in_force", "superseded"]


class VaultError(Exception):
    """The store cannot be used. The message names the file and the remedy."""


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """One bundle that was taken.

    Attributes:
        at: when; UTC, ISO 8601.
        state: what became of it. It comes into force with the first passport that states it.
        in_force_at: when it did; empty where it did not, or is not known.
        action: whence it came: the configured directory, a push, or a rollback.
        by: who asked, for example `uid 0`; empty for the directory.
        signer: thumbprint of the trusted key that signed it, in hex; empty where nothing was
            checked.
        base: digest of what the configured directory held then, in hex; empty if it was broken.
    """

    at: str
    digest: str
    name: str
    version: str
    action: Action
    by: str = ""
    signer: str = ""
    base: str = ""
    state: State = ""
    in_force_at: str = ""


class _History(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    entries: list[Entry] = msgspec.field(default_factory=list)


class PolicyVault:
    """The store. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        """Open it, and make it where it is not there.

        Raises:
            VaultError: it cannot be read or made.
        """
        self._root = directory
        self._bundles = directory / "bundles"
        self._file = directory / "history.json"
        self._lock = threading.Lock()
        try:
            self._bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            content = self._file.read_bytes() if self._file.exists() else b"{}"
            self._history = msgspec.json.decode(content, type=_History)
        except (OSError, msgspec.MsgspecError) as error:
            raise VaultError(
                f"{self._file} cannot be used: {error}; move it away to start from the configured "
                "bundle"
            ) from None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The history, newest last."""
        return tuple(self._history.entries)

    @property
    def last(self) -> Entry | None:
        """What was taken last."""
        return self._history.entries[-1] if self._history.entries else None

    def add(self, files: Mapping[str, bytes], entry: Entry) -> None:
        """Keep a bundle and note that it was taken.

        Raises:
            OSError: it cannot be written; nothing has changed then.
        """
        with self._lock:
            # What stands in the configured folder can be copied again.
            self._keep(files, entry.digest, durable=entry.action != "directory")
            history = _History(entries=[*self._history.entries, entry][-MAX_ENTRIES:])
            self._write(history)
            self._history = history
            self._forget()

    def came_into_force(self, digest: str, at: str) -> list[Entry]:
        """A passport states this bundle: note it, and what waited before it and is superseded.

        Returns:
            The superseded entries.

        Raises:
            OSError: it cannot be written; it is noted in memory.
        """
        with self._lock:
            entries = self._history.entries
            waiting = [i for i, entry in enumerate(entries) if entry.state == "waiting"]
            reached = [i for i in waiting if entries[i].digest == digest]
            if not reached:
                return []
            changed = list(entries)
            superseded = [i for i in waiting if i < reached[-1]]
            for i in superseded:
                changed[i] = msgspec.structs.replace(entries[i], state="superseded")
            changed[reached[-1]] = msgspec.structs.replace(
                entries[reached[-1]], state="in_force", in_force_at=at
            )
            self._history = _History(entries=changed)
            self._write(self._history)
            return [changed[i] for i in superseded]

    def read(self, digest: str) -> dict[str, bytes]:
        """The files of a bundle that was in force.

        Raises:
            KeyError: it is not kept.
            VaultError: it is damaged.
        """
        if digest not in {entry.digest for entry in self._history.entries}:
            raise KeyError(digest)
        path = self._bundles / digest
        if not path.exists():
            raise KeyError(digest)
        try:
            files = read_files(path)
        except BundleError as error:
            raise VaultError(f"{path} is damaged: {error}") from None
        if bundle_digest(files).hex() != digest:
            raise VaultError(f"{path} is damaged: its digest is another one")
        return files

    def keep(self, files: Mapping[str, bytes], digest: str) -> None:
        """Keep a bundle that was taken already with the signature that it has now.

        Raises:
            OSError: it cannot be written; nothing has changed then.
        """
        with self._lock:
            self._keep(files, digest, durable=True)

    def _keep(self, files: Mapping[str, bytes], digest: str, *, durable: bool) -> None:
        target = self._bundles / digest
        fresh, stale = (self._bundles / f"{mark}{digest}" for mark in (_NEW, _OLD))
        if target.exists():
            with contextlib.suppress(BundleError):  # damaged: it is written anew
                if read_files(target) == files:
                    return
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            write_files(fresh, files, durable=durable)
            if target.exists():  # the same content; the signature is a new one
                target.rename(stale)
            fresh.rename(target)
            if durable:
                sync_folder(self._bundles)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            self._sweep()
            raise
        shutil.rmtree(stale, ignore_errors=True)

    def _sweep(self) -> None:
        """Undo what was left half done."""
        for path in self._bundles.glob(f"{_NEW}*"):
            shutil.rmtree(path)
        for path in self._bundles.glob(f"{_OLD}*"):
            target = self._bundles / path.name.removeprefix(_OLD)
            if target.exists():
                shutil.rmtree(path)
            else:
                path.rename(target)

    def _write(self, history: _History) -> None:
        fresh = self._file.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(history)))
            # Some file systems have the new name on disk before its content: an empty history would
            # be no history, and the next start would refuse it.
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
        sync_folder(self._root)

    def _forget(self) -> None:
        kept: dict[str, None] = {}
        for entry in reversed(self._history.entries):
            # What never decided anything is nothing to return to.
            if len(kept) < MAX_BUNDLES and entry.state != "superseded":
                kept.setdefault(entry.digest)
        with contextlib.suppress(OSError):
            for path in self._bundles.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path)
