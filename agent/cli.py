"""`lucid-agent`: the daemon's own command. Each command is a module of `agent.commands`."""

from __future__ import annotations

from typing import Final

import click

from agent import standard_streams
from agent.errors import exit_codes_text
from agent.lazy import LazyGroup

COMMANDS: Final = {
    "init": ("agent.commands.init:init", "Write a first configuration and policy bundle."),
    "run": ("agent.commands.run:run", "Run the daemon."),
    "check-config": (
        "agent.commands.check_config:check_config",
        "Check the configuration and the policy bundle.",
    ),
    "status": ("agent.commands.ask:status", "Show what the running agent says of itself."),
    "quote-helper": (
        "agent.commands.quote_helper:quote_helper",
        "Root's part: 64 bytes in, a hardware quote out.",
    ),
    "simulate-tee": (
        "agent.commands.simulate_tee:simulate_tee",
        "Serve a simulated TEE's report tree, without hardware.",
    ),
    "healthcheck": ("agent.commands.ask:healthcheck", "For probes: is the agent ready?"),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nExit codes:\n{exit_codes_text()}",
)
@click.version_option(package_name="lucid-agent", prog_name="lucid-agent")
def main() -> None:
    """The Lucid agent: attestation and policy enforcement beside an AI model.

    Inside a confidential VM it fetches hardware quotes, issues AI Passports that anyone can verify
    offline, decides every request and reply by Cedar policy, keeps a hash-chained journal of the
    decisions, and streams them to the Observer.
    """
    standard_streams.keep()


if __name__ == "__main__":
    main()
