"""Cedarling and OPA's Go engine on the decisions of `benchmarks.policy`. Runs in `.venv-policy`.

Reads the cases as JSON from standard input; writes microseconds by engine and case.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / ".venv-policy" / "opa"), str(ROOT)]

from benchmarks.timing import microseconds  # noqa: E402  # a script, in another environment

ROUNDS, CALLS = 15, 300


def typical(call: Callable[[], object]) -> float:
    """Microseconds: the median over the rounds."""
    return statistics.median(microseconds(call, rounds=ROUNDS, calls=CALLS))


def cedarling(case: dict[str, Any]) -> float:
    import cedarling_python as peer  # noqa: PLC0415  # one that is not there must not hide the other

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        (store / "policies").mkdir()
        about = {"id": "abc123def456", "name": "bench", "version": "1.0.0"}
        (store / "metadata.json").write_text(
            json.dumps({"cedar_version": "4.4.0", "policy_store": about})
        )
        (store / "schema.cedarschema").write_text(case["schema"])
        for name, text in case["policies"].items():
            (store / "policies" / f"{name}.cedar").write_text(text)
        engine = peer.Cedarling(
            peer.BootstrapConfig(
                {
                    "CEDARLING_APPLICATION_NAME": "bench",
                    "CEDARLING_POLICY_STORE_LOCAL_FN": str(store),
                    "CEDARLING_LOG_TYPE": "off",
                    "CEDARLING_JWT_SIG_VALIDATION": "disabled",
                    "CEDARLING_JWT_STATUS_VALIDATION": "disabled",
                }
            )
        )

        def entity(kind: str, name: str) -> Any:
            return peer.EntityData.from_dict(
                {"cedar_entity_mapping": {"entity_type": f"Bench::{kind}", "id": name}}
            )

        action = f'Bench::Action::"{case["action"]}"'
        principal, resource = entity("User", case["principal"]), entity("Agent", "demo")

        def decide() -> Any:
            request = peer.RequestUnsigned(
                principal=principal, action=action, resource=resource, context=case["context"]
            )
            return engine.authorize_unsigned(request)

        assert decide().is_allowed() == case["allowed"]
        return typical(decide)


def opa(case: dict[str, Any]) -> float:
    from opa_bindings import OpaEngine  # noqa: PLC0415

    with OpaEngine() as engine:
        engine.add_policy("bench.rego", case["rego"])
        given = {
            "principal": case["principal"],
            "action": case["action"],
            "context": case["context"],
        }

        def decide() -> Any:
            return engine.eval_document("bench.allow", given)

        assert decide() == case["allowed"], decide()
        return typical(decide)


def main() -> None:
    found: dict[str, dict[str, float | str]] = {}
    for case in json.load(sys.stdin):
        for name, measure in (
            ("Cedarling 2.5.20", cedarling),
            ("OPA 1.20, Go engine", opa),
        ):
            try:
                found.setdefault(name, {})[case["name"]] = measure(case)
            except Exception as error:  # noqa: BLE001  # a peer that cannot be had is said, not hidden
                found.setdefault(name, {})[case["name"]] = f"{type(error).__name__}: {error}"
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
