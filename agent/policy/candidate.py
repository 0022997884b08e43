"""The shadow bundle: a candidate that is asked beside the bundle in force, without effect.

It comes from the configured directory (`[policy] shadow`), which is looked at like the bundle's
own, or over the local API; whichever changed last counts. A candidate that cannot be used leaves
the one before it in place and is said: in the log, in `problem` and in a counter. Nothing here
touches what is enforced.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from agent import logs
from agent.life.supervise import Faults
from agent.policy.bundle_folder import BundleFolder
from attestation.panics import is_fault
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.policy.bundle_files import check_files
from enforcement.policy.bundle_signature import Trust
from enforcement.policy.engine import Engine
from enforcement.shadow import Shadow

_LOG = logs.get("policy")


class Candidate:
    """The candidate, if there is one. `start` first; everything else on the trio thread.

    Attributes:
        shadow: what is asked; None: nobody.
        failures: candidates from the directory that could not be used.
        problem: why the directory was refused when it was last looked at; empty: it was not.
    """

    def __init__(self, path: str, *, changed: Callable[[], None], faults: Faults) -> None:
        """`path`: the configured directory; empty: none. `changed`: `shadow` is another one."""
        self._folder = BundleFolder(Path(path)) if path else None
        self._changed = changed
        self._faults = faults
        self._turn = trio.Lock()
        self.shadow: Shadow | None = None
        self.failures = 0
        self.problem = ""

    @property
    def digest(self) -> str | None:
        """Of the candidate, in hex."""
        return None if self.shadow is None else self.shadow.bundle.digest.hex()

    def as_json(self) -> dict[str, Any] | None:
        """For the status; None where there is none and none was wanted."""
        if self.shadow is None and not self.problem:
            return None
        return {"digest": self.digest, "problem": self.problem, "failures": self.failures}

    def start(self, trust: Trust) -> None:
        """Load the configured candidate, if there is one. Blocking. Never raises."""
        self._trust = trust
        if self._folder is not None:
            try:
                self._use(self._load(self._folder.begin()))
            except BaseException as error:
                if not is_fault(error):
                    raise
                self._failed(error)  # a candidate never keeps an agent from starting

    async def look(self) -> None:
        """Load the directory if it changed. Never raises."""
        if self._folder is not None and (seen := await self._folder.look()) is not None:
            await self._load_directory(functools.partial(self._folder.read, seen))

    async def reload(self) -> None:
        """Load the directory again, whether or not it seems to have changed. Never raises."""
        if self._folder is not None:
            await self._load_directory(self._folder.read_now)

    async def set(self, files: Mapping[str, bytes] | None) -> None:
        """Begin to ask another candidate, or stop (None).

        Raises:
            BundleError: it cannot be used; what was there stays.
        """
        async with self._turn:
            if files is None:
                self.shadow = None
            else:
                checked = check_files(files)
                self._use(await trio.to_thread.run_sync(self._load, checked))
            self._changed()

    async def _load_directory(
        self, read: Callable[[], Awaitable[Mapping[str, bytes] | None]]
    ) -> None:
        async with self._turn:
            try:
                files = await read()
                if files is not None:
                    self._use(await trio.to_thread.run_sync(self._load, files))
                    self.problem = ""
                    self._changed()
            except BaseException as error:
                if not is_fault(error):
                    raise
                self._failed(error)

    def _load(self, files: Mapping[str, bytes]) -> Shadow:
        bundle = Bundle.from_files(files, trust=self._trust)
        return Shadow(bundle, Engine(bundle))

    def _use(self, shadow: Shadow) -> None:
        # The same bundle again goes on counting.
        if self.shadow is None or self.shadow.bundle.digest != shadow.bundle.digest:
            self.shadow = shadow
            _LOG.info("policy.shadow", digest=shadow.bundle.digest.hex())

    def _failed(self, error: BaseException) -> None:
        assert self._folder is not None
        self.failures += 1
        if isinstance(error, BundleError):
            self._folder.refused(error)
            self.problem = str(error)
        else:
            self._folder.refused(None)
            self.problem = f"a fault of the agent itself: {self._faults.note('reload', error)}"
        _LOG.error("policy.shadow_refused", error=self.problem, kept=self.digest or "")
