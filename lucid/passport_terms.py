"""On what terms passports are believed: options and files that several commands have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from attestation.anchors import TrustAnchors
from attestation.errors import AttestationError, MalformedError
from attestation.evidence import Format
from attestation.hardware import HardwarePolicy, read_hardware_policy
from attestation.passport_steps import Expectations
from attestation.snp.crl import Crl
from lucid.guess import named
from lucid.options import Hex
from lucid.sources import SourceError, read_file

_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)

ALLOW_SIMULATED: Final = click.option(
    "--allow-simulated",
    is_flag=True,
    help="Accept a passport of a simulated TEE. It proves nothing about hardware.",
)
SIMULATED_ROOT: Final = click.option(
    "--simulated-root",
    type=_FILE,
    help="Root certificate of the simulated TEE (PEM or DER), from its state"
    " directory: simulated-tee/root.pem, or simulated-tdx/root.pem.",
)
MEASUREMENT: Final = click.option(
    "--measurement",
    type=Hex(48, 48),
    help="The launch measurement that you expect (TDX: MRTD, the firmware alone)."
    " Without it the answer to 'code measured as expected' is 'not checked'.",
)
HARDWARE_POLICY: Final = click.option(
    "--hardware-policy",
    type=_FILE,
    help="Appraise the hardware by this policy (TOML, see docs/checks.md). Without it"
    " no TCB or platform setting is demanded.",
)
CRL: Final = click.option(
    "--crl",
    "crl_files",
    type=_FILE,
    multiple=True,
    help="SEV-SNP: revocation list of AMD's root (PEM or DER), to be looked into beside the one"
    " that a passport may carry. May be repeated.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was given with these options; the files are read."""

    anchors: TrustAnchors
    allow_simulated: bool
    measurement: bytes | None
    crls: tuple[Crl, ...]
    policy_file: tuple[Path, bytes] | None

    def expectations(self, kind: Format, *, crls_at: datetime | None = None) -> Expectations:
        """For a passport with this kind of evidence.

        Raises:
            click.UsageError: an option means nothing for it.
        """
        if self.crls and kind == "tdx":
            raise click.UsageError("--crl: a passport of TDX brings its revocation lists with it")
        return Expectations(
            anchors=self.anchors,
            allow_simulated=self.allow_simulated,
            measurement=self.measurement,
            hardware_policy=self._hardware_policy(kind),
            crls=self.crls,
            crls_at=crls_at,
        )

    def _hardware_policy(self, kind: Format) -> HardwarePolicy | None:
        if self.policy_file is None:
            return None
        path, data = self.policy_file
        try:
            return read_hardware_policy(data, kind)
        except MalformedError as error:
            raise click.UsageError(str(named(f"--hardware-policy {path}", data, error))) from None


def read_terms(
    *,
    allow_simulated: bool,
    simulated_root: Path | None,
    measurement: bytes | None,
    hardware_policy: Path | None,
    crl_files: tuple[Path, ...],
) -> Terms:
    """Read the files.

    Raises:
        click.UsageError: one cannot be used.
    """
    try:
        anchors = TrustAnchors.builtin()
        if simulated_root is not None:
            anchors = anchors.with_simulated_root(read_file(simulated_root))
        elif allow_simulated:
            raise click.UsageError("--allow-simulated needs --simulated-root FILE")
    except (AttestationError, ValueError, SourceError) as error:
        raise click.UsageError(f"--simulated-root {simulated_root}: {error}") from None
    try:
        policy = None
        if hardware_policy is not None:
            policy = hardware_policy, read_file(hardware_policy)
        crls = tuple(map(_crl, crl_files))
    except (MalformedError, SourceError) as error:
        raise click.UsageError(str(error)) from None
    return Terms(
        anchors=anchors,
        allow_simulated=allow_simulated,
        measurement=measurement,
        crls=crls,
        policy_file=policy,
    )


def _crl(path: Path) -> Crl:
    data = read_file(path)
    try:
        return Crl.parse(data)
    except MalformedError as error:
        raise named(f"--crl {path}", data, error) from None
