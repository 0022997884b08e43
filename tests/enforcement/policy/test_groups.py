"""Groups of a caller's credential are Cedar entities beside the bundle's own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from enforcement.outcome import Outcome
from enforcement.policy.engine import Engine
from tests.enforcement.bundles import ask, engine

POLICIES = """
@id("staff") permit (principal in Lucid::Group::"staff", action, resource);
@id("acme") permit (principal in Lucid::Organization::"acme", action, resource);
@id("robots") permit (principal is Lucid::APIKey, action, resource);
"""

ENTITIES = json.dumps(
    [
        {
            "uid": {"type": "Lucid::Group", "id": "sales"},
            "attrs": {},
            "parents": [{"type": "Lucid::Organization", "id": "acme"}],
        },
        {
            "uid": {"__entity": {"type": "Lucid::User", "id": "bob"}},
            "attrs": {"email": "bob@acme.example"},
            "parents": [{"type": "Lucid::Group", "id": "staff"}],
        },
    ]
)


@pytest.fixture
def decides(tmp_path: Path) -> Engine:
    return engine(tmp_path, POLICIES, entities=ENTITIES)


def reasons(decides: Engine, *groups: str, principal: tuple[str, str] = ("User", "alice")) -> str:
    request = msgspec.structs.replace(ask(principal=principal), groups=groups)
    return " ".join(decides.decide(request).reasons)


def test_a_group_of_the_credential_counts_as_one_of_the_bundle(decides: Engine) -> None:
    assert reasons(decides) == "default_deny"
    assert reasons(decides, "staff") == "staff"
    assert reasons(decides, "other") == "default_deny"
    assert reasons(decides) == "default_deny"  # nothing of the former is left


def test_the_groups_own_parents_are_the_bundles(decides: Engine) -> None:
    assert reasons(decides, "sales") == "acme"
    assert reasons(decides, "sales", "staff") == "acme staff"


def test_somebody_whom_the_bundle_lists_keeps_its_groups(decides: Engine) -> None:
    bob = ("User", "bob")
    assert reasons(decides, principal=bob) == "staff"
    assert reasons(decides, "sales", principal=bob) == "acme staff"
    assert reasons(decides, "staff", principal=bob) == "staff"


def test_groups_of_one_do_not_count_for_another(decides: Engine) -> None:
    assert reasons(decides, "staff") == "staff"
    assert reasons(decides, principal=("User", "carol")) == "default_deny"


def test_whom_a_policy_names_is_known_beside_whoever_asks(tmp_path: Path) -> None:
    text = """
    @id("while-bob-is-staff") permit (principal in Lucid::Group::"sales", action, resource)
    when { Lucid::User::"bob" in Lucid::Group::"staff" && Lucid::User::"bob" has email };
    """
    decides = engine(tmp_path, text, entities=ENTITIES)
    assert reasons(decides, "sales") == "while-bob-is-staff"
    assert reasons(decides, "sales", principal=("User", "bob")) == "while-bob-is-staff"
    assert reasons(decides, "other") == "default_deny"


def test_a_directory_of_thousands_costs_nothing_for_each_who_has_groups(tmp_path: Path) -> None:
    """It would be copied on the event loop, 90 ms each, and a thousand copies kept."""
    users = [
        {
            "uid": {"type": "Lucid::User", "id": f"u{number}"},
            "attrs": {},
            "parents": [{"type": "Lucid::Group", "id": "many"}],
        }
        for number in range(6000)
    ]
    text = '@id("many") permit (principal in Lucid::Group::"many", action, resource);' + POLICIES
    decides = engine(tmp_path, text, entities=json.dumps(users))
    start = time.process_time()
    for number in range(100):
        assert reasons(decides, "staff", principal=("User", f"u{number}")) == "many staff"
        assert reasons(decides, "staff", principal=("User", f"new{number}")) == "staff"
    assert time.process_time() - start < 2  # seconds; usually a tenth of that


@pytest.mark.parametrize("kind", ["Group", "Workspace", "Agent", "Service"])
def test_nor_does_a_bundle_of_thousands_of_anything_else(tmp_path: Path, kind: str) -> None:
    """More than 1 MB was kept, and 8 ms spent on the event loop, for each user with a group."""
    many = [
        {
            "uid": {"type": f"Lucid::{kind}", "id": f"e{number}"},
            "attrs": {},
            "parents": [{"type": "Lucid::Organization", "id": "acme"}],
        }
        for number in range(6_000)
    ]
    decides = engine(tmp_path, POLICIES, entities=json.dumps([*many, *json.loads(ENTITIES)]))
    start = time.process_time()
    for number in range(300):
        assert reasons(decides, "sales", principal=("User", f"u{number}")) == "acme"
    assert time.process_time() - start < 1  # seconds; usually a tenth of that


def test_a_resource_is_where_the_bundle_puts_it_for_those_with_groups_too(tmp_path: Path) -> None:
    text = """
    @id("prod") permit (principal in Lucid::Group::"staff", action, resource)
    when { resource in Lucid::Organization::"acme" && resource has name && resource.name == "d" };
    """
    entities = [
        {
            "uid": {"type": "Lucid::Agent", "id": "demo"},
            "attrs": {"name": "d"},
            "parents": [{"type": "Lucid::Workspace", "id": "w"}],
        },
        {
            "uid": {"type": "Lucid::Workspace", "id": "w"},
            "attrs": {},
            "parents": [{"type": "Lucid::Organization", "id": "acme"}],
        },
    ]
    decides = engine(tmp_path, text, entities=json.dumps(entities))
    here = msgspec.structs.replace(ask(), groups=("staff",))
    assert decides.decide(here).reasons == ("prod",)
    there = msgspec.structs.replace(here, resource=("Agent", "other"))
    assert decides.decide(there).reasons == ("default_deny",)
    assert decides.decide(here).reasons == ("prod",)


def test_only_users_have_groups(decides: Engine) -> None:
    assert reasons(decides, principal=("APIKey", "k")) == "robots"
    assert reasons(decides, "staff", principal=("APIKey", "k")) == "no_decision"


@pytest.mark.parametrize("group", ["\ud800", "x" * 257])
def test_a_group_that_cannot_be_an_id_denies(decides: Engine, group: str) -> None:
    request = msgspec.structs.replace(ask(), groups=(group,))
    assert decides.decide(request).outcome is Outcome.DENY
