"""The policy bundle that is enforced: where it comes from, and how it changes.

Bundles come from the configured directory (at the start, on SIGHUP, and when the directory
changes) or are pushed over the local API. Whatever its way, a bundle is read whole, checked, parsed
in a thread, and comes into force together with a passport that states its digest. A bundle that
cannot be used changes nothing but a counter and the log.

The directory is looked at every `watch_seconds`. A change is loaded when two looks in a row see
the same, and only if nothing changed while it was read, so a folder that is being written is left
alone. What was tried once is not tried again until it changes, unless it may pass by itself: a file
that could not be read, an auditor that was away.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from agent import logs
from agent.config import PolicyTable
from agent.errors import ExitCode, FatalError
from agent.policy_vault import Action, Entry, PolicyVault, VaultError
from agent.supervise import Faults
from attestation.panics import is_fault
from enforcement.bundle import Bundle, BundleError, Problem
from enforcement.bundle_files import bundle_digest, check_files, fingerprint, read_files
from enforcement.bundle_signature import KeyFileError, Trust, read_public_key
from enforcement.engine import Engine
from enforcement.shadow import Shadow

_LOG = logs.get("policy")
IN_FORCE_SECONDS: Final = 30.0  # how long a push waits for its passport
SETTLE_TRIES: Final = 5  # to read a folder that is being written
SETTLE_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 60.0  # between two tries of what may pass by itself
_PASSING: Final = frozenset({"auditors", "file.unreadable"})  # rules of such problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A bundle, ready to decide."""

    bundle: Bundle
    engine: Engine
    action: Action


