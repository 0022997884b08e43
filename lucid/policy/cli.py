"""`lucid policy`: the group. Each command is imported when it is asked for."""

from __future__ import annotations

from typing import Final

from agent.lazy import LazyGroup

COMMANDS: Final = {
    "validate": ("lucid.policy.validate:validate", "Is the bundle sound? Every problem at once."),
    "test": ("lucid.policy.testing:test", "Run the bundle's test cases; what do they cover?"),
    "explain": ("lucid.policy.explain:explain", "Why was it decided so? Policy by policy."),
    "format": ("lucid.policy.formatting:format_policies", "Write policies in Cedar's own style."),
    "diff": ("lucid.policy.diff:diff", "What would another bundle decide otherwise?"),
    "keygen": ("lucid.policy.sign:keygen", "Make a key to sign bundles with."),
    "sign": ("lucid.policy.sign:sign", "Sign a bundle."),
    "push": ("lucid.policy.push:push", "Validate, test, sign, and put in force at an agent."),
    "history": ("lucid.policy.push:history", "What was in force at an agent, and since when."),
    "rollback": ("lucid.policy.push:rollback", "Put an earlier bundle in force again."),
    "shadow": ("lucid.policy.shadow:shadow", "A candidate beside the live bundle: what differs?"),
}

policy = LazyGroup(
    name="policy",
    table=COMMANDS,
    help="""Develop, test, sign and ship policy bundles.

    docs/policies.md teaches the rest in ten minutes.

    \b
    Exit codes of every command:
      0  done; the thing checked is so
      1  the thing checked is not so: a problem, a failed test, a difference
      2  bad usage or input: no bundle there, a broken test file
      3  could not be checked: no agent answers, no tests
    """,
)
