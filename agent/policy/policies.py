"""The policy bundle that is enforced: where it comes from, and how it changes.

Bundles come from the configured directory (at the start, on SIGHUP, and when the directory
changes) or are pushed over the local API. Whatever its way, a bundle is read whole, checked, parsed
in a thread, and comes into force together with a passport that states its digest. A bundle that
cannot be used changes nothing but a counter and the log.

The directory is looked at every `watch_seconds` (`bundle_folder`). Of several bundles that
come while one waits for its passport the newest counts; the history says which were superseded
before they came into force. A candidate beside it: `candidate`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from agent import logs
from agent.config import PolicyTable
from agent.errors import ExitCode, FatalError, state_code
from agent.life.lifecycle import Part, Trouble, Weight
from agent.life.supervise import Faults
from agent.life.ticks import next_tick
from agent.policy.bundle_folder import BundleFolder
from agent.policy.candidate import Candidate
from agent.policy.policy_trust import trust_of
from agent.policy.policy_vault import Action, Entry, PolicyVault, State, VaultError
from attestation.panics import is_fault
from enforcement.policy.bundle import Bundle, BundleError, Problem
from enforcement.policy.bundle_files import SIGNATURE, bundle_digest, check_files
from enforcement.policy.bundle_signature import Trust, check_signature
from enforcement.policy.engine import Engine

_LOG = logs.get("policy")
REST_SECONDS: Final = 0.1  # after a reload that was wished for: a storm of wishes is few reloads
IN_FORCE_SECONDS: Final = 30.0  # how long a push waits for its passport
HISTORY_SECONDS: Final = (
    5.0  # how long a passport waits for the note that it puts a bundle in force
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A bundle, ready to decide. `number`: which came later."""

    bundle: Bundle
    engine: Engine
    action: Action
    number: int