class Policies:
    """Which bundle is enforced. `start` first; everything else on the trio thread.

    Attributes:
        newest: what the next passport states.
        failures: bundles that were refused since the start.
        problem: why the directory was refused when it was last looked at; empty: it was not.
        claims_missing: denials because nobody gave a claim, by (claim,).
        shadow: the candidate beside it, if there is one.
    """

    newest: Loaded

    def __init__(
        self,
        table: PolicyTable,
        *,
        state_dir: Path,
        changed: Callable[[], None],
        shadow_changed: Callable[[], None],
        admit: Callable[[Bundle], Awaitable[None]],
        faults: Faults,
    ) -> None:
        """Opens nothing yet.

        `changed`: there is a newer bundle, which needs a passport. `admit`: asked about a sound
        bundle before it is taken; raises FatalError where nobody gives the claims that it needs.
        """
        self._table = table
        self._path = Path(table.bundle)
        self._state = state_dir / "policy"
        self._changed = changed
        self._shadow_changed = shadow_changed
        self._faults = faults
        self._admit = admit
        self._turn = trio.Lock()
        self._in_force = trio.Condition()
        self._digest_in_force = b""
        self._tried: tuple[object, ...] = ()
        self._again = float("inf")  # when what was refused is tried again all the same
        self._wish = trio.Event()
        self._base = ""
        self.failures = 0
        self.problem = ""
        self.claims_missing: dict[tuple[str, ...], int] = {}
        self.shadow: Shadow | None = None

    @property
    def trust(self) -> Trust:
        """Whose signatures count."""
        return self._trust

    def start(self) -> None:
        """Load what is to be enforced first. Blocking.

        Raises:
            FatalError: there is nothing that can be enforced.
        """
        self._trust = trust_of(self._table)
        self._tried = fingerprint(self._path)
        try:
            self._vault = PolicyVault(self._state)
        except VaultError as error:
            raise FatalError(ExitCode.STATE, str(error)) from None
        self.newest = self._first()
        self.newest.engine.missing = self.claims_missing
        try:
            self._note(self.newest, by="")
        except OSError as error:
            raise FatalError(
                ExitCode.STATE, f"{self._state} cannot be written: {error.strerror}"
            ) from None
        if self._table.shadow:
            self._load_shadow(Path(self._table.shadow))

    async def reload(self) -> None:
        """Load the directory again (SIGHUP), whether or not it seems to have changed."""
        async with self._turn:
            for _ in range(SETTLE_TRIES):
                seen = await trio.to_thread.run_sync(fingerprint, self._path)
                if await self._load_directory(seen):
                    break
                await trio.sleep(SETTLE_SECONDS)
        if self._table.shadow:
            await trio.to_thread.run_sync(self._load_shadow, Path(self._table.shadow))
            self._shadow_changed()

    def reload_soon(self) -> None:
        """Have `watch` do what `reload` does. Wishes that come until it begins are one."""
        self._wish.set()

    async def watch(self) -> None:
        """Load the directory when it changes, or somebody wishes it. Until cancelled."""
        before = self._tried
        while True:
            with trio.move_on_after(self._table.watch_seconds or float("inf")):
                await self._wish.wait()
            if self._wish.is_set():
                await self._fulfil()
                before = self._tried
                continue
            seen = await trio.to_thread.run_sync(fingerprint, self._path)
            again = seen != self._tried or time.monotonic() >= self._again
            if seen == before and again:
                async with self._turn:
                    await self._load_directory(seen)
            before = seen

    async def _fulfil(self) -> None:
        self._wish = trio.Event()
        try:
            await self.reload()
        except Exception:
            self._wish.set()  # whoever keeps `watch` alive has it done again
            raise

    async def push(self, files: Mapping[str, bytes], *, by: str) -> Loaded:
        """Take a bundle that somebody brought. It is checked like any other.

        Raises:
            BundleError: it cannot be used; nothing has changed.
            OSError: it cannot be kept; nothing has changed.
        """
        async with self._turn:
            loaded = await self._read(lambda: check_files(files), "push")
            await self._take(loaded, by=by)
        return loaded

    async def rollback(self, digest: str | None, *, by: str) -> Loaded:
        """Take a bundle that was in force before; None: the one before the newest.

        Raises:
            KeyError: it is not kept, or there is none.
            BundleError: it cannot be used any more; nothing has changed.
            OSError, VaultError: it cannot be read or kept; nothing has changed.
        """
        async with self._turn:
            wanted = self._earlier() if digest is None else digest
            files = await trio.to_thread.run_sync(self._vault.read, wanted)
            loaded = await self._read(lambda: files, "rollback")
            await self._take(loaded, by=by)
        return loaded

    async def in_force(self, loaded: Loaded) -> bool:
        """Wait until a passport states the bundle; False if that took too long."""
        with trio.move_on_after(IN_FORCE_SECONDS):
            async with self._in_force:
                while self._digest_in_force != loaded.bundle.digest:
                    await self._in_force.wait()
                return True
        return False

    async def came_into_force(self, digest: bytes) -> None:
        """Called when a passport states a bundle."""
        async with self._in_force:
            self._digest_in_force = digest
            self._in_force.notify_all()

    def cache_counts(self) -> tuple[int, int]:
        """Hits and misses of the newest engine."""
        return self.newest.engine.cache_counts()

    def history(self) -> tuple[Entry, ...]:
        """What came into force, newest last."""
        return self._vault.entries

    async def files(self, digest: str) -> Mapping[str, bytes]:
        """The files of a bundle that is or was in force.

        Raises:
            KeyError: it is not kept.
            VaultError: it is damaged.
        """
        newest = self.newest.bundle
        if newest.digest.hex() == digest:
            return newest.files
        return await trio.to_thread.run_sync(self._vault.read, digest)

    async def set_shadow(self, files: Mapping[str, bytes] | None) -> None:
        """Begin to ask a candidate beside the live bundle, or stop (None).

        Raises:
            BundleError: it cannot be used; what was there stays.
        """
        if files is None:
            self.shadow = None
        else:
            loaded = await trio.to_thread.run_sync(self._load, lambda: check_files(files), "push")
            self.shadow = Shadow(loaded.bundle, loaded.engine)
        self._shadow_changed()

    # -- within -----------------------------------------------------------------------------------

    def _first(self) -> Loaded:
        last = self._vault.last
        pushed = last if last is not None and last.action != "directory" else None
        try:
            directory = self._load(lambda: read_files(self._path), "directory")
        except BundleError as error:
            if pushed is None:
                raise FatalError(
                    ExitCode.USAGE, f"the policy bundle {self._path} cannot be used:\n{error}"
                ) from None
            self._failed(error)
            self._base = pushed.base
        else:
            self._base = directory.bundle.digest.hex()
            if pushed is None or pushed.base != self._base:
                return directory
        assert pushed is not None
        try:
            files = self._vault.read(pushed.digest)
            return self._load(lambda: files, pushed.action)
        except (KeyError, VaultError, BundleError) as error:
            raise FatalError(
                ExitCode.USAGE,
                f"the bundle {pushed.digest} came by {pushed.action} and cannot be used:\n{error}",
                remedy=f"change the configured bundle, or move {self._state}/history.json away",
            ) from None

    def _load(self, read: Callable[[], Mapping[str, bytes]], action: Action) -> Loaded:
        bundle = Bundle.from_files(read(), trust=self._trust)
        return Loaded(bundle=bundle, engine=Engine(bundle), action=action)

    async def _read(self, read: Callable[[], Mapping[str, bytes]], action: Action) -> Loaded:
        loaded = await trio.to_thread.run_sync(self._load, read, action)
        try:
            await self._admit(loaded.bundle)
        except FatalError as error:
            raise BundleError(
                [Problem(file="bundle.toml", message=str(error), fix=error.remedy, rule="auditors")]
            ) from None
        return loaded

    async def _load_directory(self, seen: tuple[object, ...]) -> bool:
        """Load what the directory holds; False if it changed meanwhile, and nothing was done."""

        def read() -> Mapping[str, bytes]:
            files = read_files(self._path)
            if fingerprint(self._path) != seen:
                raise BundleError([_unsettled()])
            return files

        try:
            files = await trio.to_thread.run_sync(read)
        except BundleError as error:
            if any(problem.rule == "bundle.unsettled" for problem in error.problems):
                _LOG.info("policy.unsettled")  # the next look will see to it
                return False
            self._tried = seen
            self._failed(error)
            return True
        except BaseException as error:
            if not is_fault(error):
                raise
            self._tried = seen
            self._fault(error)
            return True
        self._tried, self._again = seen, float("inf")
        base = bundle_digest(files).hex()
        if base == self._base:
            self.problem = ""
            _LOG.info("policy.unchanged", digest=base)
            return True
        try:
            loaded = await self._read(lambda: files, "directory")
        except BundleError as error:
            self._failed(error)
            return True
        except BaseException as error:
            if not is_fault(error):
                raise
            self._fault(error)
            return True
        self.problem = ""
        self._base = base
        try:
            await self._take(loaded, by="")
        except OSError as error:  # the directory itself keeps it
            _LOG.error("policy.history_failed", error=str(error))
            self._use(loaded)
        return True

    async def _take(self, loaded: Loaded, *, by: str) -> None:
        if loaded.bundle.digest != self.newest.bundle.digest:
            await trio.to_thread.run_sync(functools.partial(self._note, loaded, by=by))
            self._use(loaded)

    def _use(self, loaded: Loaded) -> None:
        bundle = loaded.bundle
        self.newest = loaded
        loaded.engine.missing = self.claims_missing
        _LOG.info(
            "policy.loaded", name=bundle.name, digest=bundle.digest.hex(), source=loaded.action
        )
        self._changed()

    def _note(self, loaded: Loaded, *, by: str) -> None:
        bundle, last = loaded.bundle, self._vault.last
        if last is not None and last.digest == bundle.digest.hex() and last.base == self._base:
            return
        entry = Entry(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            digest=bundle.digest.hex(),
            name=bundle.name,
            version=bundle.version,
            action=loaded.action,
            by=by,
            signer="" if bundle.signer is None else bundle.signer.hex(),
            base=self._base,
        )
        self._vault.add(bundle.files, entry)

    def _earlier(self) -> str:
        newest = self.newest.bundle.digest.hex()
        for entry in reversed(self._vault.entries):
            if entry.digest != newest:
                return entry.digest
        raise KeyError("there is no earlier bundle")

    def _load_shadow(self, path: Path) -> None:
        try:
            loaded = self._load(lambda: read_files(path), "directory")
        except BundleError as error:
            self.failures += 1
            _LOG.error("policy.shadow_refused", error=str(error))
            return
        if self.shadow is None or self.shadow.bundle.digest != loaded.bundle.digest:
            self.shadow = Shadow(loaded.bundle, loaded.engine)
            _LOG.info("policy.shadow", digest=loaded.bundle.digest.hex())

    def _fault(self, error: BaseException) -> None:
        """One in a reload must not end the daemon."""
        self._failed(f"a fault of the agent itself: {self._faults.note('reload', error)}")

    def _failed(self, error: BundleError | str) -> None:
        passing = isinstance(error, str) or {p.rule for p in error.problems} <= _PASSING
        self._again = time.monotonic() + RETRY_SECONDS if passing else float("inf")
        self.failures += 1
        self.problem = str(error)
        newest = getattr(self, "newest", None)
        kept = "" if newest is None else newest.bundle.digest.hex()
        _LOG.error("policy.reload_refused", error=str(error), kept=kept)


def trust_of(table: PolicyTable) -> Trust:
    """Whose signatures count, by the configuration.

    Raises:
        FatalError: a key cannot be read, or signatures are required and no key is trusted.
    """
    try:
        keys = [read_public_key(Path(path)) for path in table.trusted_keys]
        return Trust.of(keys, required=table.require_signature)
    except (KeyFileError, ValueError) as error:
        raise FatalError(
            ExitCode.USAGE,
            f"policy.trusted_keys: {error}",
            remedy="name PEM files with public keys on P-256, P-384 or P-521",
        ) from None


def _unsettled() -> Problem:
    return Problem(file="", message="the folder changed while it was read", rule="bundle.unsettled")
