"""`lucid`: the command for operators and relying parties."""

from __future__ import annotations

import importlib.metadata

import click

from lucid.demo.cli import demo
from lucid.evidence import evidence
from lucid.passport import passport


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("lucid-agent"), prog_name="lucid")
def main() -> None:
    """Verify AI Passports and hardware evidence, and see the Lucid agent work.

    \b
    Exit codes of every command:
      0  done; the thing checked is so
      1  the thing checked is not so
      2  bad usage or input (not a passport)
      3  could not be checked
    """


main.add_command(passport)
main.add_command(evidence)
main.add_command(demo)

if __name__ == "__main__":
    main()
