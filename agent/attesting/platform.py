"""Which TEE there is, and what can be trusted to have signed its quotes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from agent import logs
from agent.attesting.tee_search import SIMULATED_FILE_SYSTEM, explain, file_system_of, mounts
from agent.config import Config
from agent.errors import ExitCode, FatalError
from agent.quotes.client import quote_by_helper
from agent.quotes.quoting import Fetch
from attestation.anchors import TrustAnchors
from attestation.configfs_tsm import fetch_quote, find_provider
from attestation.errors import QuoteError
from attestation.evidence import Format
from attestation.kernel_tree import KernelTree, sweep
from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor
from attestation.tee import TeeType, tee_from_spelling
from attestation.tsm import TsmTree

_MACHINES: Final[dict[str, Callable[..., SimulatedMachine]]] = {
    "sev-snp": SimulatedVendor.load_or_create,
    "tdx": SimulatedIntel.load_or_create,
}
_LOG = logs.get("tee")
SIMULATE: Final = "to try the agent without hardware: [tee] mode = 'simulated'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeePlatform:
    """Where quotes come from and which roots they must chain to.

    Attributes:
        fetch: makes quotes.
        wanted: the TEE that the operator asked for; None for `auto`.
        machine: whose quotes these are, where the TEE is simulated.
    """

    fetch: Fetch
    anchors: TrustAnchors
    wanted: TeeType | None
    machine: SimulatedMachine | None = None

    @property
    def simulated(self) -> bool:
        """Quotes come from software and prove nothing."""
        return self.machine is not None

    def evidence_of(self, provider: str) -> Format:
        """The kind of evidence that a quote of this provider is. Raises as `tee_of`."""
        self.tee_of(provider)
        return "tdx" if tee_from_spelling(provider) is TeeType.TDX else "sev-snp"

    def tee_of(self, provider: str) -> TeeType:
        """The TEE of a quote's provider.

        Raises:
            FatalError: not the TEE that was asked for, or an unknown one.
        """
        try:
            found = tee_from_spelling(provider)
        except ValueError as error:
            raise FatalError(ExitCode.NO_TEE, str(error), remedy=SIMULATE) from None
        if self.wanted is not None and found is not self.wanted:
            raise FatalError(
                ExitCode.NO_TEE,
                f"[tee] mode asks for {self.wanted.display}, the kernel's provider is {provider!r}",
                remedy="correct [tee] mode, or set it to 'auto'",
            )
        return TeeType.SIMULATED if self.simulated else found


def _another_lives(pid: int) -> bool:
    """In a container every agent is process 1: what bears our own number is a dead one's."""
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def find_platform(config: Config, *, now: datetime) -> TeePlatform:
    """Open the platform that the configuration names. Blocking: may generate RSA-4096 keys.

    Raises:
        FatalError: there is no such TEE, or the simulated one cannot keep its keys.
    """
    return _simulated(config, now) if config.tee.mode == "simulated" else _hardware(config)


def simulated_machine(kind: str, directory: Path, *, now: datetime) -> SimulatedMachine:
    """The simulated machine whose keys are in a directory; made there if there is none.

    Raises:
        FatalError: it cannot keep its keys there.
    """
    try:
        return _MACHINES[kind](directory, now=now)
    except QuoteError as error:
        raise FatalError(ExitCode.STATE, str(error), remedy=error.remedy) from None
    except OSError as error:
        raise FatalError(
            ExitCode.STATE,
            f"the simulated TEE cannot keep its keys in {directory}: {error.strerror}",
            remedy="make the directory writable for the agent's user, or set agent.state_dir",
        ) from None


def _simulated(config: Config, now: datetime) -> TeePlatform:
    machine = simulated_machine(config.tee.simulate, Path(config.agent.state_dir), now=now)
    mount = config.tee.simulated_mount
    if config.tee.helper:
        fetch = _helper(config)
    else:
        tree = _mounted(Path(mount), machine.provider) if mount else SimulatedTree(machine)
        fetch = functools.partial(fetch_quote, tree)
    _LOG.warning(
        "tee.found",
        tee=TeeType.SIMULATED.display,
        provider=machine.provider,
        mode="simulated",
        mount=mount,
        helper=config.tee.helper,
        note="its quotes prove nothing",
    )
    return TeePlatform(
        fetch=fetch,
        anchors=TrustAnchors.builtin().with_simulated_root(machine.root_certificate_pem()),
        wanted=None,
        machine=machine,
    )


def _mounted(path: Path, expected: str) -> TsmTree:
    """The tree that `lucid-agent simulate-tee` serves, and nothing else."""
    remedy = f"lucid-agent simulate-tee --mount {path}, with --state the agent's state_dir"
    if file_system_of(path, mounts()) != SIMULATED_FILE_SYSTEM:
        raise FatalError(ExitCode.NO_TEE, f"no simulated TEE is served at {path}", remedy=remedy)
    tree = KernelTree(path)
    _sweep(tree)
    try:
        provider = find_provider(tree)
    except QuoteError as error:
        raise FatalError(ExitCode.NO_TEE, str(error), remedy=remedy) from None
    if provider != expected:
        raise FatalError(
            ExitCode.NO_TEE,
            f"the simulated TEE at {path} is {provider!r}, [tee] simulate asks for {expected!r}",
            remedy="correct [tee] simulate, or serve the other one with simulate-tee --tee",
        )
    return tree


def _sweep(tree: TsmTree) -> None:
    if left := sweep(tree, alive=_another_lives):
        _LOG.info("tee.swept", entries=len(left))  # an agent before us was killed


def _helper(config: Config) -> Fetch:
    """Quotes by the helper. It may start later than the agent, so nothing is asked yet."""
    return functools.partial(
        quote_by_helper, path=Path(config.tee.helper), seconds=config.tee.quote_seconds
    )


def _hardware(config: Config) -> TeePlatform:
    mode, path = config.tee.mode, Path(config.tee.report_path)
    wanted = None if mode == "auto" else tee_from_spelling(mode)
    anchors = TrustAnchors.builtin()
    if config.tee.helper:
        _LOG.info("tee.helper", mode=mode, helper=config.tee.helper)
        return TeePlatform(fetch=_helper(config), anchors=anchors, wanted=wanted)
    kind = file_system_of(path, mounts())
    if kind == SIMULATED_FILE_SYSTEM:
        raise FatalError(
            ExitCode.NO_TEE,
            f"no TEE: {path} is the tree of a simulated one (`lucid-agent simulate-tee`)",
            remedy="to use it: [tee] mode = 'simulated' and simulated_mount, and its state_dir",
        )
    if not path.is_dir():
        raise FatalError(ExitCode.NO_TEE, f"no TEE: {explain(path)}", remedy=SIMULATE)
    tree = KernelTree(path)
    _sweep(tree)
    platform = TeePlatform(
        fetch=functools.partial(fetch_quote, tree), anchors=anchors, wanted=wanted
    )
    try:
        provider = find_provider(tree)
    except QuoteError as error:
        if error.final:
            raise FatalError(ExitCode.NO_TEE, str(error), remedy=error.remedy) from None
        _LOG.warning("tee.unclear", code=error.code, error=str(error))  # the first quote will say
        return platform
    tee = platform.tee_of(provider)
    _LOG.info(
        "tee.found", tee=tee.display, provider=provider, mode=mode, path=str(path), file_system=kind
    )
    return platform
