"""`lucid policy diff`: what would another bundle decide otherwise?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from enforcement.outcome import PolicyRequest, Verdict
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.policy.engine import Engine
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.policy.agent_client import AgentClient, AgentError
from lucid.policy.cases import read_cases
from lucid.policy.common import agent_option, json_option, load_bundle, stop
from lucid.policy.recorded import Basis, by_policy, request_of
from lucid.policy.running import obligations_of
from lucid.terminal import printable

LIVE = "live"
_Asked = tuple[str, PolicyRequest, Basis | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One request that both decide differently. `basis`: of a recorded one."""

    where: str
    before: Verdict
    after: Verdict
    basis: Basis | None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        found: dict[str, Any] = {
            "where": self.where,
            "before": _said(self.before),
            "after": _said(self.after),
        }
        if self.basis is not None:
            found |= {"exact": self.basis.exact, "basis": self.basis.as_json()}
        return found


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--decisions",
    "count",
    type=click.IntRange(1, 10_000),
    help="Also decide the last N decisions of an agent's journal again.",
)
@agent_option()
@json_option
def diff(before: str, after: str, *, count: int | None, agent: str, as_json: bool) -> None:
    """Compare two bundles: policies, and which decisions would change from A to B.

    A and B are directories, `live` for what an agent enforces, or the digest of a bundle it keeps.
    Compared are all test cases of both, and with --decisions N the last N recorded decisions. What
    matters and a record does not hold (platform, groups) is assumed; how often is said.

    \b
    Exit codes: 0 no decision changes; 1 some do, and here they are; 2 not a sound bundle;
    3 the agent cannot be asked.
    """
    client = AgentClient(agent)
    try:
        old, new = (_bundle(text, client, as_json=as_json) for text in (before, after))
        requests: list[_Asked] = [(where, request, None) for where, request in _cases(old, new)]
        skipped = 0
        if count is not None:
            recorded, skipped = _recorded(client, count, old, new)
            requests += recorded
    except AgentError as error:
        stop(UNCHECKED, str(error), as_json=as_json)
    engines = Engine(old), Engine(new)
    changes = []
    for where, request, basis in requests:
        verdicts = engines[0].decide(request), engines[1].decide(request)
        if _said(verdicts[0]) != _said(verdicts[1]):
            changes.append(Change(where=where, before=verdicts[0], after=verdicts[1], basis=basis))
    assumed = sum(basis is not None and not basis.exact for _, _, basis in requests)
    policies = _policies(old, new)
    if as_json:
        report = {
            "ok": not changes,
            "before": old.digest.hex(),
            "after": new.digest.hex(),
            "policies": policies,
            "compared": len(requests),
            "skipped": skipped,
            "assumed": assumed,
            "changes": [change.as_json() for change in changes],
        }
        click.echo(json.dumps(report, indent=2))
    else:
        for kind, names in policies.items():
            for name in names:
                click.echo(f"{kind}: {name}")
        for change in changes:
            click.echo(printable(f"{change.where}: {_line(change.before)} → {_line(change.after)}"))
            for line in [] if change.basis is None else change.basis.lines():
                click.echo(f"    not exact: {line}; the record does not say")
        passed = f" ({skipped} more were refused before any policy was asked)" if skipped else ""
        click.echo(f"{len(changes)} of {len(requests)} decisions change{passed}")
        if assumed:
            click.echo(
                f"not exact for {assumed} of them: platform or groups are assumed, their records do"
                " not say"
            )
    sys.exit(NOT_SO if changes else DONE)


def _bundle(text: str, client: AgentClient, *, as_json: bool) -> Bundle:
    path = Path(text)
    if path.is_dir():
        return load_bundle(path, as_json=as_json)
    if text != LIVE and not re.fullmatch(r"[0-9a-f]{64}", text):
        stop(BAD_INPUT, f"{text}: neither a directory, `live`, nor a digest", as_json=as_json)
    try:
        return Bundle.from_files(client.files("" if text == LIVE else text))
    except BundleError as error:
        raise AgentError(f"the agent's bundle is of another version: {error}") from None


def _cases(old: Bundle, new: Bundle) -> Iterator[tuple[str, PolicyRequest]]:
    seen = set()
    for bundle in (new, old):
        # Cases that do not fit the other bundle's vocabulary are compared all the same: what it
        # does with such a request is what would happen.
        for case in read_cases(bundle)[0]:
            key = (case.file, case.name)
            if key not in seen:
                seen.add(key)
                yield f"{case.file}:{case.line} {case.name}", case.request


def _recorded(
    client: AgentClient, count: int, old: Bundle, new: Bundle
) -> tuple[list[_Asked], int]:
    standing = client.get("/v1/policy")
    decisions = client.get(f"/v1/decisions?last={count}")["decisions"]
    known = set(old.policies) | set(new.policies)
    asked = [decision for decision in decisions if by_policy(decision, known)]
    return (
        [
            (str(decision["decision_id"]), *request_of(decision, standing, [old, new]))
            for decision in asked
        ],
        len(decisions) - len(asked),
    )


def _policies(old: Bundle, new: Bundle) -> dict[str, list[str]]:
    both = sorted(set(old.policies) & set(new.policies))
    return {
        "added": sorted(set(new.policies) - set(old.policies)),
        "removed": sorted(set(old.policies) - set(new.policies)),
        "changed": [name for name in both if old.policies[name].est != new.policies[name].est],
    }


def _said(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome.value,
        "reasons": list(verdict.reasons),
        "obligations": obligations_of(verdict),
    }


def _line(verdict: Verdict) -> str:
    return f"{verdict.outcome.value} ({', '.join(verdict.reasons)})"
