"""`lucid`: the command for operators and relying parties. Each command is a module here."""

from __future__ import annotations

from typing import Final

import click

from agent.lazy import LazyGroup
from lucid.json_errors import JsonErrors

COMMANDS: Final = {
    "passport": (
        "lucid.passport:passport",
        "Verify AI Passports offline, and explain them.",
    ),
    "evidence": (
        "lucid.evidence:evidence",
        "Look at SEV-SNP reports and TDX quotes; verify and appraise them.",
    ),
    "journal": (
        "lucid.journal.cli:journal",
        "Check an agent's journal offline: is every decision there, and unchanged?",
    ),
    "policy": (
        "lucid.policy.cli:policy",
        "Develop, test, sign, ship and roll back policy bundles.",
    ),
    "demo": ("lucid.demo.cli:demo", "See everything work on this machine, without hardware."),
}


class _Main(JsonErrors, LazyGroup):
    pass


@click.group(cls=_Main, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lucid-agent", prog_name="lucid")
def main() -> None:
    """Verify AI Passports and hardware evidence, and see the Lucid agent work.

    \b
    Exit codes of every command:
      0  done; the thing checked is so
      1  the thing checked is not so
      2  bad usage or input (not a passport)
      3  could not be checked
    """


if __name__ == "__main__":
    main()
