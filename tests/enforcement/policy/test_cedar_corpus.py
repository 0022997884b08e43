"""Cedar's own test data, decided by our loader and evaluator: same decisions, reasons and errors.

Every policy is renamed on the way (as `@id` does it in bundles), and each request is asked of one
set, of a slice of it, and of the cache, so this holds for the code path that bundles take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from enforcement.policy.policies import (
    CedarError,
    Entities,
    PolicyStore,
    Ruling,
    Schema,
    TemplateLink,
    Uid,
)
from enforcement.policy.policy_source import PolicySource, parse_policies
from enforcement.policy.slicing import PolicyIndex

# Two of the examples have entities that their own schema does not allow (a wrong type of ACL, a
# wrong parent); Cedar refuses them when it is asked to check.
ODD_ENTITIES = ("document_cloud", "github_example")

_UID = re.compile(r'((?:\w+::)*\w+)::("(?:\\.|[^"\\])*")')


@dataclass
class Tally:
    """What was asserted, so that nothing vanishes unseen."""

    requests: int = 0
    allowed: int = 0
    reasons: int = 0
    policies: int = 0
    sliced: int = 0  # policies that were left out, over all requests
    files: set[Path] = field(default_factory=set)


def uid(value: str | dict[str, str]) -> Uid:
    """An entity uid in either of the two spellings of the test data."""
    if isinstance(value, dict):
        return value["type"], value["id"]
    match = _UID.fullmatch(value)
    assert match, value
    return match[1], json.loads(match[2])


def load(path: Path, tally: Tally) -> list[PolicySource]:
    text = path.read_text(encoding="utf-8")
    policies, problems = parse_policies(path.name, text)
    assert not problems
    tally.policies += len(policies)
    for policy in policies:  # the scanner splits and places as Cedar does
        assert policy.statement is not None
        again, problems = parse_policies("again", policy.statement.text())
        assert not problems
        assert [entry.est for entry in again] == [policy.est]
        assert text.count("\n", 0, policy.statement.start) + 1 == policy.line
    return policies


def store_of(
    policies: list[PolicySource],
    *,
    entities: str,
    schema: Schema | None,
    links: tuple[TemplateLink, ...] = (),
    check_entities: bool = True,
) -> PolicyStore:
    """A store whose policies are called `renamed-N` where Cedar would say `policyN`."""
    return PolicyStore(
        {f"renamed-{p.position}": p.est for p in policies if not p.template},
        templates={template_name(p): p.est for p in policies if p.template},
        entities=Entities(entities, schema if check_entities else None),
        schema=schema,
        links=links,
    )


def template_name(policy: PolicySource) -> str:
    return policy.annotations.get("id", f"policy{policy.position}")


def renamed(reasons: list[str], policies: list[PolicySource]) -> tuple[str, ...]:
    """Expected reasons (positional, or by `@id`) under the names of `store_of`."""
    names = {f"policy{p.position}": f"renamed-{p.position}" for p in policies}
    names |= {p.annotations["id"]: f"renamed-{p.position}" for p in policies if p.annotations}
    return tuple(sorted(names[reason] for reason in reasons))


def index_of(store: PolicyStore) -> PolicyIndex:
    """The same policies, sliced, with a cache."""
    return PolicyIndex(
        store._policies,
        entities=store._entities,
        schema=store._schema,
        templates=store._templates,
        links=store._links,
        cache_size=16,
    )


def assert_answer(
    store: PolicyStore,
    request: dict[str, Any],
    *,
    decision: str,
    tally: Tally,
    reasons: tuple[str, ...] | None = None,
    errors: int = 0,
) -> None:
    index = index_of(store)
    for same in (store, store.without(frozenset()), index, index):
        answer = same.evaluate(
            principal=uid(request["principal"]),
            action=uid(request["action"]),
            resource=uid(request["resource"]),
            context=json.dumps(request.get("context", {})),
        )
        assert answer.ruling is Ruling(decision.lower())
        assert answer.allowed == (decision.lower() == "allow")
        assert len(answer.faults) == errors
        if reasons is not None:
            assert answer.reasons == reasons
    assert index.cache_counts() == (1, 1)
    tally.sliced += len(index.whole) - len(
        index.slice(*(uid(request[part]) for part in ("principal", "action", "resource")))
    )
    tally.requests += 1
    tally.allowed += decision.lower() == "allow"
    tally.reasons += len(reasons or ())


def test_the_integration_tests_are_decided_as_cedar_says(vectors: Path) -> None:
    root = vectors / "cedar" / "integration-tests"
    tally = Tally()
    for path in sorted(root.glob("tests/*/*.json")):
        case = json.loads(path.read_text())
        schema = Schema((root / case["schema"]).read_text())
        policies = load(root / case["policies"], tally)
        complaints = [c for policy in policies for c in schema.validate(policy.as_text())]
        assert bool(complaints) is not case["shouldValidate"], (path, complaints)
        store = store_of(policies, entities=(root / case["entities"]).read_text(), schema=schema)
        for request in case["requests"]:
            assert_answer(
                store,
                request,
                decision=request["decision"],
                reasons=renamed(request["reason"], policies),
                errors=len(request["errors"]),
                tally=tally,
            )
        tally.files.add(path)
    assert len(tally.files) == 22
    assert tally.requests == 74
    assert tally.allowed == 38
    assert tally.policies == 30
    assert tally.sliced == 9


def _use_cases(root: Path) -> Iterator[tuple[Path, Path, Path, Path]]:
    """Folder, policies, schema and entities of each example."""
    for folder in sorted({path.parent for path in root.rglob("ALLOW")}):
        policies = next(folder.glob("*.cedar"))
        entities = next(folder.glob("*entities.json"))
        yield folder, policies, next(folder.glob("*.cedarschema")), entities


def test_the_example_use_cases_are_decided_as_their_folders_say(vectors: Path) -> None:
    tally = Tally()
    links_seen = 0
    for folder, file, schema_file, entities in _use_cases(vectors / "cedar" / "examples"):
        schema = Schema(schema_file.read_text())
        policies = load(file, tally)
        linked = folder / "linked"
        links = tuple(
            TemplateLink(
                template=entry["template_id"],
                link=entry["link_id"],
                values={slot: uid(value) for slot, value in entry["args"].items()},
            )
            for entry in (json.loads(linked.read_text()) if linked.exists() else [])
        )
        links_seen += len(links)
        store = store_of(
            policies,
            entities=entities.read_text(),
            schema=schema,
            links=links,
            check_entities=folder.name not in ODD_ENTITIES,
        )
        for decision in ("ALLOW", "DENY"):
            for path in sorted((folder / decision).glob("*.json")):
                request = json.loads(path.read_text())
                assert_answer(store, request, decision=decision, tally=tally)
        tally.files.add(folder)
    assert len(tally.files) == 11
    assert tally.requests == 72
    assert links_seen == 9
    assert tally.sliced == 161


@pytest.mark.parametrize("name", ODD_ENTITIES)
def test_entities_that_do_not_conform_to_the_schema_are_refused(vectors: Path, name: str) -> None:
    folder = vectors / "cedar" / "examples" / "cedar-example-use-cases" / name
    schema = Schema((folder / "policies.cedarschema").read_text())
    with pytest.raises(CedarError):
        Entities((folder / "entities.json").read_text(), schema)


def test_the_command_line_samples_are_decided_as_their_test_files_say(vectors: Path) -> None:
    tally = Tally()
    for path in sorted((vectors / "cedar" / "cli-sample-data").rglob("tests-combined.json")):
        policies = load(path.parent / "policy.cedar", tally)
        for case in json.loads(path.read_text()):  # without a schema, as `cedar run-tests` has it
            store = store_of(policies, entities=json.dumps(case["entities"]), schema=None)
            assert_answer(
                store,
                case["request"],
                decision=case["decision"],
                reasons=renamed(case["reason"], policies),
                errors=case["num_errors"],
                tally=tally,
            )
        tally.files.add(path)
    assert len(tally.files) == 7
    assert tally.requests == 28


def test_wrong_expectations_would_be_noticed(vectors: Path) -> None:
    """`tests-fail.json` and its like expect what is not so."""
    folder = vectors / "cedar" / "cli-sample-data" / "tiny_sandboxes" / "sample1"
    tally = Tally()
    policies = load(folder / "policy.cedar", tally)
    names = {f"policy{p.position}": f"renamed-{p.position}" for p in policies}
    noticed = 0
    for name in ("tests-fail.json", "tests-missing-reason.json", "tests-unexpected-error.json"):
        for case in json.loads((folder / name).read_text()):
            store = store_of(policies, entities=json.dumps(case["entities"]), schema=None)
            try:
                assert_answer(
                    store,
                    case["request"],
                    decision=case["decision"],
                    reasons=tuple(sorted(names.get(r, r) for r in case["reason"])),
                    errors=case["num_errors"],
                    tally=tally,
                )
            except AssertionError:
                noticed += 1
    assert noticed >= 3


def test_an_allow_beside_an_overflowing_policy_is_not_permission(vectors: Path) -> None:
    """Sample 10: a policy overflows and Cedar skips it."""
    folder = vectors / "cedar" / "cli-sample-data" / "tiny_sandboxes" / "sample10"
    policies = load(folder / "policy.cedar", Tally())
    for case in json.loads((folder / "tests-error.json").read_text()):
        store = store_of(policies, entities=json.dumps(case["entities"]), schema=None)
        answer = store.evaluate(
            principal=uid(case["request"]["principal"]),
            action=uid(case["request"]["action"]),
            resource=uid(case["request"]["resource"]),
            context="{}",
        )
        assert answer.faults
        assert not answer.allowed


@pytest.mark.parametrize(
    ("folder", "policies", "schema", "valid"),
    [
        ("sandbox_a", "policies_1.cedar", "schema.cedarschema", True),
        ("sandbox_a", "policies_2.cedar", "schema.cedarschema", True),
        ("sandbox_a", "policies_3.cedar", "schema.cedarschema", True),
        ("sandbox_a", "policies_1_bad.cedar", "schema.cedarschema", False),
        ("sandbox_b", "policies_4.cedar", "schema.cedarschema", True),
        ("sandbox_b", "policies_5.cedar", "schema.cedarschema", True),
        ("sandbox_b", "policies_6.cedar", "schema.cedarschema", True),
        ("sandbox_b", "policies_5_bad.cedar", "schema.cedarschema", False),
        ("sandbox_c", "policies.cedar", "schema.cedarschema", True),
        ("tiny_sandboxes/sample9", "policy.cedar", "schema.cedarschema", True),
        ("tiny_sandboxes/sample9", "policy_bad.cedar", "schema.cedarschema", False),
        ("tiny_sandboxes/sample11", "valid_policy.cedar", "schema.cedarschema", True),
        ("tiny_sandboxes/sample11", "invalid_policy.cedar", "schema.cedarschema", False),
    ],
)
def test_sample_policies_validate_or_not_as_their_names_say(
    vectors: Path, folder: str, policies: str, schema: str, valid: bool
) -> None:
    root = vectors / "cedar" / "cli-sample-data" / folder
    checker = Schema((root / schema).read_text())
    text = (root / policies).read_text()
    sources, problems = parse_policies(policies, text)
    complaints = [c for source in sources for c in checker.validate(source.as_text())]
    assert (not problems and not complaints) is valid
    # What is validated is what was parsed: Cedar says the same of the file itself.
    assert cedarpy.validate_policies(text, checker.handle).validation_passed is valid
