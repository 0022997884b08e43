"""Which TEE there is, and what can be trusted to have signed its quotes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import psutil
import structlog

from agent.config import Config
from agent.errors import ExitCode, FatalError
from attestation.anchors import TrustAnchors
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
_LOG = structlog.get_logger(part="tee")
SIMULATE: Final = "to try the agent without hardware: [tee] mode = 'simulated'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeePlatform:
    """Where quotes come from and which roots they must chain to.

    Attributes:
        wanted: the TEE that the operator asked for; None for `auto`.
        machine: whose quotes these are, where the TEE is simulated.
    """

    tree: TsmTree
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
    return pid != os.getpid() and psutil.pid_exists(pid)


def find_platform(config: Config, *, now: datetime) -> TeePlatform:
    """Open the platform that the configuration names. Blocking: may generate RSA-4096 keys.

    Raises:
        FatalError: there is no such TEE, or the simulated one cannot keep its keys.
    """
    mode = config.tee.mode
    if mode == "simulated":
        directory = Path(config.agent.state_dir)
        try:
            machine = _MACHINES[config.tee.simulate](directory, now=now)
        except QuoteError as error:
            raise FatalError(ExitCode.STATE, str(error), remedy=error.remedy) from None
        except OSError as error:
            raise FatalError(
                ExitCode.STATE,
                f"the simulated TEE cannot keep its keys in {directory}: {error.strerror}",
                remedy="make the directory writable for the agent's user, or set agent.state_dir",
            ) from None
        root = machine.root_certificate_pem()
        return TeePlatform(
            tree=SimulatedTree(machine),
            anchors=TrustAnchors.builtin().with_simulated_root(root),
            wanted=None,
            machine=machine,
        )
    path = Path(config.tee.report_path)
    if not path.is_dir():
        raise FatalError(
            ExitCode.NO_TEE,
            f"no TEE: the kernel offers no quotes at {path}"
            " (needs Linux 6.7 or newer, configfs mounted, and a confidential guest)",
            remedy=SIMULATE,
        )
    tree = KernelTree(path)
    if left := sweep(tree, alive=_another_lives):
        _LOG.info("tee.swept", entries=len(left))  # an agent before us was killed
    return TeePlatform(
        tree=tree,
        anchors=TrustAnchors.builtin(),
        wanted=None if mode == "auto" else tee_from_spelling(mode),
    )
