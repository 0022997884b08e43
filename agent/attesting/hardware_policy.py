"""What the platform has to be before this agent serves: `[tee] hardware_policy`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.config import TeeTable
from agent.errors import ExitCode, FatalError
from attestation.errors import MalformedError
from attestation.evidence import Format
from attestation.hardware import HardwarePolicy, read_hardware_policy
from attestation.snp.policy import SnpPolicy

MAX_SIZE: Final = 64 * 1024  # bytes
_REMEDY: Final = "docs/checks.md says what a policy can demand"


def hardware_policies(table: TeeTable) -> dict[Format, HardwarePolicy] | None:
    """The demands of the configured file, read as a policy of each kind that the mode allows; None:
    there are no demands. Which kind the platform is says its first quote. Blocking.

    Raises:
        FatalError: the file cannot be read, or is no policy of such a kind.
    """
    if not table.hardware_policy:
        return None
    path, found, wrong = Path(table.hardware_policy), {}, []
    data = _read(path)
    for kind in _kinds(table):
        try:
            found[kind] = read_hardware_policy(data, kind)
        except MalformedError as error:
            wrong.append(f"for {kind}: {error}")
    if not found:
        raise FatalError(
            ExitCode.USAGE,
            f"tee.hardware_policy: {path} is no policy {', nor one '.join(wrong)}",
            remedy=_REMEDY,
        )
    return found


def requires_crl(policies: Mapping[Format, HardwarePolicy] | None) -> bool:
    """Whether an SEV-SNP platform needs AMD's revocation list. On TDX Intel's are always needed."""
    policy = (policies or {}).get("sev-snp")
    return isinstance(policy, SnpPolicy) and policy.require_crl


def _kinds(table: TeeTable) -> tuple[Format, ...]:
    if table.mode == "auto":
        return ("sev-snp", "tdx")
    return (table.simulate if table.mode == "simulated" else table.mode,)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise FatalError(
            ExitCode.USAGE,
            f"tee.hardware_policy: {path} cannot be read: {error.strerror}",
            remedy=_REMEDY,
        ) from None
    if len(data) > MAX_SIZE:
        raise FatalError(
            ExitCode.USAGE,
            f"tee.hardware_policy: {path} has more than {MAX_SIZE} bytes",
            remedy=_REMEDY,
        )
    return data
