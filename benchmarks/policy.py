"""`make bench-policy`: our decisions beside plain Cedar, Cedarling and OPA's Go engine."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.timing import microseconds
from enforcement.outcome import Phase, Platform, PolicyRequest
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from enforcement.policy.engine_parts import plain_store
from enforcement.policy.policies import Entities, PolicyStore, Schema
from enforcement.policy.policy_source import parse_policies
from enforcement.policy.slicing import PolicyIndex

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_name("RESULTS-POLICY.md")
PEERS = ROOT / ".venv-policy" / "bin" / "python"
ROUNDS, CALLS = 15, 300
CLAIMS = {
    "injection_risk": 100,
    "language": "en",
    "pii_found": False,
    "secret_leaked": False,
    "tokens": 10,
}
MANIFEST = "".join(
    [
        'name = "bench"\nversion = "1"\n',
        *(
            f'[claims.{name}]\ntype = "{kind}"\nsource = "{source}"\n'
            for name, kind, source in (
                ("injection_risk", "score", "auditor:bench"),
                ("language", "string", "auditor:bench"),
                ("pii_found", "bool", "builtin"),
                ("secret_leaked", "bool", "builtin"),
                ("tokens", "integer", "auditor:bench"),
            )
        ),
    ]
)
ACTIONS = ", ".join(f'"a{number}"' for number in range(10))
SCHEMA = f"""namespace Bench {{
  entity User; entity Agent;
  action {ACTIONS} appliesTo {{ principal: [User], resource: [Agent], context: {{ claims: {{
    injection_risk: Long, language: String, pii_found: Bool, secret_leaked: Bool, tokens: Long
  }} }} }};
}}"""
CONDITIONS = (
    ("context.claims.injection_risk > {}", "input.context.claims.injection_risk > {}"),
    ("context.claims.tokens > {}", "input.context.claims.tokens > {}"),
    (
        'context.claims.pii_found && context.claims.language == "x{}"',
        'input.context.claims.pii_found; input.context.claims.language == "x{}"',
    ),
)
NOTE = """\
Microseconds for one decision: the request is given as values, the answer is read. *cond*: the
condition of every policy of the action is evaluated; *scoped*: every policy is for another
principal. Ours checks each claim and merges obligations; the index alone
(`enforcement/policy/slicing.py`) does neither, like the peers. *Remembered* is an equal request
again; the peers remember nothing. Plain Cedar is cedarpy 4.12.2 with parsed policies, entities and
schema. The engine's first table has the bundle's own two actions, for ten actions there is the
index."""


def typical(call: Callable[[], object]) -> float:
    """Microseconds: the median over the rounds."""
    return statistics.median(microseconds(call, rounds=ROUNDS, calls=CALLS))


# -- the engine -----------------------------------------------------------------------------------


def engine_rows() -> dict[str, float]:
    """Ten policies in a bundle: 1 permit and 9 forbids, all of them evaluated."""
    text = '@id("allow") permit (principal, action, resource);'
    for number in range(9):
        condition = CONDITIONS[number % 3][0].format(9000 + number)
        text += (
            f'@id("p{number}") forbid (principal, action == Lucid::Action::"invoke", resource)'
            f" when {{ {condition} }};"
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "policies").mkdir()
        (Path(folder) / "bundle.toml").write_text(MANIFEST)
        (Path(folder) / "policies" / "p.cedar").write_text(text)
        bundle = Bundle.load(Path(folder))
    request = PolicyRequest(
        principal=("User", "alice"),
        action="invoke",
        resource=("Agent", "demo"),
        phase=Phase.REQUEST,
        claims=CLAIMS,
        trace_id="0" * 32,
        platform=Platform(
            tee_type="sev-snp", hardware_attested=True, tcb_status="appraised", simulated=False
        ),
    )
    fresh, kept = Engine(bundle, cache_size=0), Engine(bundle)
    plain = plain_store(bundle, Phase.REQUEST)
    context = {
        "claims": CLAIMS,
        "phase": "request",
        "trace_id": "0" * 32,
        "platform": msgspec.to_builtins(request.platform),
    }
    requests = [msgspec.structs.replace(request, trace_id=f"{number:032}") for number in range(4)]
    assert fresh.decide(request).reasons == kept.decide(request).reasons == ("allow",)
    return {
        "the engine": typical(lambda: fresh.decide(request)),
        "the engine, remembered": typical(lambda: [kept.decide(r) for r in requests]) / 4,
        "plain Cedar, whole context, schema": typical(
            lambda: plain.evaluate(
                principal=("Lucid::User", "alice"),
                action=("Lucid::Action", "invoke"),
                resource=("Lucid::Agent", "demo"),
                context=json.dumps(context),
            )
        ),
    }


# -- the index and the peers ----------------------------------------------------------------------


def case(name: str, policies: int, actions: int, *, scoped: bool) -> dict[str, Any]:
    """The same policies as Cedar and as Rego."""
    cedar: dict[str, str] = {}
    rego = ["package bench", "default allow := false", "allow if { permitted; not forbidden }"]
    for action in range(actions):
        name_of = f"allow-{action}"
        cedar[name_of] = (
            f'@id("{name_of}") permit (principal, action == Bench::Action::"a{action}", resource);'
        )
        rego.append(f'permitted if input.action == "a{action}"')
    for number in range(policies - actions):
        action = number % actions
        condition, theirs = (text.format(9000 + number) for text in CONDITIONS[number % 3])
        who = f' == Bench::User::"u{number}"' if scoped else ""
        cedar[f"p{number}"] = (
            f'@id("p{number}") forbid (principal{who}, action == Bench::Action::"a{action}",'
            f" resource) when {{ {condition} }};"
        )
        same = f'input.principal == "u{number}"; ' if scoped else ""
        rego.append(f'forbidden if {{ input.action == "a{action}"; {same}{theirs} }}')
    return {
        "name": name,
        "policies": cedar,
        "rego": "\n".join(rego) + "\n",
        "schema": SCHEMA,
        "principal": "alice",
        "action": "a3" if actions > 3 else "a0",
        "context": {"claims": CLAIMS},
        "allowed": True,
    }


CASES = (
    case("10 policies", 10, 1, scoped=False),
    case("1,000 over 10 actions, scoped", 1000, 10, scoped=True),
    case("1,000 over 10 actions, cond", 1000, 10, scoped=False),
)


def ours(given: dict[str, Any]) -> dict[str, float]:
    """The index, with and without its cache, and one set of everything."""
    sources, problems = parse_policies("p.cedar", "\n".join(given["policies"].values()))
    assert not problems
    policies = {source.annotations["id"]: source.est for source in sources}
    entities, schema = Entities("[]"), Schema(given["schema"])
    fresh = PolicyIndex(policies, entities=entities, action_groups=False)
    kept = PolicyIndex(policies, entities=entities, action_groups=False, cache_size=64)
    plain = PolicyStore(policies, entities=entities, schema=schema)

    def ask(store: PolicyIndex | PolicyStore) -> None:
        answer = store.evaluate(
            principal=("Bench::User", given["principal"]),
            action=("Bench::Action", given["action"]),
            resource=("Bench::Agent", "demo"),
            context=json.dumps(given["context"]),
        )
        assert answer.allowed == given["allowed"]

    return {
        "our index": typical(lambda: ask(fresh)),
        "our index, remembered": typical(lambda: ask(kept)),
        "plain Cedar with schema": typical(lambda: ask(plain)),
    }


def peers() -> dict[str, dict[str, float | str]]:
    """What runs in the other environment."""
    done = subprocess.run(
        [str(PEERS), str(Path(__file__).with_name("peer_policy.py"))],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        check=True,
        timeout=170,
    )
    found: dict[str, dict[str, float | str]] = json.loads(done.stdout)
    return found


def shown(value: float | str) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"not measured ({value[:60]})"


def table() -> str:
    lines = ["| 10 policies in a bundle, cond | µs |", "| --- | --- |"]
    lines += [f"| {name} | {shown(value)} |" for name, value in engine_rows().items()]
    rows: dict[str, dict[str, float | str]] = {}
    for given in CASES:
        for name, value in ours(given).items():
            rows.setdefault(name, {})[given["name"]] = value
    rows |= peers()
    lines += ["", f"| µs | {' | '.join(given['name'] for given in CASES)} |"]
    lines.append("|" + " --- |" * (len(CASES) + 1))
    for name, values in rows.items():
        lines.append(f"| {name} | {' | '.join(shown(values[c['name']]) for c in CASES)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULT.name}")
    args = parser.parse_args()
    text = table()
    print(text)
    if args.write:
        when = datetime.now(UTC).date().isoformat()
        RESULT.write_text(
            f"# Policy decisions, measured on {when}, one core\n\nMedians of {ROUNDS} rounds of"
            f" {CALLS} calls. Made by `make bench-policy`; read the ratios.\n\n{NOTE}\n\n{text}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
