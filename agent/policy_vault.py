"""The bundles that were in force, and their history, in the state directory. Blocking.

    policy/history.json      what came into force, when, and from where; newest last
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
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from enforcement.bundle_files import bundle_digest, read_files, sync_folder, write_files
from enforcement.problems import BundleError

MAX_ENTRIES: Final = 200
MAX_BUNDLES: Final = 20

Action = Literal["directory", "push", "rollback"]


class VaultError(Exception):
    """The store cannot be used. The message names the file and the remedy."""


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """One bundle that came into force.

    Attributes:
        at: UTC, ISO 8601.
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


class _History(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    entries: list[Entry] = msgspec.field(default_factory=list)


class PolicyVault:
    """The store. Used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        """Open it, and make it where it is not there.

        Raises:
            VaultError: it cannot be read or made.
        """
        self._root = directory
        self._bundles = directory / "bundles"
        self._file = directory / "history.json"
        try:
            self._bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
            for stale in self._bundles.glob(".new-*"):
                shutil.rmtree(stale)
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
        """What came into force last."""
        return self._history.entries[-1] if self._history.entries else None

    def add(self, files: Mapping[str, bytes], entry: Entry) -> None:
        """Keep a bundle and note that it comes into force.

        Raises:
            OSError: it cannot be written; nothing has changed then.
        """
        durable = entry.action != "directory"
        self._keep(files, entry.digest, durable=durable)
        entries = [*self._history.entries, entry][-MAX_ENTRIES:]
        self._write(_History(entries=entries), durable=durable)
        self._history = _History(entries=entries)
        self._forget()

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

    def _keep(self, files: Mapping[str, bytes], digest: str, *, durable: bool) -> None:
        target, fresh = self._bundles / digest, self._bundles / f".new-{digest}"
        if target.exists():
            # The same content under the same name; the signature may be a new one.
            shutil.rmtree(target)
        try:
            write_files(fresh, files, durable=durable)
            fresh.rename(target)
            if durable:
                sync_folder(self._bundles)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _write(self, history: _History, *, durable: bool) -> None:
        fresh = self._file.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(history)))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(self._file)
        if durable:
            sync_folder(self._root)

    def _forget(self) -> None:
        kept: dict[str, None] = {}
        for entry in reversed(self._history.entries):
            if len(kept) < MAX_BUNDLES:
                kept.setdefault(entry.digest)
        with contextlib.suppress(OSError):
            for path in self._bundles.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path)
