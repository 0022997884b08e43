"""A recorded decision is decided again with what was recorded, and what is assumed is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.api.decisions import as_json
from attestation.records import DecisionRecord, decode_record, encode_record
from enforcement.outcome import Phase, Platform
from enforcement.policy.bundle import Bundle
from enforcement.policy_view import Asked, Findings, denied, record_of
from enforcement.snapshot import Snapshot
from lucid.policy.agent_client import AgentError
from lucid.policy.reasons import explain_request
from lucid.policy.recorded import request_of
from tests.enforcement.bundles import PERMIT, PLATFORM, ask, write

STAFF = '@id("staff") permit (principal in Lucid::Group::"staff", action, resource);'
WARD = '@id("ward") forbid (principal in Lucid::Group::"ward", action, resource);'
HARDWARE = (
    '@id("hardware") forbid (principal, action, resource) '
    "unless { context.platform.hardware_attested };"
)
OBLIGED = '@id("obliged") @require_hardware permit (principal, action, resource);'
PRESENT = {
    "tee_type": "tdx",
    "hardware_attested": True,
    "tcb_status": "now",
    "simulated": False,
}
STANDING: dict[str, Any] = {"platform": PRESENT, "in_force": {"passport": "pass-2"}}


def bundle(folder: Path, text: str, entities: str | None = None) -> Bundle:
    return Bundle.load(write(folder, text, entities=entities))


def recorded(
    found: Bundle,
    *,
    groups: tuple[str, ...] = ("staff", "secret-society"),
    principal: tuple[str, str] = ("User", "alice"),
    platform: Platform = PLATFORM,
) -> dict[str, Any]:
    """A record as a door makes it and the local API shows it."""
    asked = Asked(
        snapshot=Snapshot(
            engine=None,  # type: ignore[arg-type]  # nobody is asked
            bundle=found,
            passport_id="pass-1",
            platform=platform,
            agent_id="demo",
        ),
        route="chat",
        principal=principal,
        groups=groups,
        trace_id="0" * 32,
        request_id="req-1",
        salt=b"",
        clock=lambda: 0,
        random=bytes,
    )
    findings = Findings(phase=Phase.REQUEST, decision_id="dec-1", claims=dict(ask().claims))
    record = record_of(asked, findings, denied("x"), model="m")
    return as_json(placed(record))


def placed(record: DecisionRecord) -> Any:
    return decode_record(
        encode_record(record, agent="a", boot=bytes(16), seq=1, wall_ns=1, boot_ns=1)
    )


def old(decision: dict[str, Any]) -> dict[str, Any]:
    """The same as an older agent recorded it."""
    return decision | {"groups": None, "platform": None}


def test_a_record_holds_the_groups_that_can_matter_and_no_others(tmp_path: Path) -> None:
    found = bundle(tmp_path, STAFF)
    decision = recorded(found)
    assert decision["groups"] == ["staff"]
    request, basis = request_of(decision, STANDING, [found])
    assert request.groups == ("staff",)
    assert basis.exact
    assert basis.groups == "recorded"
    assert recorded(found, groups=("other",))["groups"] == []
    assert recorded(found, principal=("APIKey", "ci"), groups=())["groups"] is None


def test_groups_that_entities_put_into_an_organisation_can_matter(tmp_path: Path) -> None:
    entities = """[{"uid": {"type": "Lucid::Group", "id": "sales"}, "attrs": {}, "parents":
        [{"type": "Lucid::Organization", "id": "acme"}]},
        {"uid": {"type": "Lucid::User", "id": "bob"}, "attrs": {}, "parents":
        [{"type": "Lucid::Group", "id": "bobs"}]}]"""
    text = '@id("acme") permit (principal in Lucid::Organization::"acme", action, resource);'
    found = bundle(tmp_path, text, entities)
    assert found.groups == {"sales", "bobs"}
    assert recorded(found, groups=("sales", "x"))["groups"] == ["sales"]


@pytest.mark.parametrize(
    "text",
    [
        PERMIT,
        '@id("g") @description("Lucid::Group") permit (principal, action, resource);',
        PERMIT.replace(";", ' when { context.claims.language == "staff" };'),
    ],
)
def test_a_bundle_that_names_no_group_and_no_platform_records_neither(
    tmp_path: Path, text: str
) -> None:
    found = bundle(tmp_path, text)
    decision = recorded(found)
    assert (decision["groups"], decision["platform"]) == (None, None)
    request, basis = request_of(decision, {"platform": None, "in_force": None}, [found])
    assert basis.exact
    assert basis.as_json() == {"platform": "not read", "groups": "not read"}
    assert not request.platform.hardware_attested


@pytest.mark.parametrize(
    "text",
    [
        HARDWARE,
        OBLIGED,
        '@id("w") permit (principal, action, resource) when { context == context };',
        '@id("w") permit (principal, action, resource) when { context.platform has simulated };',
        PERMIT.replace(";", " when { context.platform == context.platform };"),
    ],
)
def test_a_record_holds_the_platform_that_policies_saw(tmp_path: Path, text: str) -> None:
    found = bundle(tmp_path, text)
    decision = recorded(found)
    request, basis = request_of(decision, STANDING, [found])
    assert request.platform == PLATFORM
    assert request.platform.tee_type != PRESENT["tee_type"]
    assert basis.exact
    assert basis.platform == "recorded"


def test_what_an_older_record_does_not_say_is_assumed_and_said(tmp_path: Path) -> None:
    found = bundle(tmp_path, STAFF + HARDWARE)
    decision = old(recorded(found))
    request, basis = request_of(decision, STANDING, [found])
    assert request.platform.tee_type == "tdx"
    assert request.groups == ()
    assert not basis.exact
    assert basis.lines() == [
        "platform assumed: the agent's present one",
        "groups assumed: none",
    ]
    with pytest.raises(AgentError, match="not attested yet"):
        request_of(decision, {"platform": None, "in_force": None}, [found])


def test_the_passport_of_the_record_says_the_platform_while_it_is_in_force(tmp_path: Path) -> None:
    found = bundle(tmp_path, HARDWARE)
    standing = STANDING | {"in_force": {"passport": "pass-1"}}
    _, basis = request_of(old(recorded(found)), standing, [found])
    assert basis.exact
    assert basis.platform == "of the same passport"


def test_another_bundle_may_ask_for_groups_that_were_nobodys_business(tmp_path: Path) -> None:
    deciding, other = bundle(tmp_path / "a", STAFF), bundle(tmp_path / "b", STAFF + WARD)
    decision = recorded(deciding)
    _, basis = request_of(decision, STANDING, [other])
    assert basis.groups == "assumed: none but those that the deciding bundle names"
    _, basis = request_of(decision, STANDING, [other], deciding=deciding)
    assert not basis.exact
    wide, narrow = recorded(other), deciding
    assert not request_of(wide, STANDING, [narrow])[1].exact  # nobody knows what decided it
    assert request_of(wide, STANDING, [narrow], deciding=other)[1].exact
    assert request_of(wide, STANDING, [narrow, other])[1].exact
    assert not request_of(recorded(bundle(tmp_path / "c", PERMIT)), STANDING, [narrow])[1].exact


def test_a_group_of_the_record_is_explained_as_one(tmp_path: Path) -> None:
    found = bundle(tmp_path, STAFF)
    request, _ = request_of(recorded(found), STANDING, [found])
    explanation = explain_request(found, request)
    assert explanation.verdict.reasons == ("staff",)
    [staff] = explanation.policies
    assert (staff.applies, staff.decided) == (True, True)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": 3},
        {"platform": {}},
        {"platform": "tdx"},
        {"principal": []},
        {"claims": []},
        {"phase": "x"},
    ],
)
def test_an_answer_that_is_not_understood_is_an_error(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    found = bundle(tmp_path, STAFF + HARDWARE)
    with pytest.raises(AgentError, match="not understood"):
        request_of(recorded(found) | change, STANDING, [found])
