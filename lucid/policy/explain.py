"""`lucid policy explain`: why was it decided so?"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from enforcement.outcome import PolicyRequest
from enforcement.policy.bundle import Bundle, BundleError
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.policy.agent_client import AgentClient, AgentError
from lucid.policy.cases import parse_cases
from lucid.policy.common import agent_option, json_option, load_bundle, stop, stop_for
from lucid.policy.reasons import Explained, Explanation, explain_request
from lucid.policy.recorded import by_policy, request_of
from lucid.sources import SourceError, read_file
from lucid.terminal import printable


@click.command("explain")
@click.argument(
    "directory",
    metavar="[DIR]",
    required=False,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option(
    "--case",
    "case_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of test cases (as in tests/*.yaml; `expect` may be left out).",
)
@click.option("--name", help="Of the file's cases only those whose name contains this.")
@click.option("--decision", "decision_id", metavar="ID", help="A decision in an agent's journal.")
@agent_option()
@json_option
def explain(
    directory: Path | None,
    *,
    case_file: Path | None,
    name: str | None,
    decision_id: str | None,
    agent: str,
    as_json: bool,
) -> None:
    """Explain a decision: each policy, whether it applied, and why, with the values of claims.

    \b
    lucid policy explain DIR --case FILE       cases, decided by the bundle in DIR
    lucid policy explain --decision ID         a decision of the running agent, by the bundle that
                                               decided it (the agent keeps the last ones)
    lucid policy explain DIR --decision ID     the same decision, by the bundle in DIR

    A record holds the platform and the caller's groups where the bundle that decided can tell them
    apart. Where it does not and they matter, they are assumed, and the answer says it is not exact.

    \b
    Exit codes: 0 explained; 1 the decision comes out otherwise than it was recorded;
    2 no such case or decision; 3 the agent, or the bundle that decided, cannot be had.
    """
    if (case_file is None) == (decision_id is None):
        raise click.UsageError("one of --case FILE and --decision ID is needed")
    if decision_id is not None:
        try:
            _explain_decision(directory, decision_id, AgentClient(agent), as_json=as_json)
        except AgentError as error:
            stop(UNCHECKED, str(error), as_json=as_json)
    if directory is None or case_file is None:
        raise click.UsageError("--case needs the bundle's directory")
    _explain_cases(directory, case_file, name or "", as_json=as_json)


def _explain_cases(directory: Path, file: Path, part: str, *, as_json: bool) -> None:
    bundle = load_bundle(directory, as_json=as_json)
    try:
        content = read_file(file)
    except SourceError as error:
        stop(BAD_INPUT, str(error), as_json=as_json)
    cases, problems = parse_cases(file.name, content, bundle.vocabulary)
    if problems:
        stop_for(problems, "the file of cases is broken", as_json=as_json)
    chosen = [case for case in cases if part in case.name]
    if not chosen:
        stop(BAD_INPUT, f"{file} has no case whose name contains {part!r}", as_json=as_json)
    found = [(case.name, case.request, explain_request(bundle, case.request)) for case in chosen]
    if as_json:
        listed_cases = [
            {"name": name, **_as_json(bundle, explanation)} for name, _, explanation in found
        ]
        click.echo(json.dumps({"ok": True, "cases": listed_cases}, indent=2))
    else:
        for name, request, explanation in found:
            click.echo(f"{printable(name)}  ({file.name})")
            _show(request, explanation)
    sys.exit(DONE)


def _explain_decision(
    directory: Path | None, decision_id: str, client: AgentClient, *, as_json: bool
) -> None:
    answer = client.ask("GET", f"/v1/decisions/{decision_id}")
    if answer.status == 404:
        stop(BAD_INPUT, f"{decision_id}: {answer.message}", as_json=as_json)
    if answer.status != 200:
        raise AgentError(f"the agent answers {answer.status}: {answer.message}")
    decision: Any = answer.value
    digest = decision["bundle"]["digest"]
    deciding = None
    if directory is None:
        bundle = deciding = _bundle_of(client.files(digest))
    else:
        bundle = load_bundle(directory, as_json=as_json)
        with contextlib.suppress(AgentError):  # only to know what its record can say
            deciding = _bundle_of(client.files(digest))
    request, basis = request_of(decision, client.get("/v1/policy"), [bundle], deciding=deciding)
    if not by_policy(decision, bundle.policies):
        reasons = ", ".join(decision["reasons"])
        stop(
            BAD_INPUT,
            f"{decision_id}: decided by the agent itself, not by a policy: {reasons}",
            as_json=as_json,
        )
    explanation = explain_request(bundle, request)
    decided_it = bundle.digest.hex() == digest
    same = explanation.verdict.outcome.value == decision["outcome"]
    if as_json:
        report = {
            "ok": same,
            "decision": decision,
            "decided_by_this_bundle": decided_it,
            "same_outcome": same,
            "exact": basis.exact,
            "basis": basis.as_json(),
            **_as_json(bundle, explanation),
        }
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(f"{decision_id}  {decision['time']}  recorded: {decision['outcome']}")
        if not decided_it:
            click.echo("another bundle decided it; this is what the one in DIR says:")
        for line in basis.lines():
            click.echo(f"not exact: {line}; the record does not say")
        _show(request, explanation)
        if not same:
            click.echo("it comes out otherwise than it was recorded", err=True)
    sys.exit(DONE if same else NOT_SO)


def _bundle_of(files: dict[str, bytes]) -> Bundle:
    try:
        return Bundle.from_files(files)
    except BundleError as error:
        raise AgentError(f"the bundle that decided is of another version: {error}") from None


def _as_json(bundle: Bundle, explanation: Explanation) -> dict[str, Any]:
    verdict = explanation.verdict
    return {
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest.hex()},
        "outcome": verdict.outcome.value,
        "reasons": list(verdict.reasons),
        "errors": list(verdict.errors),
        "redact": sorted(verdict.redact),
        "policies": [policy.as_json() for policy in explanation.policies],
    }


def _show(request: PolicyRequest, explanation: Explanation) -> None:
    verdict = explanation.verdict
    click.echo(
        f"  {request.principal[0]}::{request.principal[1]} {request.action} "
        f"{request.resource[0]}::{request.resource[1]}, phase {request.phase.value}"
    )
    masked = f", masks {', '.join(sorted(verdict.redact))}" if verdict.redact else ""
    click.echo(f"  outcome: {verdict.outcome.value} ({', '.join(verdict.reasons)}){masked}")
    for error in verdict.errors:
        click.echo(f"  error: {printable(error)}")
    for policy in sorted(explanation.policies, key=lambda p: (not p.decided, not p.applies)):
        _show_policy(policy)
    click.echo("")


def _show_policy(explained: Explained) -> None:
    policy = explained.policy
    mark = "*" if explained.decided else "+" if explained.applies else "-"
    what = "permit" if policy.effect == "permit" else f"forbid ({policy.outcome.value})"
    click.echo(
        f"  {mark} {policy.id}: {what}, {printable(explained.why)}  [{policy.file}:{policy.line}]"
    )
    for part in explained.parts:
        answer = {True: "true", False: "false", None: "error"}[part.holds]
        values = ", ".join(f"{name} = {_value(value)}" for name, value in part.claims.items())
        click.echo(
            f"        {answer:<5} {printable(part.text)}"
            + (f"   where {printable(values)}" if values else "")
        )


def _value(value: object) -> str:
    return "absent" if value is None else json.dumps(value)