class Policies:
    """Which bundle is enforced. `start` first; everything else on the trio thread.

    Attributes:
        newest: what the next passport states.
        failures: bundles that were refused since the start.
        problem: why the directory was refused when it was last looked at; empty: it was not.
        superseded: bundles that a newer one replaced before they came into force.
        claims_missing: denials because nobody gave a claim, by (claim,).
        candidate: what is asked beside it, without effect.
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
        self._folder = BundleFolder(Path(table.bundle))
        self._state = state_dir / "policy"
        self._changed = changed
        self._faults = faults
        self._admit = admit
        self._turn = trio.Lock()
        self._in_force = trio.Condition()
        self._wish = trio.Event()
        self._reached: Loaded | None = None  # what came into force last
        self._numbers = itertools.count()
        self._base = ""
        self.candidate = Candidate(table.shadow, changed=shadow_changed, faults=faults)
        self.failures = 0
        self.superseded = 0
        self.problem = ""
        self.claims_missing: dict[tuple[str, ...], int] = {}

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
                state_code(error), f"{self._state} cannot be written: {error.strerror}"
            ) from None
        self.candidate.start(self._trust)

    def trouble(self) -> Trouble | None:
        """What the life cycle is told: the bundle on disk was refused."""
        if not self.problem:
            return None
        return Trouble(
            part=Part.POLICY,
            weight=Weight.CONCERN,
            code="policy.refused",
            reason=f"the bundle on disk was refused, the last good one stays in force:"
            f" {self.problem}",
            next="correct the bundle; it is loaded when it changes, or on SIGHUP",
        )

    async def reload(self) -> None:
        """Load the directories again (SIGHUP), whether or not they seem to have changed."""
        async with self._turn:
            await self._load_directory(self._folder.read_now)
        await self.candidate.reload()

    def reload_soon(self) -> None:
        """Have `watch` do what `reload` does. Wishes that come until it begins are one."""
        self._wish.set()

    async def watch(self) -> None:
        """Load a directory when it changes, or somebody wishes it. Until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._table.watch_seconds:
                nursery.start_soon(self._every, self.candidate.look)
            while True:
                seconds = self._table.watch_seconds
                with trio.move_on_at(next_tick(seconds) if seconds else math.inf):
                    await self._wish.wait()
                if self._wish.is_set():
                    await self._fulfil()
                else:
                    await self._look()

    async def _every(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep_until(next_tick(self._table.watch_seconds))
            await look()

    async def _look(self) -> None:
        if (seen := await self._folder.look()) is not None:
            async with self._turn:
                await self._load_directory(functools.partial(self._folder.read, seen))

    async def _fulfil(self) -> None:
        self._wish = trio.Event()
        try:
            await self.reload()
        except BaseException as error:
            if is_fault(error):
                self._wish.set()  # whoever keeps `watch` alive has it done again
            raise
        await trio.sleep(REST_SECONDS)

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

    def state_of(self, loaded: Loaded) -> State:
        """Whether a passport states the bundle, or a newer one instead, or neither yet."""
        reached = self._reached
        if reached is not None:
            if reached.bundle.digest == loaded.bundle.digest:
                return "in_force"
            if reached.number > loaded.number:
                return "superseded"
        return "waiting"

    async def in_force(self, loaded: Loaded) -> State:
        """The same, waiting for one of the two; `waiting` if that took too long."""
        with trio.move_on_after(IN_FORCE_SECONDS):
            async with self._in_force:
                while self.state_of(loaded) == "waiting":
                    await self._in_force.wait()
        return self.state_of(loaded)

    async def came_into_force(self, loaded: Loaded) -> None:
        """Called when a passport states a bundle."""
        if self._reached is None or loaded.bundle.digest != self._reached.bundle.digest:
            await self._on_record(loaded.bundle.digest.hex())
        async with self._in_force:
            self._reached = loaded
            self._in_force.notify_all()

    async def _on_record(self, digest: str) -> None:
        """Note what came into force and what did not. A passport does not wait for a disk."""
        work = functools.partial(self._vault.came_into_force, digest, _now())
        superseded: list[Entry] = []
        with trio.move_on_after(HISTORY_SECONDS) as patience:
            try:
                superseded = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
            except OSError as error:
                _LOG.error("policy.history_failed", error=str(error))
        if patience.cancelled_caught:
            _LOG.error("policy.history_failed", error=f"not written in {HISTORY_SECONDS:g} s")
        self.superseded += len(superseded)
        for entry in superseded:
            _LOG.info("policy.superseded", digest=entry.digest, name=entry.name, by=digest)

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

    # -- within -----------------------------------------------------------------------------------

    def _first(self) -> Loaded:
        last = self._vault.last
        pushed = last if last is not None and last.action != "directory" else None
        try:
            directory = self._load(self._folder.begin, "directory")
        except BundleError as error:
            if pushed is None:
                raise FatalError(
                    ExitCode.USAGE,
                    f"the policy bundle {self._folder.path} cannot be used:\n{error}",
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
        number = next(self._numbers)
        return Loaded(bundle=bundle, engine=Engine(bundle), action=action, number=number)

    async def _read(self, read: Callable[[], Mapping[str, bytes]], action: Action) -> Loaded:
        loaded = await trio.to_thread.run_sync(self._load, read, action)
        try:
            await self._admit(loaded.bundle)
        except FatalError as error:
            raise BundleError(
                [Problem(file="bundle.toml", message=str(error), fix=error.remedy, rule="auditors")]
            ) from None
        return loaded

    async def _load_directory(
        self, read: Callable[[], Awaitable[Mapping[str, bytes] | None]]
    ) -> None:
        """Load what the directory holds, unless it changes meanwhile: the next look sees to it."""
        try:
            files = await read()
            if files is None:
                _LOG.info("policy.unsettled")
                return
            base = bundle_digest(files).hex()
            if base == self._base:
                await self._unchanged(files, base)
                return
            loaded = await self._read(lambda: files, "directory")
        except BundleError as error:
            self._failed(error)
            return
        except BaseException as error:
            if not is_fault(error):
                raise
            text = f"a fault of the agent itself: {self._faults.note('reload', error)}"
            self._failed(text)  # one in a reload must not end the daemon
            return
        self.problem = ""
        self._base = base
        try:
            await self._take(loaded, by="")
        except OSError as error:  # the directory itself keeps it
            _LOG.error("policy.history_failed", error=str(error))
            self._use(loaded)

    async def _unchanged(self, files: Mapping[str, bytes], digest: str) -> None:
        """The directory holds what it held; its signature may be another one.

        Raises:
            BundleError: it is not good, so the next start would refuse the bundle.
        """
        signer = check_signature(files, self._trust)
        self.problem = ""
        _LOG.info("policy.unchanged", digest=digest)
        newest = self.newest.bundle
        if newest.digest.hex() == digest:
            try:
                await self._sign_again(replace(newest, files=files, signer=signer))
            except OSError as error:  # the directory itself keeps it
                _LOG.error("policy.history_failed", error=str(error))

    async def _take(self, loaded: Loaded, *, by: str) -> None:
        if loaded.bundle.digest != self.newest.bundle.digest:
            await trio.to_thread.run_sync(functools.partial(self._note, loaded, by=by))
            self._use(loaded)
        else:
            await self._sign_again(loaded.bundle)

    async def _sign_again(self, bundle: Bundle) -> None:
        """The newest bundle, with the signature of a key that is trusted now: what is kept must be
        good at the next start, when an older key may be gone."""
        newest = self.newest.bundle
        if bundle.signer is None or bundle.files.get(SIGNATURE) == newest.files.get(SIGNATURE):
            return
        await trio.to_thread.run_sync(self._vault.keep, bundle.files, bundle.digest.hex())
        self.newest = replace(self.newest, bundle=bundle)
        _LOG.info("policy.signed_again", digest=bundle.digest.hex(), signer=bundle.signer.hex())

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
            at=_now(),
            digest=bundle.digest.hex(),
            name=bundle.name,
            version=bundle.version,
            action=loaded.action,
            by=by,
            signer="" if bundle.signer is None else bundle.signer.hex(),
            base=self._base,
            state="waiting",
        )
        self._vault.add(bundle.files, entry)

    def _earlier(self) -> str:
        newest = self.newest.bundle.digest.hex()
        for entry in reversed(self._vault.entries):
            if entry.digest != newest and entry.state != "superseded":
                return entry.digest
        raise KeyError("there is no earlier bundle")

    def _failed(self, error: BundleError | str) -> None:
        self._folder.refused(error if isinstance(error, BundleError) else None)
        self.failures += 1
        self.problem = str(error)
        newest = getattr(self, "newest", None)
        kept = "" if newest is None else newest.bundle.digest.hex()
        _LOG.error("policy.reload_refused", error=str(error), kept=kept)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
